"""What waits in a store is told beside a running agent and while it is stopped, and reading changes nothing."""

import datetime as dt
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from agent.backlog import BacklogError, read_backlog
from agent.cli_outbox import text_of
from agent.clocks import Clock
from agent.runs import Run
from agent.store import KEPT, Store
from protocol.plans import Device
from protocol.readings import batch_of
from protocol.reports import RunReport
from protocol.wire import encode

AGENT = str(pathlib.Path(sys.executable).parent / "metergate-agent")
START = dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC)


class HandClock(Clock):
    """Shows what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = START

    def now(self) -> dt.datetime:
        return self.shown

    def pass_by(self, seconds: float) -> None:
        self.shown += dt.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def put(store: Store, count: int) -> None:
    with store.transaction():
        store.readings.append([b"%020d" % number for number in range(count)])


def receipt(store: Store, count: int) -> None:
    rows = store.readings.next_rows(0, 20 * count)
    assert rows is not None
    name = batch_of(store.id, rows.first, rows.bodies).name
    with store.transaction():
        assert store.readings.accept(name) == count


def fail(store: Store, clock: HandClock, outcome: str, cause: str) -> None:
    run = Run(uuid.uuid4(), Device(uuid.uuid4(), "M", uuid.uuid4(), "UTC"), "generic_lis200", "set_time", {})
    report = RunReport(run.id, run.device.id, outcome, clock.now(), clock.now(), cause=cause)
    with store.transaction():
        store.runs.begin(run)
        store.runs.end(run.id, outcome)
        store.reports.append([encode(report)])


def print_of(folder: pathlib.Path) -> dict[str, str]:
    """Digests of the store and its seal: what reading must not change."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "agent.db", folder / "agent.db.seal")
    }


def test_depth_age_rate_and_drain(tmp_path: pathlib.Path, clock: HandClock) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", clock)
    put(store, 1000)
    clock.pass_by(600)
    found = read_backlog(store.path, clock.now()).channels["readings"]
    assert (found.waiting, found.oldest, found.oldest_seconds) == (1000, START, 600)
    assert (found.rows_per_second, found.drain_seconds, found.tail) == (None, None, 0)
    # Two hundred rows in two seconds after the first hundred, while 60 new ones came.
    put(store, 60)
    for _ in range(3):
        receipt(store, 100)
        clock.pass_by(1)
    found = read_backlog(store.path, clock.now()).channels["readings"]
    assert (found.waiting, found.tail, found.through, found.aside) == (760, 300, 300, 0)
    assert (found.rows_per_second, found.arriving_per_second) == (100, 1)
    assert found.drain_seconds == pytest.approx(760 / 99, abs=0.1)
    assert found.tail_since == START + dt.timedelta(seconds=600)
    # What fits nowhere is told.
    with store.transaction():
        store.readings.set_aside(301)
    assert read_backlog(store.path, clock.now()).channels["readings"].aside == 1
    # After a minute without a receipt the rate is no longer known.
    clock.pass_by(70)
    found = read_backlog(store.path, clock.now()).channels["readings"]
    assert (found.rows_per_second, found.drain_seconds) == (None, None)
    store.close()


def test_what_comes_faster_than_it_goes_does_not_drain(tmp_path: pathlib.Path, clock: HandClock) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", clock)
    for _ in range(10):
        put(store, 400)
        receipt(store, 10)
        clock.pass_by(1)
    found = read_backlog(store.path, clock.now())
    assert found.channels["readings"].rows_per_second == 10
    assert found.channels["readings"].drain_seconds is None
    assert "does not drain" in text_of(found)
    store.close()


def test_the_last_errors_by_kind(tmp_path: pathlib.Path, clock: HandClock) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", clock)
    for outcome, cause in (("done", ""), ("failed", "silent"), ("wrong_meter", "number 7"), ("failed", "damaged")):
        fail(store, clock, outcome, cause)
        clock.pass_by(1)
    found = read_backlog(store.path, clock.now())
    assert [(one.kind, one.count, one.cause) for one in found.errors] == [
        ("failed", 2, "damaged"),
        ("wrong_meter", 1, "number 7"),
    ]
    assert "failed, 2 times, last 2026-03-02 06:00:03Z: damaged" in text_of(found)
    store.close()


def test_reading_changes_nothing_and_holds_nobody_up(tmp_path: pathlib.Path, clock: HandClock) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", clock)
    put(store, 5)
    before = print_of(tmp_path)
    assert read_backlog(store.path, clock.now()).running is True
    assert print_of(tmp_path) == before
    with store.transaction():
        store.readings.append([b"while it is read" + bytes(20)])
        assert read_backlog(store.path, clock.now()).depth == 5
    assert read_backlog(store.path, clock.now()).depth == 6
    identity = store.id
    store.close()
    before = print_of(tmp_path)
    found = read_backlog(store.path, clock.now())
    assert (found.running, found.store, found.depth) == (False, identity.hex(), 6)
    assert print_of(tmp_path) == before
    again = Store(tmp_path / "agent.db", "gw-1", clock)
    assert (again.origin, again.id) == (KEPT, identity)
    again.close()


def test_a_store_that_cannot_be_read_is_named(tmp_path: pathlib.Path, clock: HandClock) -> None:
    with pytest.raises(BacklogError, match="no agent has run"):
        read_backlog(tmp_path / "agent.db", clock.now())
    (tmp_path / "agent.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(BacklogError, match=r"agent\.db"):
        read_backlog(tmp_path / "agent.db", clock.now())


def test_the_command(tmp_path: pathlib.Path, clock: HandClock) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f'gateway = "gw-1"\nbroker = "mqtt://localhost"\ndata = "{tmp_path}"\n')
    environment = {**os.environ, "METERGATE_AGENT_CONFIG": str(settings)}

    def asked(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AGENT, "outbox", *options], capture_output=True, text=True, check=False, timeout=60, env=environment
        )

    nothing = asked()
    assert nothing.returncode == 1
    assert "there is no store" in nothing.stderr
    store = Store(tmp_path / "agent.db", "gw-1", clock)
    put(store, 3)
    people = asked("--config", str(settings))
    assert people.returncode == 0, people.stderr
    assert "gateway gw-1: the agent runs" in people.stdout
    assert "readings: 3 rows without a receipt, the oldest stored 2026-03-02 06:00:00Z" in people.stdout
    store.close()
    found = json.loads(asked("--json").stdout)
    assert (found["running"], found["channels"]["readings"]["waiting"]) == (False, 3)
