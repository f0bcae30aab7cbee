"""Which plans are kept: the last ``KEPT`` revisions of each gateway, and those that are published and applied.

A revision is kept when an edit makes it, in the edit's transaction; one that no edit of this version made, when it is
published. When it was published and applied, and with which problems, is noted once and stays.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit
from hub.among import among
from hub.many import insert_many, update_many
from hub.models import Gateway, GatewayPlan
from protocol.plans import plan_digest
from protocol.reports import PlanApplied

KEPT = 20
"""Revisions of a gateway that are kept."""

_LONGEST_BY = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A revision that has just been made."""

    gateway: uuid.UUID
    revision: int
    body: bytes


async def keep(session: AsyncSession, made: Sequence[Made], now: dt.datetime) -> None:
    """Keep revisions in the transaction that makes them; older ones go."""
    if not made:
        return
    author = audit.author_in(session)
    by, via = (None, None) if author is None else (f"{author.kind} {author.name}"[:_LONGEST_BY], author.via)
    rows = [_row(one, now) | {"made_by": by, "made_via": via} for one in made]
    await insert_many(session, GatewayPlan, ("gateway", "revision"), rows)
    await _forget_old(session, made)


def _row(one: Made, made_at: dt.datetime) -> dict[str, Any]:
    return {
        "gateway": one.gateway,
        "revision": one.revision,
        "digest": plan_digest(one.body),
        "body": one.body,
        "made_at": made_at,
        "made_by": None,
        "made_via": None,
        "published_at": None,
        "applied_at": None,
        "problems": None,
    }


async def _forget_old(session: AsyncSession, made: Sequence[Made]) -> None:
    # Revisions count from 1: of the others there cannot be more than are kept.
    gateways = [one.gateway for one in made if one.revision > KEPT]
    if not gateways:
        return
    place = sa.func.row_number().over(partition_by=GatewayPlan.gateway, order_by=GatewayPlan.revision.desc())
    ranked = (
        sa.select(GatewayPlan.gateway, GatewayPlan.revision, place.label("place"))
        .where(among(session, GatewayPlan.gateway, gateways))
        .subquery()
    )
    old = sa.select(ranked.c.gateway, ranked.c.revision).where(ranked.c.place > KEPT)
    in_use = sa.exists().where(
        Gateway.id == GatewayPlan.gateway,
        GatewayPlan.revision.in_([Gateway.applied_revision, Gateway.published_revision]),
    )
    await session.execute(
        sa.delete(GatewayPlan)
        .where(sa.tuple_(GatewayPlan.gateway, GatewayPlan.revision).in_(old), ~in_use)
        .execution_options(synchronize_session=False)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A revision that the broker has taken."""

    gateway: uuid.UUID
    revision: int
    body: bytes
    digest: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How desired and published a gateway's revisions are, and what is kept of one of them."""

    desired_revision: int
    desired_at: dt.datetime | None
    published_revision: int
    published_digest: bytes | None
    kept_digest: bytes | None
    published_at: dt.datetime | None

    def knows(self, one: Published) -> bool:
        """Whether it is noted that this revision was published, as it was, or a later one."""
        noted = (self.published_revision, self.published_digest) == (one.revision, one.digest)
        kept = self.kept_digest == one.digest and self.published_at is not None
        return kept and (noted or self.published_revision > one.revision)

    def settled(self, one: Published) -> bool:
        """Whether this revision is what the broker should keep."""
        return self.desired_revision <= one.revision >= self.published_revision


async def standing_of(
    session: AsyncSession, published: Sequence[Published], *, locked: bool = False
) -> dict[uuid.UUID, Standing]:
    """Return how these gateways stand, and what is kept of these revisions of theirs; ``locked``: until the end."""
    gateways = [one.gateway for one in published]
    statement = (
        sa.select(
            Gateway.id,
            Gateway.desired_revision,
            Gateway.desired_at,
            Gateway.published_revision,
            Gateway.published_digest,
        )
        .where(among(session, Gateway.id, gateways))
        .order_by(Gateway.gateway_id)
    )
    if locked:
        # Before what is kept is looked at: whoever makes revisions locks the gateway first as well.
        statement = statement.with_for_update(key_share=True)
    rows = (await session.execute(statement)).all()
    wanted = {(one.gateway, one.revision) for one in published}
    kept = await session.execute(
        sa.select(GatewayPlan.gateway, GatewayPlan.revision, GatewayPlan.digest, GatewayPlan.published_at).where(
            among(session, GatewayPlan.gateway, gateways),
            among(session, GatewayPlan.revision, {one.revision for one in published}),
        )
    )
    known = {row.gateway: (row.digest, row.published_at) for row in kept if (row.gateway, row.revision) in wanted}
    return {row.id: Standing(*row[1:], *known.get(row.id, (None, None))) for row in rows}


async def note_published(
    session: AsyncSession, published: Sequence[Published], now: dt.datetime
) -> dict[uuid.UUID, Standing]:
    """Note that plans were published, as they were; return how their gateways stood before.

    One that is not kept yet is kept then. A later revision that was published is not noted away.
    """
    standings = await standing_of(session, published, locked=True)
    there = [one for one in published if one.gateway in standings]
    later = [
        {"id": one.gateway, "published_revision": one.revision, "published_digest": one.digest}
        for one in there
        if standings[one.gateway].published_revision <= one.revision
    ]
    await update_many(session, Gateway, ("id",), later)
    new: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    for one in there:
        standing = standings[one.gateway]
        row = {"gateway": one.gateway, "revision": one.revision, "published_at": standing.published_at or now}
        if standing.kept_digest == one.digest and standing.published_at is None:
            new.append(row)
        elif standing.kept_digest not in {None, one.digest}:
            other.append(row | {"body": one.body, "digest": one.digest})
    for noted in (new, other):
        await update_many(session, GatewayPlan, ("gateway", "revision"), noted)
    rows = []
    for one in there:
        standing = standings[one.gateway]
        if standing.kept_digest is None:
            desired = standing.desired_at if standing.desired_revision == one.revision else None
            rows.append(_row(Made(one.gateway, one.revision, one.body), desired or now) | {"published_at": now})
    await insert_many(session, GatewayPlan, ("gateway", "revision"), rows)
    return standings


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """A gateway's word that it runs a revision."""

    gateway: uuid.UUID
    report: PlanApplied


async def note_applied(session: AsyncSession, applied: Sequence[Applied], now: dt.datetime) -> None:
    """Note that gateways run plans, and what of them they cannot run. The gateways' rows have to be locked.

    A plan of the same number with another digest, from before a database was put back, is another plan. When it was is
    told by the gateway's clock, which may be wrong: then it is when we heard of it.
    """
    told = {(one.gateway, one.report.revision, one.report.digest): one.report for one in applied}
    if not told:
        return
    kept = await session.execute(
        sa.select(
            GatewayPlan.gateway, GatewayPlan.revision, GatewayPlan.digest, GatewayPlan.made_at, GatewayPlan.applied_at
        ).where(
            among(session, GatewayPlan.gateway, {gateway for gateway, _, _ in told}),
            among(session, GatewayPlan.revision, {revision for _, revision, _ in told}),
        )
    )
    noted = []
    for gateway, revision, digest, made_at, applied_at in kept:
        report = told.get((gateway, revision, digest))
        if report is None:
            continue
        at = min(report.at, now)
        noted.append(
            {
                "gateway": gateway,
                "revision": revision,
                "applied_at": applied_at or (at if made_at <= at else now),
                "problems": [msgspec.structs.asdict(problem) for problem in report.problems],
            }
        )
    await update_many(session, GatewayPlan, ("gateway", "revision"), noted)
