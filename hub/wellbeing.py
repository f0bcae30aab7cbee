"""Whether a hub process keeps its promises, and if not, why: what ``/health`` answers, on REST and a relay's door.

Theory of operation. Every check has a name and ends ``ok``, ``degraded`` (the process works, but something is not kept,
or will not be soon) or ``unavailable`` (what this process is for it cannot do now). The worst is the status. Each
process answers for itself: a database that is away makes it unavailable, so that nobody is sent to it, but never dead,
because starting it again would mend nothing (``live`` needs no more than that the process answers).

Rules: a reason says what is wrong and what to do, and tells nothing of meters or customers, for everybody may ask. An
answer comes within ``PATIENCE_SECONDS``, also from a database that accepts connections and says nothing.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Final

import msgspec
import prometheus_client
from sqlalchemy.exc import SQLAlchemyError

from hub.database import UNREACHABLE, DatabaseError, schema_problem, schemas
from hub.figures import Found, find
from hub.months import DEFAULT
from hub.notices import notices_of
from hub.state import Hub

LIVE = "live"
READY = "ready"
DEGRADED = "degraded"
UNAVAILABLE = "unavailable"
OK = "ok"

PATIENCE_SECONDS = 5.0
"""Real seconds within which the database has to answer."""

BEHIND_SECONDS = 600.0
"""Notes for the ledger or for validation that wait longer are said: answers about completeness wait for them."""

WAITING_SECONDS = 60.0
"""Deliveries that wait longer in a relay to be stored are said: it takes in less than comes."""

LOST_SECONDS = 10.0
"""For how long other processes' notices may be lost before it is said."""

CLOCK_SECONDS = 5.0
"""How far the clocks of database and process may be apart."""

ROOM_BYTES, ROOM_SHARE = 512 * 1024 * 1024, 0.5
"""The least room beside an SQLite database: so much, or this share of its own size where that is more."""

MOST_ROOM_BYTES = 10 * 1024**3
"""More room than this is never wanted."""

LATE_LOOKS_SECONDS = 3600.0
"""Readings that lie so long in the default partition are not being moved."""

LACKING_SECONDS = 900.0
"""The next month's partition may be missing for so long: a relay makes it, three months ahead, within ten minutes."""

FULL = 0.8
"""The share of the quarantine's rows from which it is said that it fills."""

CHECKS: Final = (
    "database",
    "schema",
    "durability",
    "broker",
    "notices",
    "relay_lag",
    "ledger",
    "validation",
    "quarantine",
    "staged",
    "partitions",
    "disk",
    "clock",
)
"""All checks; a process has those that are its own."""


class Health(msgspec.Struct, kw_only=True):
    """``status`` is ready, degraded (it works, but ``reasons`` say what it does not keep) or unavailable.

    ``checks`` (additive) has each check's end by its name.
    """

    status: str
    reasons: list[str] = msgspec.field(default_factory=list)
    checks: dict[str, str] = msgspec.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """How a check ended, and unless it is ``ok`` the reason."""

    check: str
    status: str = OK
    reason: str = ""


async def judge(hub: Hub) -> Health:
    """Look at everything that the process needs to keep its promises."""
    findings = [*_of_process(hub)]
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await find(hub.engine, hub.clock)
            findings += [Finding("database"), await _schema(hub, found), *of_database(hub, found)]
    except TimeoutError:
        findings.append(Finding("database", UNAVAILABLE, f"the database did not answer within {PATIENCE_SECONDS:g} s"))
    except (DatabaseError, SQLAlchemyError, *UNREACHABLE) as error:
        findings += await _why_not(hub, error)
    return of_findings(findings)


async def _why_not(hub: Hub, error: Exception) -> list[Finding]:
    """Tell a database that is away from one that nobody has migrated: each wants something else done."""
    problem = ""
    with contextlib.suppress(DatabaseError, TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            problem = await schema_problem(hub.engine)
    if problem:
        return [Finding("database"), Finding("schema", UNAVAILABLE, problem)]
    return [Finding("database", UNAVAILABLE, f"the database does not answer: {type(error).__name__}")]


def of_findings(findings: list[Finding]) -> Health:
    """Put findings together: the worst is the status."""
    statuses = {finding.status for finding in findings}
    status = next((one for one in (UNAVAILABLE, DEGRADED) if one in statuses), READY)
    order = {name: position for position, name in enumerate(CHECKS)}
    findings = sorted(findings, key=lambda finding: order[finding.check])
    # The worst first: whoever reads one line reads that.
    wrong = sorted((one for one in findings if one.reason), key=lambda one: one.status != UNAVAILABLE)
    return Health(
        status=status,
        reasons=[finding.reason for finding in wrong],
        checks={finding.check: finding.status for finding in findings},
    )


def _of_process(hub: Hub) -> Iterator[Finding]:
    """Judge what the process knows without the database."""
    lost_at = notices_of(hub.engine).lost_at
    seconds = 0.0 if lost_at is None else time.monotonic() - lost_at
    if seconds > LOST_SECONDS:
        reason = (
            f"other processes have not been heard for {seconds:.0f} s: commands and plans are found by looking; "
            "see notices_lost in the log"
        )
        yield Finding("notices", DEGRADED, reason)
    else:
        yield Finding("notices")
    if hub.relay_ready is None:
        return
    if hub.relay_ready.is_set():
        yield Finding("broker")
    else:
        reason = "the relay is not connected to the broker: nothing is received or sent"
        # A process that has REST as well still serves that.
        yield Finding("broker", UNAVAILABLE if hub.relays_only else DEGRADED, reason)
    waiting = prometheus_client.REGISTRY.get_sample_value("metergate_relay_waiting_seconds") or 0.0
    if waiting <= WAITING_SECONDS:
        yield Finding("relay_lag")
    else:
        bytes_ = prometheus_client.REGISTRY.get_sample_value("metergate_relay_queued_bytes") or 0.0
        reason = (
            f"the relay is behind: {bytes_ / 1024**2:.1f} MiB wait to be stored, the oldest for {waiting:.0f} s; "
            "gateways send slower meanwhile. Start another relay, or see what holds the database"
        )
        yield Finding("relay_lag", DEGRADED, reason)


async def _schema(hub: Hub, found: Found) -> Finding:
    if found.schema == schemas()[-1]:
        return Finding("schema")
    problem = await schema_problem(hub.engine)
    return Finding("schema", DEGRADED, problem) if problem else Finding("schema")


def of_database(hub: Hub, found: Found) -> Iterator[Finding]:
    """Judge what was found in the database."""
    yield _durability(found)
    figures = found.figures
    for check, name, what in (
        ("ledger", "ledger", "the ledger is behind: what is missing is told as of then"),
        ("validation", "unjudged", "validation is behind: readings have no flags yet"),
    ):
        seconds = figures[f"{name}_behind_seconds"]
        reason = f"{what} ({figures[f'{name}_notes']:.0f} notes, the oldest at least {seconds:.0f} s old)"
        yield Finding(check, DEGRADED, reason) if seconds > BEHIND_SECONDS else Finding(check)
    yield _quarantine(hub, figures["quarantined"])
    if figures["staged_readings"] >= hub.settings.staged_rows:
        reason = f"{figures['staged_readings']:.0f} readings are staged; look at /v1/metering/staged-meter-readings"
        yield Finding("staged", DEGRADED, reason)
    else:
        yield Finding("staged")
    if hub.engine.dialect.name == "sqlite":
        yield _disk(figures)
    else:
        yield _partitions(found)
        yield _clock(found)


def _durability(found: Found) -> Finding:
    if found.standby:
        reason = "this PostgreSQL is a standby and takes no writes: point the hub at the primary"
        return Finding("durability", UNAVAILABLE, reason)
    if found.careless:
        reason = (
            f"PostgreSQL runs with {', '.join(f'{name}=off' for name in found.careless)}: "
            "a receipted reading may be lost in a crash; turn it on"
        )
        return Finding("durability", DEGRADED, reason)
    return Finding("durability")


def _quarantine(hub: Hub, rows: float) -> Finding:
    most = hub.settings.quarantine_rows
    if rows >= most:
        reason = (
            f"the quarantine is full ({rows:.0f} payloads): what cannot be read is not receipted any more; "
            "look at /v1/quarantine, replay or delete"
        )
        return Finding("quarantine", DEGRADED, reason)
    if rows >= FULL * most:
        reason = f"the quarantine fills: {rows:.0f} of {most} payloads; look at /v1/quarantine, replay or delete"
        return Finding("quarantine", DEGRADED, reason)
    return Finding("quarantine")


def wanted_room(size: float) -> float:
    """Return how many bytes should be free beside an SQLite database of this size."""
    return min(max(ROOM_BYTES, ROOM_SHARE * size), MOST_ROOM_BYTES)


def _disk(figures: dict[str, float]) -> Finding:
    free, size = figures.get("database_disk_free_bytes"), figures.get("database_bytes", 0.0)
    wanted = wanted_room(size)
    if free is None or free >= wanted:
        return Finding("disk")
    reason = (
        f"the disk of the database has {free / 1024**2:.0f} MiB left, {wanted / 1024**2:.0f} are wanted: "
        "make room, or give retention a shorter time; a full disk stores nothing and receipts nothing"
    )
    return Finding("disk", DEGRADED, reason)


def _partitions(found: Found) -> Finding:
    if found.lacking_seconds > LACKING_SECONDS:
        reason = (
            "the next month has no partition yet: a relay makes it, and the log says why not (partitions_in_use, "
            f"database_failed); until then its readings go to {DEFAULT}"
        )
        return Finding("partitions", DEGRADED, reason)
    if found.default_seconds > LATE_LOOKS_SECONDS:
        reason = (
            f"readings lie in {DEFAULT} for at least {found.default_seconds:.0f} s and are not moved to their months: "
            "see partitions_in_use in the relays' log, and whether a table of that month was detached"
        )
        return Finding("partitions", DEGRADED, reason)
    return Finding("partitions")


def _clock(found: Found) -> Finding:
    if abs(found.clock_seconds) <= CLOCK_SECONDS:
        return Finding("clock")
    where = "ahead of" if found.clock_seconds > 0 else "behind"
    reason = (
        f"the database's clock is {abs(found.clock_seconds):.0f} s {where} this process's: "
        "have both machines keep time (NTP)"
    )
    return Finding("clock", DEGRADED, reason)
