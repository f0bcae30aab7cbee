"""Plans of gateways (additive, ``/v1/gateways/{id}/plans``): which there were, what they say, and how they differ.

``/plans/diff?from=applied&to=desired`` answers why a gateway does not run what it should: what differs, what of it the
gateway cannot run, and what it waits for. A revision is a number, or one of ``WORDS``.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from litestar import Response, Router, get
from litestar.params import FromPath, QueryParameter
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from hub import plans
from hub.access import access_of
from hub.database import reading
from hub.etags import Looked, is_known, not_modified, tag_of, with_tag
from hub.gateways import RESOURCE, missing_keys
from hub.models import Gateway, GatewayPlan
from hub.paging import Page, query_of
from hub.plans_shown import EMPTY, Difference, Document, Problem, compare, name_problems, read_document
from hub.problems import NotFound
from hub.resources import find
from hub.rivals import conflict_of
from hub.state import HubRequest, hub_of

APPLIED = "applied"
WORDS = ("desired", "published", APPLIED)
"""What a revision may be called by: it should run, was last sent, is run."""

_MOST_DIGITS = 18


class PlanRevision(msgspec.Struct, kw_only=True):
    """A revision of a gateway's plan. ``standing`` says which of desired, published and applied it is now.

    ``made_by`` and ``made_via`` tell who made it and how; both null where the hub did so by itself, or before it kept
    plans. ``published_at`` and ``applied_at`` are when it first was. ``problem_count`` is of the items that the gateway
    cannot run; null until it has applied the plan. ``size`` is in bytes, compressed as it is sent.
    """

    revision: int
    standing: list[str]
    made_at: dt.datetime | None
    made_by: str | None
    made_via: str | None
    published_at: dt.datetime | None
    applied_at: dt.datetime | None
    problem_count: int | None
    size: int


class Plan(PlanRevision, kw_only=True):
    """A revision with what it says, and what the gateway told of it."""

    problems: list[Problem]
    document: Document


class Side(msgspec.Struct, kw_only=True):
    """One of two plans that are compared. Revision 0 is that of a gateway without a plan.

    What it says is not ``kept`` of old plans, nor of those from before this hub kept plans.
    """

    revision: int
    kept: bool
    standing: list[str]
    made_at: dt.datetime | None
    made_by: str | None


class Reason(msgspec.Struct, kw_only=True):
    """Why a gateway does not run all that it should: a word, since when if that is known, and a sentence.

    ``not_published``: it has not been sent. ``never_seen``, ``offline``: the gateway cannot get it now. ``waiting``: it
    was sent, and the gateway has not said that it runs it. ``ahead``: the gateway runs a later one than this database
    knows. ``conflict``: another agent runs under the same id. ``problems``: it runs the plan but for some items.
    ``keys``: what meters push to it cannot be opened.
    """

    reason: str
    since: dt.datetime | None
    text: str


class PlanDifference(msgspec.Struct, kw_only=True):
    """How two plans of a gateway differ. ``reasons`` are of the gateway as it is now, whatever is compared.

    ``differences`` is null when what one of them says is not kept. ``problems`` are those that the gateway told of the
    plan ``after``, or of ``before`` while it told none.
    """

    gateway: uuid.UUID
    gateway_id: str
    before: Side
    after: Side
    in_step: bool
    reasons: list[Reason]
    differences: list[Difference] | None
    problems: list[Problem]


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a revision: ``row`` where it is kept, ``body`` then or rendered anew, ``told`` its problems."""

    revision: int
    row: GatewayPlan | None = None
    body: bytes | None = None
    made_at: dt.datetime | None = None
    told: Sequence[Any] | None = None

    def document(self) -> Document | None:
        """What it says; None when that is not kept."""
        if self.revision == 0:
            return EMPTY
        return None if self.body is None else read_document(self.body)


def _standing(gateway: Gateway, revision: int) -> list[str]:
    return [word for word in WORDS if revision and getattr(gateway, f"{word}_revision") == revision]


def _number(gateway: Gateway, text: str) -> int:
    if text in WORDS:
        number: int = getattr(gateway, f"{text}_revision")
        return number
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return int(text)
    raise NotFound(f"there is no revision {text[:50]!r}: give a number, or one of {', '.join(WORDS)}")


async def _known(session: AsyncSession, gateway: Gateway, text: str) -> _Known:
    """Return what is known of a revision, which may be that it is not kept."""
    revision = _number(gateway, text)
    row = await session.get(GatewayPlan, (gateway.id, revision))
    if row is not None and _is_applied(gateway, row):
        return _Known(revision, row, row.body, row.made_at, gateway.applied_problems)
    if row is not None and text != APPLIED:
        return _Known(revision, row, row.body, row.made_at, row.problems)
    if row is None and 0 < revision == gateway.desired_revision:
        rendered = await plans.render(session, gateway.id)
        told = gateway.applied_problems if revision == gateway.applied_revision else None
        body = rendered.body if rendered is not None else None
        return _Known(revision, None, body, gateway.desired_at, told)
    # After a database was put back, what runs under the number that is kept may be another plan.
    return _Known(revision, told=gateway.applied_problems if text == APPLIED and revision else None)


def _is_applied(gateway: Gateway, row: GatewayPlan) -> bool:
    return gateway.applied_revision == row.revision and gateway.applied_digest in {None, row.digest}


def _revision(gateway: Gateway, known: _Known, size: int) -> PlanRevision:
    row = known.row
    return PlanRevision(
        revision=known.revision,
        standing=_standing(gateway, known.revision),
        made_at=known.made_at,
        made_by=_maker(known),
        made_via=row.made_via if row is not None else None,
        published_at=row.published_at if row is not None else None,
        applied_at=row.applied_at if row is not None else None,
        problem_count=None if known.told is None else len(known.told),
        size=size,
    )


def _maker(known: _Known) -> str | None:
    return known.row.made_by if known.row is not None else None


def reasons_of(gateway: Gateway, published_at: dt.datetime | None, keys: Sequence[str] = ()) -> list[Reason]:
    """Say why a gateway does not run all that it should.

    ``published_at`` is when the desired plan was sent, ``keys`` say what keys lack.
    """
    found = _behind(gateway, published_at)
    if conflict := conflict_of(gateway):
        found.append(Reason(reason="conflict", since=gateway.rival_at, text=conflict))
    if count := len(gateway.applied_problems):
        items = "an item" if count == 1 else f"{count} items"
        text = f"it runs revision {gateway.applied_revision}, but for {items} that it cannot run"
        found.append(Reason(reason="problems", since=None, text=text))
    return [*found, *(Reason(reason="keys", since=None, text=text) for text in keys)]


def _behind(gateway: Gateway, published_at: dt.datetime | None) -> list[Reason]:
    desired, applied, published = gateway.desired_revision, gateway.applied_revision, gateway.published_revision
    if applied == desired:
        return []
    if applied > desired:
        text = f"it runs revision {applied}, which this database does not know; it is published anew above that"
        return [Reason(reason="ahead", since=gateway.last_seen, text=text)]
    found = []
    if published < desired:
        text = f"revision {desired} was not sent yet: a relay has to be connected to the broker"
        found.append(Reason(reason="not_published", since=gateway.desired_at, text=text))
    if gateway.last_seen is None:
        text = "it has never been heard: its agent has not connected yet"
        found.append(Reason(reason="never_seen", since=gateway.created_at, text=text))
    elif not gateway.online:
        text = "it is offline since it was last heard; it gets the plan when it connects"
        found.append(Reason(reason="offline", since=gateway.last_seen, text=text))
    elif published >= desired:
        text = f"revision {desired} was sent, and it has not said that it runs it"
        text = f"{text}; it says: {gateway.status}" if gateway.status else text
        found.append(Reason(reason="waiting", since=published_at, text=text))
    return found


@get("/{row_id:uuid}/plans", summary="List the plans of a gateway that are kept, the newest first")
async def list_plans(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Page[PlanRevision]:
    """Return the last revisions, and those that are desired, published or applied; they are few: one page."""
    query_of(request, [])
    async with reading(hub_of(request).engine) as session:
        gateway: Gateway = await find(session, RESOURCE, row_id, access_of(request))
        rows = await session.execute(
            sa.select(GatewayPlan, sa.func.length(GatewayPlan.body))
            .options(defer(GatewayPlan.body))
            .where(GatewayPlan.gateway == gateway.id)
            .order_by(GatewayPlan.revision.desc())
        )
        shown = [
            _revision(gateway, _Known(row.revision, row, made_at=row.made_at, told=row.problems), size)
            for row, size in rows
        ]
        if gateway.desired_at is not None and gateway.desired_revision not in {one.revision for one in shown}:
            desired = await _known(session, gateway, "desired")
            shown.insert(0, _revision(gateway, desired, len(desired.body or b"")))
    return Page(count=len(shown), next=None, previous=None, results=shown)


@get(
    "/{row_id:uuid}/plans/{revision:str}",
    summary="Show a plan of a gateway",
    description="revision is a number, or desired, published or applied.",
    operation_class=Looked,
)
async def read_plan(request: HubRequest, row_id: FromPath[uuid.UUID], revision: FromPath[str]) -> Response[Plan]:
    """Return what a revision says, without secrets: those in it are sealed for the gateway."""
    query_of(request, [])
    async with reading(hub_of(request).engine) as session:
        gateway: Gateway = await find(session, RESOURCE, row_id, access_of(request))
        known = await _known(session, gateway, revision)
    document = known.document() if known.revision else None
    if document is None:
        raise NotFound(f"revision {known.revision} of the plan of {gateway.gateway_id} is not kept")
    shown = Plan(
        **msgspec.structs.asdict(_revision(gateway, known, len(known.body or b""))),
        problems=name_problems(known.told or [], document),
        document=document,
    )
    tag = tag_of({"revision": known.revision}, shown)
    return not_modified(tag) if is_known(request, tag) else with_tag(shown, tag)


@get(
    "/{row_id:uuid}/plans/diff",
    summary="Show how two plans of a gateway differ, and why it does not run the desired one",
    description="from (applied unless said) and to (desired): numbers, or desired, published or applied.",
)
async def compare_plans(
    request: HubRequest,
    row_id: FromPath[uuid.UUID],
    start: Annotated[str, QueryParameter(name="from")] = APPLIED,
    end: Annotated[str, QueryParameter(name="to")] = "desired",
) -> PlanDifference:
    """Return what was added, removed and changed, field by field, with what the gateway says of it."""
    query_of(request, ["from", "to"])
    async with reading(hub_of(request).engine) as session:
        gateway: Gateway = await find(session, RESOURCE, row_id, access_of(request))
        before = await _known(session, gateway, start)
        after = await _known(session, gateway, end)
        desired = await session.get(GatewayPlan, (gateway.id, gateway.desired_revision))
        published_at = desired.published_at if desired is not None else None
        missing = (await missing_keys(session, [gateway.id])).get(gateway.id, [])
    old, new = before.document(), after.document()
    told = name_problems(after.told, new) if after.told is not None else name_problems(before.told or [], old)
    for side, text in ((before, start), (after, end)):
        if side.body is None and side.revision and text not in WORDS:
            raise NotFound(f"revision {text} of the plan of {gateway.gateway_id} is not kept")
    return PlanDifference(
        gateway=gateway.id,
        gateway_id=gateway.gateway_id,
        before=_side(gateway, before),
        after=_side(gateway, after),
        in_step=gateway.desired_revision == gateway.applied_revision,
        reasons=reasons_of(gateway, published_at, [str(one["text"]) for one in missing]),
        differences=None if old is None or new is None else compare(old, new, told),
        problems=told,
    )


def _side(gateway: Gateway, known: _Known) -> Side:
    return Side(
        revision=known.revision,
        kept=known.revision == 0 or known.body is not None,
        standing=_standing(gateway, known.revision),
        made_at=known.made_at,
        made_by=_maker(known),
    )


router = Router("/v1/gateways", route_handlers=[list_plans, read_plan, compare_plans], tags=["gateway"])
