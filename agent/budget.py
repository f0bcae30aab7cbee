"""The outbox's disk budget: how much the store may take, and what gives way when that is spent.

In this order: the receipted tail; then scheduled archive reads stop, because the meter is the deeper buffer; then rows
without a receipt go, archive rows first (the meter is asked for them again), then reports of runs and of pushes that
could not be read, and last what nobody can read again: momentary values, events, steps of commands. No row without a
receipt goes without a loss record, which is written in the same transaction. What this process has sent goes only when
nothing else is left: the hub may have it, and a record would count as lost what is not.
"""

import datetime as dt
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog

from agent.outbox import READINGS_TABLE, REPORTS_TABLE, Sent
from protocol.commands import CommandUpdate
from protocol.readings import FROM_METER, NewMeterReading
from protocol.reports import LossRecord, MeterSystemEvent, PlanApplied, RunReport, UndecodablePush, decode_report
from protocol.wire import ContractError, decode, encode

log = structlog.get_logger(__name__)

DEFAULT_BYTES = 1024**3
LEAST_BYTES = 16 * 1024**2
LOG_BYTES = 8 * 1024**2
"""Of the budget, what is left for the write-ahead log beside the file."""

TAIL_AT, STOP_AT, RESUME_AT, SHED_AT, SHED_TO = 0.80, 0.90, 0.85, 0.97, 0.95
"""Shares of the budget: the tail goes, archive reads stop and begin again, rows without a receipt go until."""

_TAIL_ROWS = 5000
_SHED_SHARE = 0.05
_MOST_SHED = 16 * 1024**2
"""Bytes that one step gives up: enough that its loss records weigh little, and never long for whoever waits."""

_RUNS, _PLANS, _EVENTS, _STEPS = "run reports", "plan reports", "events", "command results"
_PUSHES = "undecodable pushes"
_CHUNK = 500
_SENT = "; they had been sent, and their receipt had not come: the hub may have them"
_ASKED_AGAIN = "; the meter is asked for them again"
_ASK_AGAIN = "; the meter is asked for them again where a task reads this archive, else ask for what it still holds"


class _Row(NamedTuple):
    """A row that may go, and what goes of it into the loss record; ``run`` brought it out of an ``archive``."""

    sequence: int
    size: int
    device: uuid.UUID | None
    meter: str
    series: str
    when: dt.datetime
    run: uuid.UUID | None = None
    archive: bool = False


class Budget:
    """How much of the disk one store may take. Everything is written inside the store's transactions.

    Attributes:
        stopped: Why scheduled archive reads have stopped, for people; empty when they have not.
    """

    def __init__(
        self, db: sqlite3.Connection, now: Callable[[], dt.datetime], budget: int, readings: Sent, reports: Sent
    ) -> None:
        self._db = db
        self._now = now
        self._sent = {READINGS_TABLE: readings, REPORTS_TABLE: reports}
        self.budget = budget
        self.stopped = ""
        (self._page,) = db.execute("PRAGMA page_size").fetchone()
        self._limit = max(budget - LOG_BYTES, budget // 2)
        # A receipt makes rows longer, and giving rows up begins with a record: both need room beyond what is aimed at.
        db.execute(f"PRAGMA max_page_count = {(self._limit + budget) // 2 // self._page}")
        db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES // 2}")

    def share(self) -> float:
        """Return what of the budget is in use; 1 is all of it. Free pages inside the file can be used again."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return float((pages - free) * self._page / self._limit)

    def pressing(self) -> bool:
        """Whether there is something to relieve, or to begin again."""
        share = self.share()
        return share > TAIL_AT or bool(self.stopped)

    def relieve(self) -> bool:
        """Do one step, inside a transaction; whether another one would help."""
        share = self.share()
        gone = self._drop_tail() if share > TAIL_AT else 0
        share = self.share()
        if gone and share > TAIL_AT:
            return True
        if share > STOP_AT and not self.stopped:
            self.stopped = (
                f"the outbox's disk budget of {self.budget} bytes is nearly spent: scheduled archive reads wait, "
                "the meter keeps what they would bring"
            )
            log.warning("archive_reads_stopped", share=round(share, 3))
        elif share < RESUME_AT and self.stopped:
            self.stopped = ""
            log.info("archive_reads_resumed", share=round(share, 3))
        return share > SHED_AT and self._shed() > 0 and self.share() > SHED_TO

    def _drop_tail(self) -> int:
        return sum(
            self._db.execute(
                f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} "  # noqa: S608 - our own table names
                "WHERE receipted_at IS NOT NULL ORDER BY receipted_at LIMIT ?)",
                (_TAIL_ROWS,),
            ).rowcount
            for table in (READINGS_TABLE, REPORTS_TABLE)
        )

    # --- rows without a receipt

    def _shed(self) -> int:
        """Give up the rows that matter least; return how many."""
        return self._shed_of(sent=False) or self._shed_of(sent=True)

    def _shed_of(self, *, sent: bool) -> int:
        wanted = min(int(self._limit * _SHED_SHARE), _MOST_SHED)
        count = 0
        for table, candidates in (
            (READINGS_TABLE, self._readings(from_meter=True)),
            (REPORTS_TABLE, self._reports(RunReport, PlanApplied, UndecodablePush)),
            (READINGS_TABLE, self._readings(from_meter=False)),
            (REPORTS_TABLE, self._reports(MeterSystemEvent, CommandUpdate)),
        ):
            rows = list[_Row]()
            while wanted > 0 and (row := next(candidates, None)) is not None:
                if (row.sequence in self._sent[table]) is sent:
                    rows.append(row)
                    wanted -= row.size
            if rows:
                self._give_up(table, rows, _SENT if sent else "")
                count += len(rows)
        return count

    def _readings(self, *, from_meter: bool) -> Iterator[_Row]:
        for sequence, body in self._waiting(READINGS_TABLE):
            try:
                reading = decode(body, NewMeterReading)
            except ContractError:
                continue
            if (reading.provenance == FROM_METER) is from_meter:
                yield _Row(
                    sequence,
                    len(body),
                    reading.device,
                    reading.meter,
                    reading.series,
                    reading.timestamp,
                    reading.run if from_meter else None,
                    archive=from_meter,
                )

    def _reports(self, *kinds: type) -> Iterator[_Row]:
        for sequence, body in self._waiting(REPORTS_TABLE):
            try:
                report = decode_report(body)
            except ContractError:
                continue
            if not isinstance(report, kinds):
                continue
            match report:
                case RunReport():
                    yield _Row(sequence, len(body), report.device, "", _RUNS, report.ended)
                case PlanApplied():
                    yield _Row(sequence, len(body), None, "", _PLANS, report.at)
                case UndecodablePush():
                    yield _Row(sequence, len(body), None, "", _PUSHES, report.came)
                case MeterSystemEvent():
                    yield _Row(sequence, len(body), report.device, report.meter, _EVENTS, report.timestamp)
                case CommandUpdate():
                    yield _Row(sequence, len(body), None, "", _STEPS, report.at)

    def _waiting(self, table: str) -> Iterator[tuple[int, bytes]]:
        after = 0
        while rows := self._db.execute(
            f"SELECT seq, body FROM {table} WHERE receipted_at IS NULL AND seq > ? ORDER BY seq LIMIT ?",  # noqa: S608 - ours
            (after, _CHUNK),
        ).fetchall():
            yield from rows
            after = rows[-1][0]

    def _give_up(self, table: str, rows: list[_Row], besides: str) -> None:
        self._db.executemany(
            f"DELETE FROM {table} WHERE seq = ?",  # noqa: S608 - our own table names
            [(row.sequence,) for row in rows],
        )
        scheduled = self._ask_again([row for row in rows if row.archive])
        groups: dict[tuple[uuid.UUID | None, str, str, str], list[_Row]] = {}
        for row in rows:
            remedy = "" if not row.archive else _ASKED_AGAIN if row.run in scheduled else _ASK_AGAIN
            groups.setdefault((row.device, row.meter, row.series, remedy), []).append(row)
        cause = f"the outbox's disk budget of {self.budget} bytes was spent before the hub had them{besides}"
        now = self._now().timestamp()
        records = [
            LossRecord(
                id=uuid.uuid4(),
                device=device,
                meter=meter,
                series=series,
                start=min(row.when for row in members),
                end=max(row.when for row in members),
                count=len(members),
                reason=cause + remedy,
            )
            for (device, meter, series, remedy), members in groups.items()
        ]
        self._db.executemany(
            f"INSERT INTO {REPORTS_TABLE} (body, stored_at) VALUES (?, ?)",  # noqa: S608 - our own table names
            [(encode(record), now) for record in records],
        )
        log.error("rows_given_up", table=table, rows=len(rows), records=len(records), cause=cause)

    def _ask_again(self, rows: list[_Row]) -> set[uuid.UUID]:
        """Forget that rows of archives are held, and that the runs that brought them have done so.

        Return the runs of tasks among them: what those brought, their tasks bring again.
        """
        for device in {row.device for row in rows if row.device is not None}:
            self._db.execute("DELETE FROM memory WHERE kind = 'held' AND owner = ?", (device.bytes,))
        scheduled = set[uuid.UUID]()
        oldest: dict[tuple[bytes, bytes], int] = {}
        for run in {row.run for row in rows if row.run is not None}:
            found = self._db.execute(
                "SELECT task, device, tick FROM runs WHERE id = ? AND task IS NOT NULL AND tick IS NOT NULL",
                (run.bytes,),
            ).fetchone()
            if found:
                scheduled.add(run)
                task, device, tick = found
                oldest[task, device] = min(tick, oldest.get((task, device), tick))
        self._db.executemany(
            "UPDATE runs SET outcome = 'failed' WHERE outcome = 'done' AND task = ? AND device = ? AND tick >= ?",
            [(*key, tick) for key, tick in oldest.items()],
        )
        return scheduled
