"""What a damaged store still holds goes over into a new one, and what it does not is declared as lost.

Rows are judged by the contract: a body that is no reading and no report is not carried over. Everything that is
carried over is sent again, because a receipt mark of a damaged file proves nothing; the hub knows by content what it
has. What was *held* of archives is forgotten: the next read of each archive brings from the meter what the damage may
have taken. Gaps in the sequences become loss records, of at most as many rows as are missing.
"""

import dataclasses
import datetime as dt
import itertools
import pathlib
import sqlite3
import uuid
from collections.abc import Mapping

from agent.journal import ENDED, RUNNING, WAITING, is_work
from agent.outbox import READINGS_TABLE, REPORTS_TABLE
from agent.pages import Column, Pages, Record
from protocol.commands import Command, CommandUpdate
from protocol.readings import NewMeterReading
from protocol.reports import LossRecord, decode_report
from protocol.wire import ContractError, decode, encode

GONE = "_gone"
"""Ends the keys under which a store keeps up to which sequence each outbox was deleted."""
_STATE_KEYS = frozenset({"session", "state", "plan", "hub_key", "last_look", "furthest_look", "confirmed", "hub_time"})
_META_KEYS = _STATE_KEYS | {"gateway", READINGS_TABLE + GONE, REPORTS_TABLE + GONE}
MOST_LOSSES = 50
"""Loss records for gaps of one outbox; the last one stands for all that follow."""
_MOST_COUNT = 2**31 - 1
_ID = 16
_OUTBOX, _RUN, _COMMAND, _META, _LOOK, _MEMORY = 5, 11, 9, 2, 5, 4
"""Columns of each table."""
_RUN_STATES = frozenset({WAITING, RUNNING, ENDED})
_KEPT_MEMORY = frozenset({"layout", "rate"})


@dataclasses.dataclass(slots=True)
class Wreck:
    """What could be read of a damaged store; ``faults`` counts pages and records that did not hold together."""

    rows: dict[str, dict[int, tuple[bytes, float]]] = dataclasses.field(
        default_factory=lambda: {READINGS_TABLE: {}, REPORTS_TABLE: {}}
    )
    tops: dict[str, int] = dataclasses.field(default_factory=dict)
    meta: dict[str, Column] = dataclasses.field(default_factory=dict)
    runs: dict[bytes, tuple[Column, ...]] = dataclasses.field(default_factory=dict)
    commands: dict[bytes, tuple[Column, ...]] = dataclasses.field(default_factory=dict)
    looks: dict[tuple[bytes, bytes], tuple[Column, ...]] = dataclasses.field(default_factory=dict)
    memory: dict[tuple[str, bytes, int], tuple[Column, ...]] = dataclasses.field(default_factory=dict)
    faults: int = 0


def read_wreck(path: pathlib.Path) -> Wreck:
    """Read every page of a damaged store, with its log.

    Raises:
        OSError: when the file itself cannot be read.
    """
    wreck = Wreck()
    with Pages(path) as pages:
        for record in pages.records():
            _sort(record, wreck)
        wreck.faults = pages.damaged
    return wreck


def carry_over(db: sqlite3.Connection, wreck: Wreck, gateway: str, now: dt.datetime) -> int:
    """Write what was read into a new store, inside a transaction; return how many rows of outboxes that are.

    A wreck of another gateway gives its rows only, as a whole file of another gateway would.
    """
    for table, rows in wreck.rows.items():
        losses = _losses(table, rows, wreck, now)
        db.executemany(
            f"INSERT INTO {table} (body, stored_at) VALUES (?, ?)",  # noqa: S608 - our own table names
            [rows[sequence] for sequence in sorted(rows)],
        )
        db.executemany(
            f"INSERT INTO {REPORTS_TABLE} (body, stored_at) VALUES (?, ?)",  # noqa: S608 - our own table names
            [(encode(loss), now.timestamp()) for loss in losses],
        )
    if wreck.meta.get("gateway", gateway) == gateway:
        _carry_state(db, wreck)
    return sum(len(rows) for rows in wreck.rows.values())


def _carry_state(db: sqlite3.Connection, wreck: Wreck) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)",
        [(key, value) for key, value in wreck.meta.items() if key in _STATE_KEYS],
    )
    for table, width, rows in (
        ("runs", _RUN, wreck.runs),
        ("commands", _COMMAND, wreck.commands),
        ("looks", _LOOK, wreck.looks),
        ("memory", _MEMORY, wreck.memory),
    ):
        marks = ", ".join("?" * width)
        db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", list(rows.values()))  # noqa: S608 - ours


def _sort(record: Record, wreck: Wreck) -> None:
    """Put a record where it belongs, by its shape and its content; what is none of ours is left."""
    match record.columns:
        case (None, bytes(body), float() | int() as stored_at, None | float() | int(), 0 | 1):
            table = _outbox_of(body)
            if table and record.rowid is not None and record.rowid > 0 and _is_time(stored_at):
                wreck.rows[table][record.rowid] = (body, float(stored_at))
            else:
                wreck.faults += 1
        case ("readings" | "reports" as table, int(top)) if record.rowid is not None:
            wreck.tops[table] = max(top, wreck.tops.get(table, 0))
        case (str(key), value) if key in _META_KEYS and record.rowid is None:
            wreck.meta[key] = value
        case (bytes(run), None | bytes(), bytes(), None | int(), _, _, _, _, str(state), _, _) if (
            len(run) == _ID and state in _RUN_STATES and (state == ENDED or is_work(record.columns[7]))
        ):
            wreck.runs[run] = record.columns
        case (bytes(command), bytes(body), str(), _, str(), float() | int(), bytes(update), _, _) if len(
            command
        ) == _ID and _is_command(body, update):
            wreck.commands[command] = record.columns
        case (bytes(task), bytes(device), str(), int(), float() | int()) if len(task) == len(device) == _ID:
            wreck.looks[task, device] = record.columns
        case (str(kind), bytes(owner), int(archive), bytes()) if kind in _KEPT_MEMORY:
            wreck.memory[kind, owner, archive] = record.columns
        case _:
            return


def _outbox_of(body: bytes) -> str:
    """Return the table that a body belongs to; empty if it is neither a reading nor a report."""
    try:
        decode(body, NewMeterReading)
    except ContractError:
        try:
            decode_report(body)
        except ContractError:
            return ""
        return REPORTS_TABLE
    return READINGS_TABLE


def _is_command(body: bytes, update: bytes) -> bool:
    try:
        decode(body, Command)
        decode(update, CommandUpdate)
    except ContractError:
        return False
    return True


def _is_time(seconds: float) -> bool:
    return 0 <= seconds < 2**33


def _losses(table: str, rows: Mapping[int, tuple[bytes, float]], wreck: Wreck, now: dt.datetime) -> list[LossRecord]:
    """Declare the sequences that are missing among those that were used, in a bounded number of records."""
    top = max(wreck.tops.get(table, 0), max(rows, default=0))
    gone = wreck.meta.get(f"{table}{GONE}", 0)
    # What was deleted in order, because it had been delivered or declared, is not lost now.
    floor = min(gone, top) if isinstance(gone, int) else 0
    edges = [floor, *(sequence for sequence in sorted(rows) if sequence > floor), top + 1]
    gaps = [(before, after) for before, after in itertools.pairwise(edges) if after - before > 1]
    records = []
    if table not in wreck.tops:
        # The sequence counter itself is gone, unless there never was a row.
        why = f"whether rows behind {top} were in it is not known" if top else "how much was in it is not known"
        records.append(_loss(table, now, now, 0, why))
    for number, (before, after) in enumerate(gaps, 1):
        last = number == MOST_LOSSES
        upto = gaps[-1][1] if last else after
        missing = sum(after - before - 1 for before, after in (gaps[number - 1 :] if last else [(before, after)]))
        start = _stored(rows, before) or _stored(rows, upto) or now
        end = _stored(rows, upto) or now
        why = f"at most the rows {before + 1} to {upto - 1} of it were not readable; some may have been delivered"
        records.append(_loss(table, min(start, end), max(start, end), missing, why))
        if last:
            break
    return records


def _stored(rows: Mapping[int, tuple[bytes, float]], sequence: int) -> dt.datetime | None:
    row = rows.get(sequence)
    return dt.datetime.fromtimestamp(row[1], dt.UTC) if row else None


def _loss(table: str, start: dt.datetime, end: dt.datetime, count: int, why: str) -> LossRecord:
    return LossRecord(
        id=uuid.uuid4(),
        device=None,
        meter="",
        series=table,
        start=start,
        end=end,
        count=min(count, _MOST_COUNT),
        reason=f"the store was damaged: {why}",
    )
