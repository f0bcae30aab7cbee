"""What was begun and how it ended: runs and commands, so that neither is done twice or forgotten over a restart.

UNIQUE (task, device, tick) makes it impossible that a tick runs twice; the command's id makes two deliveries one run.
"""

import datetime as dt
import sqlite3
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from agent.runs import NOTHING_EARLIER, Earlier, Run
from protocol.commands import FINAL_STATES, MAX_COMMAND_SECONDS, Command, CommandUpdate
from protocol.plans import Device
from protocol.wire import ContractError, decode, encode

KEPT_FOR = dt.timedelta(seconds=MAX_COMMAND_SECONDS + 86_400)
"""How long the ended ones are remembered: longer than any command may live, so that none can come again after."""

WAITING = "waiting"
RUNNING = "running"
ENDED = "ended"

SCHEMA = """
    CREATE TABLE IF NOT EXISTS runs (
        id BLOB PRIMARY KEY, task BLOB, device BLOB NOT NULL, tick INTEGER, command BLOB,
        since INTEGER, not_before REAL, body BLOB, state TEXT NOT NULL, outcome TEXT, ended_at REAL,
        UNIQUE (task, device, tick)
    );
    CREATE INDEX IF NOT EXISTS runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
    CREATE INDEX IF NOT EXISTS runs_open ON runs (state) WHERE ended_at IS NULL;
    CREATE TABLE IF NOT EXISTS commands (
        id BLOB PRIMARY KEY, body BLOB NOT NULL, origin TEXT NOT NULL, correlation BLOB, state TEXT NOT NULL,
        deadline REAL NOT NULL, last_update BLOB NOT NULL, cancels BLOB, ended_at REAL
    );
    CREATE INDEX IF NOT EXISTS commands_cancel ON commands (cancels) WHERE cancels IS NOT NULL;
    CREATE INDEX IF NOT EXISTS commands_open ON commands (state) WHERE ended_at IS NULL;
"""


class _Work(msgspec.Struct, frozen=True, array_like=True):
    """What a run needs besides its columns, to be taken up again after a restart."""

    device: Device
    context: str
    call: str
    kwargs: dict[str, Any]
    background: bool = False
    earlier: Earlier = NOTHING_EARLIER
    priority: int = 0


def _work(run: Run) -> bytes:
    return encode(_Work(run.device, run.context, run.call, run.kwargs, run.background, run.earlier, run.priority))


def is_work(body: object) -> bool:
    """Whether a run's stored body can be taken up again."""
    try:
        return isinstance(body, bytes) and bool(decode(body, _Work))
    except ContractError:
        return False


class Runs:
    """The runs of this gateway. Everything is written inside the store's transactions."""

    def __init__(self, db: sqlite3.Connection, now: Callable[[], dt.datetime]) -> None:
        self._db = db
        self._now = now

    def begin(self, run: Run) -> bool:
        """Note that a run waits for its line; False if this task, device and tick were begun before.

        A tick that was missed by a clock that was ahead is begun when it comes.
        """
        if run.task is not None:
            self._db.execute(
                "DELETE FROM runs WHERE task = ? AND device = ? AND tick = ? AND outcome = 'missed'",
                (run.task.bytes, run.device.id.bytes, _seconds(run.tick)),
            )
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO runs (id, task, device, tick, command, since, not_before, body, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run.id.bytes,
                run.task.bytes if run.task else None,
                run.device.id.bytes,
                _seconds(run.tick),
                run.command.bytes if run.command else None,
                _seconds(run.since),
                run.not_before.timestamp() if run.not_before else None,
                _work(run),
                WAITING,
            ),
        )
        return cursor.rowcount == 1

    def miss(
        self, run_id: uuid.UUID, task: uuid.UUID, device: uuid.UUID, since: dt.datetime, tick: dt.datetime
    ) -> None:
        """Note ticks that are not run by themselves, from ``since`` to ``tick``, none of which was begun."""
        self._db.execute(
            "INSERT INTO runs (id, task, device, tick, since, state, outcome, ended_at) "
            "VALUES (?, ?, ?, ?, ?, ?, 'missed', ?) ON CONFLICT (task, device, tick) DO UPDATE "
            "SET since = min(coalesce(since, excluded.since), excluded.since)",
            (
                run_id.bytes,
                task.bytes,
                device.bytes,
                _seconds(tick),
                _seconds(since),
                ENDED,
                self._now().timestamp(),
            ),
        )

    def begun(self, task: uuid.UUID, device: uuid.UUID, first: dt.datetime, last: dt.datetime) -> set[dt.datetime]:
        """Return the ticks from ``first`` to ``last`` that were begun, however they ended."""
        rows = self._db.execute(
            "SELECT tick FROM runs WHERE task = ? AND device = ? AND tick BETWEEN ? AND ? AND outcome IS NOT 'missed'",
            (task.bytes, device.bytes, _seconds(first), _seconds(last)),
        )
        return {dt.datetime.fromtimestamp(tick, dt.UTC) for (tick,) in rows}

    def behind(self, task: uuid.UUID, device: uuid.UUID, tick: dt.datetime) -> dt.datetime | None:
        """Return the oldest tick before this one that a read was to make up for since the last that was done.

        A span of missed ticks may end later than this one: a clock that was ahead has told of it, and could not read
        what there was not yet.
        """
        key = (task.bytes, device.bytes, _seconds(tick))
        done = self._db.execute(
            "SELECT tick FROM runs WHERE task = ? AND device = ? AND tick < ? AND outcome = 'done' "
            "ORDER BY tick DESC LIMIT 1",
            key,
        ).fetchone()
        (oldest,) = self._db.execute(
            "SELECT min(coalesce(since, tick)) FROM runs WHERE task = ?1 AND device = ?2 AND tick > ?4 "
            "AND outcome IN ('failed', 'wrong_meter', 'interrupted', 'missed') "
            "AND (tick < ?3 OR (since > ?4 AND since < ?3))",
            (*key, done[0] if done else 0),
        ).fetchone()
        return _instant(oldest)

    def start(self, run_id: uuid.UUID) -> None:
        """Note that the line has begun to work on it."""
        self._db.execute("UPDATE runs SET state = ? WHERE id = ? AND state = ?", (RUNNING, run_id.bytes, WAITING))

    def go_on(self, rest: Run) -> bool:
        """Note what is left of a background run after a slice, and that it waits; False if it has ended."""
        cursor = self._db.execute(
            "UPDATE runs SET state = ?, body = ? WHERE id = ? AND ended_at IS NULL",
            (WAITING, _work(rest), rest.id.bytes),
        )
        return cursor.rowcount == 1

    def wait_again(self, run_id: uuid.UUID) -> None:
        """Note that an interrupted run is to be done again."""
        self._db.execute("UPDATE runs SET state = ? WHERE id = ? AND state = ?", (WAITING, run_id.bytes, RUNNING))

    def end(self, run_id: uuid.UUID, outcome: str) -> bool:
        """Note the outcome; False if the run had ended before (the first outcome stays)."""
        cursor = self._db.execute(
            "UPDATE runs SET state = ?, outcome = ?, ended_at = ?, body = NULL WHERE id = ? AND ended_at IS NULL",
            (ENDED, outcome, self._now().timestamp(), run_id.bytes),
        )
        return cursor.rowcount == 1

    def open(self) -> list[tuple[Run, str]]:
        """Return the runs that have not ended, in the order they were begun, with their states."""
        rows = self._db.execute(
            "SELECT id, task, tick, command, since, not_before, body, state FROM runs "
            "WHERE ended_at IS NULL ORDER BY rowid"
        ).fetchall()
        found = []
        for run_id, task, tick, command, since, not_before, body, state in rows:
            work = decode(body, _Work)
            run = Run(
                id=uuid.UUID(bytes=run_id),
                device=work.device,
                context=work.context,
                call=work.call,
                kwargs=work.kwargs,
                tick=_instant(tick),
                since=_instant(since),
                task=uuid.UUID(bytes=task) if task else None,
                command=uuid.UUID(bytes=command) if command else None,
                not_before=_instant(not_before),
                background=work.background,
                earlier=work.earlier,
                priority=work.priority,
            )
            found.append((run, state))
        return found

    def prune(self) -> int:
        """Forget the runs that ended long ago."""
        before = (self._now() - KEPT_FOR).timestamp()
        return self._db.execute("DELETE FROM runs WHERE ended_at < ?", (before,)).rowcount


class Order(msgspec.Struct, frozen=True):
    """One command as this gateway took it.

    ``origin`` is ``hub`` or the caller's name; ``correlation`` the caller's correlation data; ``deadline`` the instant
    of the machine's own clock, in seconds since 1970, after which the command must not begin any more.
    """

    command: Command
    origin: str
    correlation: bytes | None
    state: str
    deadline: float
    last_update: CommandUpdate


class Commands:
    """The commands that this gateway has taken or refused. Written inside the store's transactions."""

    def __init__(self, db: sqlite3.Connection, now: Callable[[], dt.datetime]) -> None:
        self._db = db
        self._now = now

    def take(self, order: Order) -> None:
        """Keep a command that was not known before.

        Raises:
            sqlite3.IntegrityError: when it was.
        """
        self._db.execute(
            "INSERT INTO commands (id, body, origin, correlation, state, deadline, last_update, cancels, ended_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                order.command.id.bytes,
                encode(order.command),
                order.origin,
                order.correlation,
                order.state,
                order.deadline,
                encode(order.last_update),
                order.command.cancels.bytes if order.command.cancels else None,
                self._ended_at(order.state),
            ),
        )

    def find(self, command_id: uuid.UUID) -> Order | None:
        """Return a command by its id."""
        found = self._select("id = ?", (command_id.bytes,))
        return found[0] if found else None

    def cancelled_by(self, command_id: uuid.UUID, origin: str) -> bool:
        """Whether the hub or the same caller has asked for the end of a command before it came."""
        row = self._db.execute(
            "SELECT 1 FROM commands WHERE cancels = ? AND origin IN ('hub', ?) AND state = 'done'",
            (command_id.bytes, origin),
        ).fetchone()
        return row is not None

    def update(self, update: CommandUpdate) -> None:
        """Keep the newest step of a command that has not ended."""
        self._db.execute(
            "UPDATE commands SET state = ?, last_update = ?, ended_at = ? WHERE id = ? AND ended_at IS NULL",
            (update.state, encode(update), self._ended_at(update.state), update.command_id.bytes),
        )

    def open(self) -> list[Order]:
        """Return the commands that have not ended."""
        return self._select("ended_at IS NULL", ())

    def prune(self) -> int:
        """Forget the commands that ended so long ago that they cannot come again.

        When a command ended may have been noted by a wrong clock, so that its own time must be over as well.
        """
        now = self._now()
        before = now - KEPT_FOR
        ended = self._db.execute(
            "SELECT id, body FROM commands WHERE ended_at < ? OR ended_at > ?", (before.timestamp(), now.timestamp())
        ).fetchall()
        forgotten = [(key,) for key, body in ended if decode(body, Command).issued < before]
        self._db.executemany("DELETE FROM commands WHERE id = ?", forgotten)
        return len(forgotten)

    def _select(self, where: str, values: tuple[bytes, ...]) -> list[Order]:
        rows = self._db.execute(
            "SELECT body, origin, correlation, state, deadline, last_update FROM commands "  # noqa: S608 - own words
            f"WHERE {where} ORDER BY rowid",
            values,
        ).fetchall()
        return [
            Order(decode(body, Command), origin, correlation, state, deadline, _decode_update(update))
            for body, origin, correlation, state, deadline, update in rows
        ]

    def _ended_at(self, state: str) -> float | None:
        return self._now().timestamp() if state in FINAL_STATES else None


def _decode_update(data: bytes) -> CommandUpdate:
    return decode(data, CommandUpdate)


def _seconds(instant: dt.datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp())


def _instant(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
