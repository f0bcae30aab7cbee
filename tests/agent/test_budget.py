"""The disk budget: the tail goes first, archive reads stop, and whatever goes undelivered leaves a loss record."""

import collections
import datetime as dt
import pathlib
import sqlite3
import uuid

import pytest

from agent.budget import LOG_BYTES, STOP_AT
from agent.clocks import Clock
from agent.runs import Run
from agent.storage_faults import DAMAGED, FULL, StoreFullError, storage_fault
from agent.store import Store
from contexts.meters import Held
from protocol.plans import Device
from protocol.readings import FROM_GATEWAY, FROM_METER, NewMeterReading, batch_of
from protocol.reports import DONE, LossRecord, RunReport, UndecodablePush, decode_report
from protocol.wire import decode, encode, parse_decimal

METER, TASK = uuid.uuid4(), uuid.uuid4()
NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
BUDGET = 1024 * 1024
RUN = Run(uuid.uuid4(), Device(METER, "M1", uuid.uuid4(), "UTC"), "generic_lis200", "read", {}, tick=NOW, task=TASK)


def opened(folder: pathlib.Path) -> Store:
    return Store(folder / "agent.db", "gw-1", Clock(), BUDGET)


def reading(number: int, provenance: str, run: uuid.UUID | None = RUN.id) -> bytes:
    at = NOW + dt.timedelta(minutes=number)
    return encode(NewMeterReading("M1", "2:300", at, parse_decimal("1"), "m3", METER, at, provenance, run=run))


def fill(store: Store, upto: float, provenance: str, first: int = 0) -> int:
    """Add readings until so much of the budget is in use; return the next number."""
    while store.budget.share() < upto:
        with store.transaction():
            store.readings.append([reading(number, provenance) for number in range(first, first + 50)])
        first += 50
    return first


def kept(store: Store) -> collections.Counter[str]:
    return collections.Counter(
        "run report" if table else decode(body, NewMeterReading).provenance
        for table, body in store._db.execute("SELECT 0, body FROM readings UNION ALL SELECT 1, body FROM reports")
        if not table or isinstance(decode_report(body), RunReport)
    )


def losses(store: Store) -> list[LossRecord]:
    return [row for (body,) in store._db.execute("SELECT body FROM reports ORDER BY seq")
            if isinstance(row := decode_report(body), LossRecord)]  # fmt: skip


def relieve(store: Store) -> None:
    for _ in range(50):
        if not store.relieve():
            return


def test_the_receipted_tail_goes_first_and_without_a_record(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    fill(store, 0.6, FROM_METER)
    while (rows := store.readings.next_rows(0, 50_000)) is not None:
        with store.transaction():
            store.readings.accept(batch_of(store.id, rows.first, rows.bodies).name)
    waiting = fill(store, 0.85, FROM_METER, 100_000) - 100_000
    relieve(store)
    assert store.budget.share() < 0.81
    assert not losses(store)
    assert not store.budget.stopped
    assert store.readings.depth() == waiting
    store.close()


def test_what_is_on_its_way_is_not_called_lost(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    count = fill(store, 1.0, FROM_GATEWAY)
    rows = store.readings.next_rows(0, 5_000)
    assert rows is not None
    name = batch_of(store.id, rows.first, rows.bodies).name
    store.readings.sent.add(name.first, name.last, 0)
    relieve(store)
    told = losses(store)
    assert sum(record.count for record in told) == count - store.readings.depth() > 0
    # The hub had it, and its receipt comes now: of none of these rows a record says that it is lost.
    with store.transaction():
        assert store.readings.accept(name) == len(rows.bodies)
    sent = [decode(body, NewMeterReading).timestamp for body in rows.bodies]
    assert not [at for at in sent for record in told if record.start <= at <= record.end]
    store.close()


def test_what_is_on_its_way_goes_when_nothing_else_is_left_and_the_record_says_so(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    count = fill(store, 1.0, FROM_GATEWAY)
    store.readings.sent.add(1, count, 0)
    relieve(store)
    told = losses(store)
    assert sum(record.count for record in told) == count - store.readings.depth() > 0
    assert all("the hub may have them" in record.reason for record in told)
    store.close()


def test_archive_reads_stop_and_begin_again(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    fill(store, STOP_AT + 0.02, FROM_METER)
    relieve(store)
    assert "archive reads wait" in store.budget.stopped
    assert not losses(store)
    while (rows := store.readings.next_rows(0, 50_000)) is not None:
        with store.transaction():
            store.readings.accept(batch_of(store.id, rows.first, rows.bodies).name)
    relieve(store)
    assert store.budget.stopped == ""
    store.close()


def test_what_goes_is_declared_and_what_nobody_can_read_again_is_kept_longest(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    with store.transaction():
        store.runs.begin(RUN)
        store.runs.end(RUN.id, DONE)
        store.memory.keep_held(METER, 3, Held(NOW, NOW, 7))
        store.reports.append([encode(RunReport(uuid.uuid4(), METER, DONE, NOW, NOW)) for _ in range(100)])
        store.readings.append([reading(number, FROM_GATEWAY) for number in range(1000)])
    archive = fill(store, 0.975, FROM_METER, 10_000) - 10_000
    before = kept(store)
    assert before[FROM_METER] == archive
    relieve(store)
    after = kept(store)
    assert after[FROM_GATEWAY] == 1000
    assert after["run report"] == 100
    assert 0 < sum(loss.count for loss in losses(store)) == archive - after[FROM_METER]
    (loss, *_) = losses(store)
    assert (loss.device, loss.meter, loss.series) == (METER, "M1", "2:300")
    assert loss.start == NOW + dt.timedelta(minutes=10_000)
    assert loss.end == loss.start + dt.timedelta(minutes=loss.count - 1)
    assert "budget" in loss.reason
    # The meter is asked for them again: nothing is held, and the run that brought them has not done so.
    assert store.memory.held(METER, 3) is None
    assert store.runs.behind(TASK, METER, NOW + dt.timedelta(hours=1)) == NOW
    store.close()


def test_a_record_says_who_asks_the_meter_again(tmp_path: pathlib.Path) -> None:
    """What a command brought no task may ever read; what a meter does not keep nobody can ask for."""
    store = opened(tmp_path)
    ordered = Run(uuid.uuid4(), RUN.device, "generic_lis200", "read", {}, command=uuid.uuid4())
    with store.transaction():
        store.runs.begin(RUN)
        store.runs.begin(ordered)
        store.memory.keep_held(METER, 3, Held(NOW, NOW, 7))
        for run, number in ((ordered.id, 0), (None, 2), (RUN.id, 4)):
            store.readings.append([reading(number + n, FROM_METER, run) for n in range(2)])
    fill(store, 0.975, FROM_GATEWAY, 10)
    relieve(store)
    told = {(loss.start - NOW) // dt.timedelta(minutes=1): (loss.count, loss.reason) for loss in losses(store)}
    assert told[0][0] == 4
    assert "where a task reads this archive, else ask for what it still holds" in told[0][1]
    assert told[4][0] == 2
    assert told[4][1].endswith("had them; the meter is asked for them again")
    assert told[10][1].endswith("before the hub had them")
    assert store.memory.held(METER, 3) is None
    store.close()


def test_what_could_not_be_read_of_a_push_goes_before_what_nobody_can_read_again(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    fields = (uuid.uuid4(), "p1", NOW, "damaged on the way", b"x" * 4096, 4096)
    with store.transaction():
        store.reports.append([encode(UndecodablePush(uuid.uuid4(), *fields)) for _ in range(20)])
    fill(store, 0.975, FROM_GATEWAY)
    before = kept(store)[FROM_GATEWAY]
    relieve(store)
    assert kept(store)[FROM_GATEWAY] == before
    assert {(loss.series, loss.device) for loss in losses(store)} == {("undecodable pushes", None)}
    store.close()


class PowerCutError(Exception):
    """Ends what a test does in the middle of it."""


def test_rows_and_their_loss_records_go_in_one_transaction(tmp_path: pathlib.Path) -> None:
    """Whatever ends the agent in between: no rows are gone without a record, and no record tells of rows that stay."""
    store = opened(tmp_path)
    fill(store, 0.975, FROM_METER)
    before = kept(store)

    def begin() -> None:
        with store.transaction():
            store.budget.relieve()
            assert losses(store)
            raise PowerCutError

    with pytest.raises(PowerCutError):
        begin()
    assert not losses(store)
    assert kept(store) == before
    store.close()


def test_years_without_a_hub_stay_within_the_budget_and_every_row_is_kept_or_declared(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    stored = 0
    for number in range(500):
        body = [reading(number * 20 + i, FROM_GATEWAY) for i in range(20)]
        try:
            with store.transaction():
                store.readings.append(body)
                store.reports.append([encode(RunReport(uuid.uuid4(), METER, DONE, NOW, NOW))])
        except StoreFullError:
            relieve(store)
            continue
        stored += 20
        if number % 10 == 0:
            relieve(store)
    relieve(store)
    declared = collections.Counter[str]()
    for loss in losses(store):
        declared[loss.series] += loss.count
    assert declared["2:300"] > 0
    assert declared["2:300"] + kept(store)[FROM_GATEWAY] == stored
    assert declared["run reports"] + kept(store)["run report"] == stored / 20
    assert store.path.stat().st_size < BUDGET
    assert (tmp_path / "agent.db-wal").stat().st_size < LOG_BYTES
    store.close()


def test_a_full_store_says_so_undoes_what_was_begun_and_recovers(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    store._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreFullError, match=r"agent\.db"), store.transaction():
        store.readings.append([bytes(100_000)])
    assert "full" in store.fault
    assert store.readings.depth() == 0
    store._db.execute("PRAGMA max_page_count = 10000")
    assert store.try_writing()
    assert store.fault == ""
    store.close()


def test_faults_of_the_disk_are_told_from_others() -> None:
    damaged = sqlite3.DatabaseError("malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    assert storage_fault(StoreFullError("full")) == FULL
    assert storage_fault(OSError(28, "No space left on device")) == FULL
    assert storage_fault(ExceptionGroup("", [StoreFullError("full"), ExceptionGroup("", [damaged])])) == DAMAGED
    assert storage_fault(ExceptionGroup("", [damaged, LookupError()])) == ""
    assert storage_fault(ConnectionError()) == ""
