"""What retention deletes, and how: in slices of bounded size, so that nobody waits for it long.

Rules:
- Readings and events go by their timestamp, staged readings by when they were staged, audit entries by when they were
  noted. The boundary is the beginning of a day (UTC), so that it moves once a day; for readings that of a month where
  the policy has ``readings_whole_months``.
- Before readings go, nothing older is expected any more (``_move_expectations``), in the ledger's turn: what was
  deleted on purpose is no gap, and nobody fetches it again. That boundary (``readings_kept``) never goes back, not even
  when the policy does. A reading that comes later and is older is deleted when the boundary moves next.
- It may end anywhere and is begun again.
- That something was deleted by a policy is noted in the audit log, once for each kind and organization, with the first
  slice.

On PostgreSQL months that go whole are dropped with their partition (``hub.retention_months``), before rows are deleted.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import audit, ledger_sums
from hub.database import reading, writing
from hub.ledger import ledger_turn
from hub.ledger_chunks import size_of
from hub.ledger_folding import fold_gone
from hub.models import (
    AuditEntry,
    Expectation,
    Gateway,
    LedgerChunk,
    LedgerRaster,
    MeterSystemEvent,
    Organization,
    Reading,
    ReadingsKept,
    ReadingVersion,
    RetentionPolicy,
    StagedReading,
)
from hub.retention_months import GoingMonth, drop_months, going_months
from protocol.rasters import Raster

KINDS = ("readings", "events", "staged", "audit")
ROWS = 2000
"""Rows that are deleted in one transaction."""

_chunks = cast("Table", LedgerChunk.__table__)
_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Days:
    """For how many days things are kept; None for ever."""

    readings_days: int | None = None
    events_days: int | None = None
    staged_days: int | None = None
    audit_days: int | None = None
    whole_months: bool = False
    """Readings go by whole months only, and are kept for up to a month longer."""

    def boundary(self, kind: str, now: dt.datetime) -> dt.datetime | None:
        """Return the instant before which things of a kind go; None when they stay."""
        days: int | None = getattr(self, f"{kind}_days")
        if days is None:
            return None
        before = now.replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=days)
        return before.replace(day=1) if kind == "readings" and self.whole_months else before


FOR_EVER = Days()


class Part(msgspec.Struct, kw_only=True):
    """What goes of one kind: all before ``before``, ``count`` of them; the oldest is of ``oldest``."""

    days: int | None
    before: dt.datetime | None
    count: int
    oldest: dt.datetime | None


class Going(msgspec.Struct, kw_only=True):
    """What goes of one organization; of null are staged readings of nobody."""

    organization: uuid.UUID | None
    name: str
    readings: Part
    events: Part
    staged: Part
    audit: Part
    partitions: list[GoingMonth]
    """On PostgreSQL the partitions with readings of this organization that go whole."""


async def days_of(session: AsyncSession) -> Mapping[uuid.UUID | None, Days]:
    """Return what holds for each organization; None has what holds for nobody's."""
    policies = {
        row.organization: Days(
            row.readings_days, row.events_days, row.staged_days, row.audit_days, row.readings_whole_months
        )
        for row in await session.scalars(select(RetentionPolicy))
    }
    everybodys = policies.get(None, FOR_EVER)
    organizations = await session.scalars(select(Organization.id).order_by(Organization.id))
    return {None: everybodys, **{key: policies.get(key, everybodys) for key in organizations}}


def _condition(kind: str, organization: uuid.UUID | None, before: dt.datetime) -> tuple[Any, Any, Any]:
    """Return the table of a kind, the column that its age goes by, and the condition of what goes."""
    if kind == "readings":
        return Reading, Reading.timestamp, sa.and_(Reading.organization == organization, Reading.timestamp < before)
    if kind == "events":
        event = MeterSystemEvent
        return event, event.timestamp, sa.and_(event.organization == organization, event.timestamp < before)
    if kind == "audit":
        # What an organization that is gone has left is nobody's.
        gone = AuditEntry.organization.not_in(select(Organization.id))
        whose = sa.or_(AuditEntry.organization.is_(None), gone) if organization is None else None
        whose = whose if whose is not None else AuditEntry.organization == organization
        return AuditEntry, AuditEntry.at, sa.and_(whose, AuditEntry.at < before)
    # What a gateway brought is its organization's.
    gateways = select(Gateway.id).where(Gateway.organization == organization)
    if organization is None:
        whose = sa.and_(StagedReading.organization.is_(None), StagedReading.gateway.is_(None))
    else:
        nobodys = sa.and_(StagedReading.organization.is_(None), StagedReading.gateway.in_(gateways))
        whose = sa.or_(StagedReading.organization == organization, nobodys)
    return StagedReading, StagedReading.created_at, sa.and_(whose, StagedReading.created_at < before)


async def preview(
    session: AsyncSession, now: dt.datetime, organization: uuid.UUID | None = None, days: Days | None = None
) -> list[Going]:
    """Count what goes now of one organization or of all, by their policies or by these days."""
    names = {row.id: row.name for row in await session.execute(select(Organization.id, Organization.name))}
    policies = dict(await days_of(session))
    asked = [key for key in policies if organization is None or key == organization]
    if days is not None:
        policies |= {key: dataclasses.replace(days, whole_months=policies[key].whole_months) for key in asked}
    before = {key: held.boundary("readings", now) for key, held in policies.items() if key is not None}
    months = await going_months(session, {key: instant for key, instant in before.items() if instant is not None})
    found = []
    for key in asked:
        parts = {kind: await _count(session, kind, key, policies[key], now) for kind in KINDS}
        whole = [month for month, whose in months if key in whose]
        found.append(Going(organization=key, name=names.get(key, "") if key else "", partitions=whole, **parts))
    return found


async def _count(
    session: AsyncSession, kind: str, organization: uuid.UUID | None, days: Days, now: dt.datetime
) -> Part:
    before = days.boundary(kind, now)
    if before is None:
        return Part(days=None, before=None, count=0, oldest=None)
    model, column, condition = _condition(kind, organization, before)
    statement = select(sa.func.count(), sa.func.min(column)).select_from(model).where(condition)
    count, oldest = (await session.execute(statement)).one()
    return Part(days=getattr(days, f"{kind}_days"), before=before, count=count, oldest=oldest)


async def sweep(engine: AsyncEngine, now: dt.datetime) -> dict[str, int]:
    """Delete what is to go; return how many of each kind went."""
    async with reading(engine) as session:
        policies = await days_of(session)
    gone = dict.fromkeys(KINDS, 0)
    gone["readings"] = await _sweep_readings(engine, policies, now)
    for organization, days in policies.items():
        for kind in KINDS:
            before = days.boundary(kind, now)
            if before is not None and kind != "readings":
                gone[kind] += await _delete(engine, kind, organization, before, now)
    if any(gone.values()):
        _log.info("retention_deleted", **gone)
    return gone


async def _sweep_readings(engine: AsyncEngine, policies: Mapping[uuid.UUID | None, Days], now: dt.datetime) -> int:
    """Delete all organizations' readings that go: first whole months, then rows."""
    since: dict[uuid.UUID, dt.datetime] = {}
    left = []
    for organization, days in policies.items():
        before = days.boundary("readings", now)
        if organization is None or before is None or (kept := await _keep_since(engine, organization, before)) is None:
            continue
        since[organization] = kept.since
        if not kept.cleared:
            left.append(organization)
    if not left:
        return 0
    dropped = await drop_months(engine, since, now)
    if dropped.refused:
        return dropped.readings
    count = dropped.readings
    for organization in left:
        before = since[organization]
        count += await _delete(engine, "readings", organization, before, now)
        async with writing(engine) as session:
            await session.execute(
                sa.update(ReadingsKept)
                .where(ReadingsKept.organization == organization, ReadingsKept.since == before)
                .values(cleared=True)
            )
    return count


async def _keep_since(engine: AsyncEngine, organization: uuid.UUID, before: dt.datetime) -> ReadingsKept | None:
    """Have nothing expected from before this; return from when on readings are kept. None when it cannot be now."""
    async with reading(engine) as session:
        kept = await session.get(ReadingsKept, organization)
    if kept is not None and kept.since >= before:
        return kept
    async with ledger_turn(engine, wait=True) as session:
        if session is None:
            return None
        await _move_expectations(session, organization, before)
        return await session.merge(ReadingsKept(organization=organization, since=before, cleared=False))


async def _delete(
    engine: AsyncEngine, kind: str, organization: uuid.UUID | None, before: dt.datetime, now: dt.datetime
) -> int:
    model, column, condition = _condition(kind, organization, before)
    count, last = 0, None
    while True:
        async with audit.changing(engine, audit.the_hub("retention"), now) as session:
            # From where the last slice ended: others' rows before it need not be looked at again.
            further = condition if last is None else sa.and_(condition, column >= last)
            rows = (await session.execute(select(model.id, column).where(further).order_by(column).limit(ROWS))).all()
            if not rows:
                return count
            if last is None:
                told = {"before": before, "of": kind}
                audit.note(session, audit.DELETE, "retention", None, organization, after=told)
            else:
                audit.note_nothing(session)
            last = rows[-1][1]
            ids = [row.id for row in rows]
            if kind == "readings":
                await _delete_versions(session, ids)
            # The bound lets PostgreSQL leave out the partitions of later months.
            await session.execute(
                sa.delete(model).where(model.id.in_(ids), column < before).execution_options(synchronize_session=False)
            )
            count += len(rows)


async def _delete_versions(session: AsyncSession, ids: list[int]) -> None:
    several = select(Reading.meter_device, Reading.series, Reading.timestamp).where(
        Reading.id.in_(ids), Reading.version_count > 1
    )
    keys = (await session.execute(several)).all()
    for start in range(0, len(keys), 300):
        key = sa.tuple_(ReadingVersion.meter_device, ReadingVersion.series, ReadingVersion.timestamp)
        some = [tuple(row) for row in keys[start : start + 300]]
        await session.execute(
            sa.delete(ReadingVersion).where(key.in_(some)).execution_options(synchronize_session=False)
        )


async def _move_expectations(session: AsyncSession, organization: uuid.UUID, before: dt.datetime) -> None:
    """Expect nothing older any more, and take its slots out of chunks and sums: as if it had never been expected."""
    if session.get_bind().dialect.name == "postgresql":
        # A chunk that went with its meter meanwhile would be taken out of the sums with what is cleared here.
        await session.execute(sa.text("LOCK TABLE ledger_chunks IN SHARE ROW EXCLUSIVE MODE"))
    await fold_gone(session)
    rasters = (await session.scalars(select(LedgerRaster).where(LedgerRaster.organization == organization))).all()
    for row in rasters:
        since = Raster(row.interval, row.anchor_seconds, row.zone).first_slot_at_or_after(before)
        older = sa.and_(Expectation.raster == row.id, Expectation.since_slot < since)
        if await session.scalar(select(Expectation.id).where(older).limit(1)) is None:
            continue
        size = size_of(row.interval)
        chunk, low = divmod(since, size)
        if low:
            await _clear(session, row.id, chunk, low)
            await ledger_sums.clear(session, (row.id, chunk), size, low)
        await session.execute(_chunks.delete().where(_chunks.c.raster == row.id, _chunks.c.chunk < chunk))
        await session.execute(
            sa.delete(Expectation)
            .where(older, Expectation.until_slot < since)
            .execution_options(synchronize_session=False)
        )
        await session.execute(
            sa.update(Expectation).where(older).values(since_slot=since).execution_options(synchronize_session=False)
        )
    await fold_gone(session)


async def _clear(session: AsyncSession, raster: int, chunk: int, low: int) -> None:
    """Take the first ``low`` slots out of the chunks that the boundary lies in."""
    last = -1
    while True:
        rows = (
            await session.execute(
                select(_chunks.c.expectation, _chunks.c.bits)
                .where(_chunks.c.raster == raster, _chunks.c.chunk == chunk, _chunks.c.expectation > last)
                .order_by(_chunks.c.expectation)
                .limit(ROWS)
            )
        ).all()
        changed = []
        for row in rows:
            number = int.from_bytes(row.bits, "little")
            left = number >> low << low
            if left != number:
                changed.append({"of": row.expectation, "left": left.to_bytes(len(row.bits), "little")})
        if changed:
            connection = await session.connection()
            await connection.execute(
                _chunks.update()
                .where(_chunks.c.expectation == sa.bindparam("of"), _chunks.c.chunk == chunk)
                .values(bits=sa.bindparam("left")),
                changed,
            )
        if len(rows) < ROWS:
            return
        last = rows[-1].expectation
