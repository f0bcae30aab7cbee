"""New readings by names: the door for pushing meters and for receivers (``/v1/metering/new-meter-readings``).

A reading of a meter that does not exist yet is staged; one whose series the meter may not have is refused, because
here, unlike with a gateway, somebody is there to hear it. A list is taken whole or not at all.
"""

import datetime as dt
import decimal
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import Router, post
from litestar.params import JSONBody
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, judging, staging, versions
from hub.access import access_of
from hub.bodies import Body
from hub.models import Organization
from hub.problems import Wrong, WrongField
from hub.resources import in_transaction
from hub.state import HubRequest, hub_of
from protocol.readings import FROM_PUSH
from protocol.wire import ContractError, Instant, checked_decimal

STAGED = "staged"

_SENTENCES = {
    judging.SERIES_NOT_ALLOWED: ("series", "is not among the configured series of this meter"),
    judging.TIMESTAMP_OUT_OF_BOUNDS: ("timestamp", "lies before 2000 or too far in the future"),
}


class NewReadingBody(Body, kw_only=True):
    """A reading by names. ``organization`` (additive) is needed only where several have a meter of that name."""

    meter: Annotated[str, Meta(min_length=1, max_length=50)]
    series: Annotated[str, Meta(min_length=1, max_length=50)]
    timestamp: Instant
    value: decimal.Decimal
    organization: uuid.UUID | None = None


class NewReading(msgspec.Struct, kw_only=True):
    """A reading as it was taken. ``outcome`` (additive) is stored, duplicate, revision or staged."""

    meter: str
    series: str
    timestamp: dt.datetime
    value: str
    outcome: str


async def take(session: AsyncSession, given: Sequence[NewReadingBody], now: dt.datetime) -> list[str | WrongField]:
    """Store or stage the readings; return for each what became of it, or what is wrong with it."""
    outcomes: list[str | WrongField] = [""] * len(given)
    claims = {}
    claimed = {body.organization for body in given if body.organization is not None}
    known: set[uuid.UUID] = set()
    if claimed:
        known.update((await session.scalars(select(Organization.id).where(Organization.id.in_(claimed)))).all())
    for position, body in enumerate(given):
        try:
            value = checked_decimal(body.value)
        except ContractError as error:
            outcomes[position] = WrongField("value", str(error))
            continue
        if body.organization is not None and body.organization not in known:
            outcomes[position] = WrongField("organization", f"there is no organization {body.organization}")
            continue
        claims[position] = judging.Claim(
            meter=body.meter,
            series=body.series,
            timestamp=body.timestamp,
            value=value,
            collected=now,
            organization=body.organization,
            provenance=FROM_PUSH,
        )
    directory = await judging.look_up(session, claims.values())
    arrivals: dict[int, versions.Arrival] = {}
    waiting = []
    for position, claim in claims.items():
        judgement = directory.judge(claim, now)
        if isinstance(judgement, versions.Arrival):
            arrivals[position] = judgement
        elif judgement in _SENTENCES:
            field, text = _SENTENCES[judgement]
            outcomes[position] = WrongField(field, f"{getattr(given[position], field)} {text}")
        else:
            waiting.append((claim, judgement))
            outcomes[position] = STAGED
    if not any(isinstance(outcome, WrongField) for outcome in outcomes):
        stored = await versions.store(session, list(arrivals.values()), now)
        for position, outcome in zip(arrivals, stored, strict=True):
            outcomes[position] = outcome
        await staging.stage(session, waiting, now)
    return outcomes


READING = "reading"
"""What the audit log calls what is pushed, as the resource does."""


async def _take_all(
    session: AsyncSession, data: NewReadingBody | list[NewReadingBody], now: dt.datetime
) -> list[str | WrongField]:
    outcomes = await take(session, data if isinstance(data, list) else [data], now)
    prefix = "{}." if isinstance(data, list) else ""
    wrong = [
        WrongField(prefix.format(position) + outcome.field, outcome.text)
        for position, outcome in enumerate(outcomes)
        if isinstance(outcome, WrongField)
    ]
    if wrong:
        raise Wrong(*wrong)
    return outcomes


@post("/", summary="Push readings by names")
async def push(
    request: HubRequest, data: JSONBody[NewReadingBody | list[NewReadingBody]]
) -> NewReading | list[NewReading]:
    """Take one reading or a list of them."""
    given = data if isinstance(data, list) else [data]
    hub = hub_of(request)

    async def work(session: AsyncSession) -> list[str | WrongField]:
        outcomes = await _take_all(session, data, hub.clock.now())
        # One entry for all of them: each reading says itself which way it came.
        told = {"count": len(outcomes), "outcomes": Counter(str(outcome) for outcome in outcomes)}
        audit.note(session, "push", READING, None, access_of(request).organization, after=told)
        return outcomes

    outcomes = await in_transaction(request, work)
    taken = [
        NewReading(
            meter=body.meter,
            series=body.series,
            timestamp=body.timestamp,
            value=format(body.value, "f"),
            outcome=str(outcome),
        )
        for body, outcome in zip(given, outcomes, strict=True)
    ]
    return taken if isinstance(data, list) else taken[0]


router = Router("/v1/metering/new-meter-readings", route_handlers=[push], tags=["reading"])
