"""The store: sequences, receipts by content, and files that are not what they were."""

import datetime as dt
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.clocks import Clock
from agent.outbox import Outbox
from agent.runs import Run
from agent.seal import SealError
from agent.store import BROKEN, FOREIGN, KEPT, NEW, RESTORED, Store
from contexts.meters import Held, Layout
from protocol.plans import Device
from protocol.readings import BatchName, batch_of, rows_digest


def opened(folder: pathlib.Path, gateway: str = "gw-1") -> Store:
    return Store(folder / "agent.db", gateway, Clock())


def put(store: Store, *bodies: bytes) -> None:
    with store.transaction():
        store.readings.append(bodies)


def batch(store: Store, after: int = 0, limit: int = 1000) -> BatchName:
    rows = store.readings.next_rows(after, limit)
    assert rows is not None
    return batch_of(store.id, rows.first, rows.bodies).name


def accept(store: Store, name: BatchName) -> int:
    with store.transaction():
        return store.readings.accept(name)


def snapshot(store: Store, to: pathlib.Path) -> None:
    with sqlite3.connect(store.path) as source, sqlite3.connect(to) as target:
        source.backup(target)
    source.close()
    target.close()


def test_rows_stay_until_exactly_their_receipt_comes(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, b"1" * 20, b"2" * 20, b"3" * 20)
    name = batch(store, limit=59)
    assert (name.first, name.last) == (1, 2)
    for wrong in (
        BatchName(name.store, 1, 2, bytes(16)),
        BatchName(name.store, 1, 3, name.digest),
        BatchName(name.store, 2, 3, name.digest),
        BatchName(name.store, 1, 2**62, name.digest),
    ):
        assert accept(store, wrong) == 0
    assert (store.readings.depth(), store.readings.through()) == (3, 0)
    assert accept(store, name) == 2
    assert accept(store, name) == 0
    assert (store.readings.depth(), store.readings.through()) == (1, 2)
    store.close()


def test_a_sequence_is_never_used_twice_also_after_a_full_drain(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, b"one")
    accept(store, batch(store))
    with store.transaction():
        store._db.execute("DELETE FROM readings")
    assert store.readings.through() == 1
    put(store, b"two")
    assert batch(store).first == 2
    store.close()


def test_the_tail_can_be_asked_for_and_goes_after_a_week(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, b"one", b"two", b"three")
    accept(store, batch(store))
    with store.transaction():
        assert store.readings.send_again(2) == 2
    assert batch(store).first == 2
    accept(store, batch(store))
    put(store, b"four")
    assert pruned_after(store, dt.timedelta(days=6, hours=23)) == 0
    assert pruned_after(store, dt.timedelta(days=7, seconds=1)) == 3
    # What has no receipt stays, however old it is.
    assert pruned_after(store, dt.timedelta(days=4000)) == 0
    rows = store.readings.next_rows(0, 1000)
    assert rows is not None
    assert rows.bodies == [b"four"]
    store.close()


def pruned_after(store: Store, time: dt.timedelta) -> int:
    later = Outbox(store._db, store.readings.channel, lambda: dt.datetime.now(dt.UTC) + time)
    return later.prune()


def test_a_row_set_aside_stops_nobody_and_comes_back(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, b"small", b"L" * 500, b"small")
    with store.transaction():
        store.readings.set_aside(2)
    assert (batch(store).first, batch(store).last) == (1, 1)
    assert batch(store, after=1).first == 3
    assert store.readings.aside() == 1
    with store.transaction():
        assert store.readings.take_back(499) == 0
        assert store.readings.take_back(500) == 1
    assert batch(store).last == 3
    store.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)

    def fail() -> None:
        with store.transaction():
            store.readings.append([b"row"])
            store.memory.keep_held(uuid.uuid4(), 3, _held())
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert store.readings.depth() == 0
    store.close()


def test_a_store_that_goes_on_keeps_its_id_and_raises_its_session(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    first, session = store.id, store.session
    assert store.origin == NEW
    assert store.next_session() == session + 1
    store.close()
    again = opened(tmp_path)
    assert (again.id, again.origin) == (first, KEPT)
    assert again.session > session + 1
    again.close()


def test_a_deleted_store_is_another_one(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    first, session = store.id, store.session
    put(store, b"one")
    store.close()
    store.path.unlink()
    fresh = opened(tmp_path)
    assert fresh.id != first
    assert fresh.origin == NEW
    # The hub never sees a session number fall.
    assert fresh.session > session
    fresh.close()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_store_put_back_is_another_one_and_sends_everything_again(tmp_path: pathlib.Path, in_place: bool) -> None:  # noqa: FBT001 - parametrized
    store = opened(tmp_path)
    put(store, b"one", b"two")
    old = batch(store)
    accept(store, old)
    put(store, b"three")
    snapshot(store, tmp_path / "backup")
    put(store, b"lost on put-back")
    lost = batch(store, after=2)
    assert (lost.first, lost.last) == (3, 4)
    first, session = store.id, store.session
    store.close()
    if in_place:
        store.path.write_bytes((tmp_path / "backup").read_bytes())
    else:
        (tmp_path / "backup").replace(store.path)
    restored = opened(tmp_path)
    assert restored.origin == RESTORED
    assert restored.id != first
    assert restored.session > session
    assert restored.readings.depth() == 3
    # Other content under the sequences that the old store used: old receipts do not fit it.
    put(restored, b"other than before")
    assert accept(restored, lost) == 0
    assert restored.readings.depth() == 4
    restored.close()


def test_a_copy_for_a_second_agent_is_another_store(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path / "a")
    put(store, b"one")
    snapshot(store, tmp_path / "copy")
    with pytest.raises(SealError, match="in use"):
        opened(tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "copy", tmp_path / "b" / "agent.db")
    # Also with the seal beside it.
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    shutil.copy(tmp_path / "a" / "agent.db.seal", tmp_path / "c" / "agent.db.seal")
    copies = [opened(tmp_path / folder) for folder in ("b", "c")]
    assert len({store.id, *(copy.id for copy in copies)}) == 3
    assert [copy.readings.depth() for copy in copies] == [1, 1]
    for one in (store, *copies):
        one.close()


def test_of_another_gateway_s_store_only_what_waits_is_used(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    first = store.id
    put(store, b"delivered")
    accept(store, batch(store))
    put(store, b"waiting")
    with store.transaction():
        store.put("plan", b"another gateway's")
        store.put("hub_key", bytes(32))
    store.close()
    renamed = opened(tmp_path, "gw-2")
    assert renamed.id != first
    assert renamed.origin == FOREIGN
    assert renamed.readings.depth() == 1
    assert renamed.get("plan") is None
    assert renamed.get("hub_key") is None
    renamed.close()
    again = opened(tmp_path, "gw-2")
    assert (again.id, again.origin) == (renamed.id, KEPT)
    again.close()


def test_a_broken_file_is_moved_aside_not_deleted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "agent.db").write_bytes(b"this is no database" * 500)
    store = opened(tmp_path)
    assert store.origin == BROKEN
    put(store, b"one")
    store.close()
    assert (tmp_path / "agent.db.broken-1").read_bytes().startswith(b"this is no database")


def test_a_damaged_page_is_found_when_the_file_was_put_back(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, *(os.urandom(900) for _ in range(100)))
    store.close()
    content = bytearray(store.path.read_bytes())
    page = len(content) // 4096 // 2 * 4096
    content[page : page + 4096] = os.urandom(4096)
    (tmp_path / "damaged").write_bytes(content)
    (tmp_path / "damaged").replace(store.path)
    again = opened(tmp_path)
    assert again.origin == BROKEN
    put(again, b"one")
    again.close()


def test_what_was_committed_survives_sigkill(tmp_path: pathlib.Path) -> None:
    program = (
        "import os, pathlib, sys; from agent.store import Store; from agent.clocks import Clock\n"
        "store = Store(pathlib.Path(sys.argv[1]), 'gw-1', Clock())\n"
        "with store.transaction(): store.readings.append([b'kept'])\n"
        "store._db.execute('BEGIN IMMEDIATE'); store.readings.append([b'not committed'])\n"
        "print(store.id.hex(), flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "agent.db")], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    store = opened(tmp_path)
    assert store.id.hex() == done.stdout.strip()
    rows = store.readings.next_rows(0, 1000)
    assert rows is not None
    assert rows.bodies == [b"kept"]
    store.close()


def test_a_tick_begins_once_and_a_command_s_runs_are_not_ticks(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    device = Device(uuid.uuid4(), "meter", uuid.uuid4(), "UTC")
    tick = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def run(**of: uuid.UUID | dt.datetime) -> Run:
        return Run(uuid.uuid4(), device, "generic_lis200", "read_single_value", {"address": "2:300"}, **of)  # type: ignore[arg-type]  # task, tick or command

    task = uuid.uuid4()
    with store.transaction():
        assert store.runs.begin(run(task=task, tick=tick))
        assert not store.runs.begin(run(task=task, tick=tick))
        assert store.runs.begun(task, device.id, tick, tick) == {tick}
        assert store.runs.begin(run(command=uuid.uuid4()))
        assert store.runs.begin(run(command=uuid.uuid4()))
    assert [(found.task, state) for found, state in store.runs.open()] == [
        (task, "waiting"),
        (None, "waiting"),
        (None, "waiting"),
    ]
    store.close()


def test_memory_of_lines(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    meter, line = uuid.uuid4(), uuid.uuid4()
    layout = Layout(("2:300", ""), ("Vb", "Status"), ("m3", ""))
    assert store.memory.layout(meter, 3) is None
    store.memory.keep_layout(meter, 3, layout)
    with store.transaction():
        store.memory.keep_held(meter, 3, _held())
    store.memory.keep_line_rate(line, 9600)
    store.close()
    again = opened(tmp_path)
    assert again.memory.layout(meter, 3) == layout
    assert again.memory.held(meter, 3) == _held()
    assert again.memory.held(meter, 2) is None
    assert again.memory.line_rate(line) == 9600
    again.memory.keep_line_rate(line, None)
    assert again.memory.line_rate(line) is None
    again.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_in_any_order_of_receipts_every_row_is_sent_until_its_own_has_come(
    tmp_path: pathlib.Path, data: st.DataObject
) -> None:
    store = opened(tmp_path / uuid.uuid4().hex)
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=30))
    put(store, *(os.urandom(size) for size in sizes))
    delivered: set[int] = set()
    for _ in range(200):
        after = data.draw(st.integers(0, len(sizes)))
        rows = store.readings.next_rows(after, data.draw(st.integers(1, 120))) or store.readings.next_rows(0, 120)
        if rows is None:
            break
        name = BatchName(store.id, rows.first, rows.first + len(rows.bodies) - 1, rows_digest(rows.bodies))
        assert accept(store, name) == len(rows.bodies)
        delivered |= set(range(name.first, name.last + 1))
        assert store.readings.depth() == len(sizes) - len(delivered)
    assert delivered == set(range(1, len(sizes) + 1))
    assert store.readings.through() == len(sizes)
    store.close()


def _held() -> Held:
    return Held(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, 6, tzinfo=dt.UTC), 4711)
