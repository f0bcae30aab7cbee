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
from hub.columns import UtcDateTime
from hub.models import Gateway, GatewayPlan
from hub.once import insert_once
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
    await insert_once(session, GatewayPlan, rows, "gateway", "revision")
    await _forget_old(session, [one.gateway for one in made])


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


async def _forget_old(session: AsyncSession, gateways: Sequence[uuid.UUID]) -> None:
    newer = sa.alias(GatewayPlan.__table__)
    oldest_kept = (
        sa.select(newer.c.revision)
        .where(newer.c.gateway == GatewayPlan.gateway)
        .order_by(newer.c.revision.desc())
        .offset(KEPT - 1)
        .limit(1)
        .scalar_subquery()
    )
    in_use = sa.exists().where(
        Gateway.id == GatewayPlan.gateway,
        GatewayPlan.revision.in_([Gateway.applied_revision, Gateway.published_revision]),
    )
    await session.execute(
        sa.delete(GatewayPlan)
        .where(GatewayPlan.gateway.in_(gateways), GatewayPlan.revision < oldest_kept, ~in_use)
        .execution_options(synchronize_session=False)
    )


def standing_of(
    gateway: uuid.UUID, revision: int
) -> sa.Select[int, dt.datetime | None, int, bytes, dt.datetime | None]:
    """Return the question how desired and published a gateway's revisions are, and what is kept of this one."""
    same = sa.and_(GatewayPlan.gateway == Gateway.id, GatewayPlan.revision == revision)
    return (
        sa.select(
            Gateway.desired_revision,
            Gateway.desired_at,
            Gateway.published_revision,
            GatewayPlan.digest,
            GatewayPlan.published_at,
        )
        .outerjoin(GatewayPlan, same)
        .where(Gateway.id == gateway)
    )


async def note_published(
    session: AsyncSession, one: Made, made_at: dt.datetime, now: dt.datetime, *, kept: bool
) -> None:
    """Note that a plan was published, as it was; if it is not ``kept`` yet, it is then.

    ``made_at`` is when it became the desired one. The gateway's row has to be locked: whoever makes revisions locks it
    first as well.
    """
    if not kept:
        await insert_once(session, GatewayPlan, [_row(one, made_at) | {"published_at": now}], "gateway", "revision")
        return
    await session.execute(
        sa.update(GatewayPlan)
        .where(GatewayPlan.gateway == one.gateway, GatewayPlan.revision == one.revision)
        .values(
            published_at=sa.func.coalesce(GatewayPlan.published_at, _instant(now)),
            body=one.body,
            digest=plan_digest(one.body),
        )
        .execution_options(synchronize_session=False)
    )


async def note_applied(session: AsyncSession, gateway: uuid.UUID, report: PlanApplied, now: dt.datetime) -> None:
    """Note that a gateway runs a plan, and what of it it cannot run. The gateway's row has to be locked.

    A plan of the same number with another digest, from before a database was put back, is another plan. When it was is
    told by the gateway's clock, which may be wrong: then it is when we heard of it.
    """
    told = min(report.at, now)
    at = sa.case((GatewayPlan.made_at <= told, _instant(told)), else_=_instant(now))
    await session.execute(
        sa.update(GatewayPlan)
        .where(
            GatewayPlan.gateway == gateway,
            GatewayPlan.revision == report.revision,
            GatewayPlan.digest == report.digest,
        )
        .values(
            applied_at=sa.func.coalesce(GatewayPlan.applied_at, at),
            problems=[msgspec.structs.asdict(problem) for problem in report.problems],
        )
        .execution_options(synchronize_session=False)
    )


def _instant(when: dt.datetime) -> sa.BindParameter[dt.datetime]:
    # In a function or a case SQLAlchemy does not know the column that it is for.
    return sa.literal(when, UtcDateTime())
