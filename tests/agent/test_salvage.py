"""A damaged store: what can be read goes over into a new one, and every row that does not is declared as lost."""

import datetime as dt
import itertools
import os
import pathlib
import random
import uuid

import pytest

from agent.clocks import Clock
from agent.runs import Run
from agent.store import BROKEN, KEPT, Store
from contexts.meters import Held, Layout
from protocol.plans import Device
from protocol.readings import NewMeterReading
from protocol.reports import DONE, LossRecord, RunReport, decode_report
from protocol.wire import encode, parse_decimal

METER, LINE, TASK = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
ROWS = 600
PAGE = 4096


def reading(number: int) -> bytes:
    at = NOW + dt.timedelta(minutes=number)
    return encode(NewMeterReading("M1", "2:300", at, parse_decimal(f"{number}.5"), "m3", METER, at))


def report(number: int) -> bytes:
    return encode(RunReport(uuid.UUID(int=number), METER, DONE, NOW, NOW))


def filled(folder: pathlib.Path, *, close: bool = True) -> Store:
    """Make a store with rows, the first ones delivered and pruned, and everything else that a store holds."""
    store = Store(folder / "agent.db", "gw-1", Clock())
    device = Device(METER, "M1", LINE, "UTC")
    tick = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    with store.transaction():
        store.put("plan", b"\xc1" + os.urandom(40_000))
        store.put("hub_key", b"k" * 32)
        store.runs.begin(Run(uuid.uuid4(), device, "generic_lis200", "read", {}, tick=tick, task=TASK))
        store.memory.keep_layout(METER, 3, Layout(("2:300",), ("Vb",), ("m3",)))
        store.memory.keep_held(METER, 3, Held(tick, tick, 7))
        store.readings.append([reading(number) for number in range(1, ROWS + 101)])
        store.reports.append([report(number) for number in range(1, 201)])
        store._db.execute("UPDATE readings SET receipted_at = 1 WHERE seq <= 100")
    store.prune()
    if close:
        store.close()
    return store


def bodies(store: Store) -> list[bytes]:
    return [body for (body,) in store._db.execute("SELECT body FROM readings UNION ALL SELECT body FROM reports")]


def losses(store: Store) -> list[LossRecord]:
    return [row for (body,) in store._db.execute("SELECT body FROM reports ORDER BY seq")
            if isinstance(row := decode_report(body), LossRecord)]  # fmt: skip


def damage(path: pathlib.Path, *pages: int) -> None:
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    for page in pages:
        content[(page - 1) * size : page * size] = random.Random(page).randbytes(size)  # noqa: S311 - a seed
    path.write_bytes(content)


def reopened(store: Store) -> Store:
    """Open it as after a crash in which damage was noticed."""
    return Store(store.path, "gw-1", Clock())


def doubted(folder: pathlib.Path) -> Store:
    store = filled(folder, close=False)
    store.doubt()
    store.close()
    return store


def test_a_store_that_is_doubted_but_whole_goes_on_under_a_new_id(tmp_path: pathlib.Path) -> None:
    store = doubted(tmp_path)
    again = reopened(store)
    assert again.origin not in {BROKEN, KEPT}
    assert again.id != store.id
    assert again.session > store.session
    assert again.readings.depth() == ROWS
    again.close()


def test_without_its_first_page_everything_else_is_carried_over(tmp_path: pathlib.Path) -> None:
    store = doubted(tmp_path)
    damage(store.path, 1)
    again = reopened(store)
    assert (again.origin, again.id != store.id) == (BROKEN, True)
    found = set(bodies(again))
    assert found >= {reading(number) for number in range(101, ROWS + 101)} | {report(n) for n in range(1, 201)}
    assert again.get("hub_key") == b"k" * 32
    assert len(again.get("plan")) == 40_001
    assert again.memory.layout(METER, 3) is not None
    # Held would say that rows are stored which may be lost: the meter is asked again.
    assert again.memory.held(METER, 3) is None
    ((run, state),) = again.runs.open()
    assert (run.task, state) == (TASK, "waiting")
    assert not losses(again)
    assert (tmp_path / "agent.db.broken-1").exists()
    again.close()
    assert reopened(store).origin == KEPT


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_carried_over_or_declared(tmp_path: pathlib.Path, seed: int) -> None:
    store = doubted(tmp_path)
    size = int.from_bytes(store.path.read_bytes()[16:18], "big")
    pages = store.path.stat().st_size // size
    damage(store.path, *random.Random(seed).sample(range(1, pages + 1), k=1 + seed * pages // 10))  # noqa: S311
    again = reopened(store)
    if again.origin != BROKEN:
        # Damage where nothing lies.
        assert again.readings.depth() == ROWS
    found = set(bodies(again))
    declared = {"readings": 0, "reports": 0}
    for loss in losses(again):
        declared[loss.series] += loss.count
        assert "damaged" in loss.reason
    missing_readings = sum(reading(number) not in found for number in range(101, ROWS + 101))
    missing_reports = sum(report(number) not in found for number in range(1, 201))
    unknown = {loss.series for loss in losses(again) if "not known" in loss.reason}
    assert missing_readings <= declared["readings"] or "readings" in unknown
    assert missing_reports <= declared["reports"] or "reports" in unknown
    if missing_readings:
        assert losses(again)
    again.close()


def test_what_only_the_log_holds_is_carried_over(tmp_path: pathlib.Path) -> None:
    store = filled(tmp_path, close=False)
    with store.transaction():
        store.readings.append([reading(5000)])
    store.doubt()
    folder = tmp_path / "copy"
    folder.mkdir()
    for suffix in ("", "-wal", ".seal"):
        (folder / f"agent.db{suffix}").write_bytes((tmp_path / f"agent.db{suffix}").read_bytes())
    store.close()
    assert (folder / "agent.db-wal").stat().st_size > 0
    wreck = folder / "agent.db.damaged"
    (folder / "agent.db").rename(wreck)
    # As after a power cut between the two renamings: the log is still under its old name.
    again = Store(folder / "agent.db", "gw-1", Clock())
    assert again.origin == BROKEN
    assert reading(5000) in bodies(again)
    assert again.readings.depth() == ROWS + 1
    assert not wreck.exists()
    again.close()


def test_a_file_of_rubbish_costs_a_record_that_says_so(tmp_path: pathlib.Path) -> None:
    (tmp_path / "agent.db").write_bytes(random.Random(1).randbytes(50_000))  # noqa: S311 - a seed
    store = Store(tmp_path / "agent.db", "gw-1", Clock())
    assert store.origin == BROKEN
    assert [(loss.series, loss.count, "not known" in loss.reason) for loss in losses(store)] == [
        ("readings", 0, True),
        ("reports", 0, True),
    ]
    store.close()


def test_random_bytes_in_a_store_never_stop_the_agent(tmp_path: pathlib.Path) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())
    for seed in range(12):
        folder = next(folders)
        store = doubted(folder)
        content = bytearray(store.path.read_bytes())
        chance = random.Random(seed)  # noqa: S311 - a seed
        for _ in range(1 + seed * 20):
            content[chance.randrange(len(content))] = chance.randrange(256)
        store.path.write_bytes(content)
        again = reopened(store)
        with again.transaction():
            again.readings.append([reading(1)])
        again.close()
