"""Whether the hub lives, is ready, and what it lacks: ``/health``, ``/health/live``, ``/health/ready``, ``/metrics``.

Open to everybody, because those who ask are machines; nothing here tells of meters or customers.
"""

import datetime as dt

import msgspec
from litestar import Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from hub import deadlines_gauged
from hub.database import UNREACHABLE, database_problems, reading
from hub.models import Backfill, Base, Command, Gateway, LossRecord, Quarantined, Reading, StagedReading
from hub.rivals import conflict_of
from hub.state import Hub, HubRequest, hub_of
from protocol.commands import FINAL_STATES

LIVE = "live"
READY = "ready"
DEGRADED = "degraded"
UNAVAILABLE = "unavailable"
_PROMETHEUS = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")
"""The framework adds the charset itself; twice in one header makes it unreadable to Prometheus."""


class Health(msgspec.Struct, kw_only=True):
    """``status`` is ready, degraded (it works, but ``reasons`` say what it does not keep) or unavailable."""

    status: str
    reasons: list[str] = msgspec.field(default_factory=list)


async def judge(hub: Hub) -> Health:
    """Look at everything that the hub needs to keep its promises."""
    try:
        reasons = await database_problems(hub.engine)
        async with reading(hub.engine) as session:
            quarantined = await _count(session, Quarantined, Quarantined.replayed_at.is_(None))
            staged = await _count(session, StagedReading)
    except (SQLAlchemyError, *UNREACHABLE) as error:
        return Health(status=UNAVAILABLE, reasons=[f"the database does not answer: {type(error).__name__}"])
    if quarantined >= hub.settings.quarantine_rows:
        reasons.append(
            f"the quarantine is full ({quarantined} payloads): what cannot be read is not receipted any more; "
            "look at /v1/quarantine, replay or delete"
        )
    if staged >= hub.settings.staged_rows:
        reasons.append(f"{staged} readings are staged; look at /v1/metering/staged-meter-readings")
    if hub.relay_ready is not None and not hub.relay_ready.is_set():
        reasons.append("the relay is not connected to the broker: nothing is received or sent")
    return Health(status=DEGRADED if reasons else READY, reasons=reasons)


async def _count(session: AsyncSession, model: type[Base], *conditions: ColumnElement[bool]) -> int:
    return (await session.execute(select(func.count()).select_from(model).where(*conditions))).scalar_one()


def _answer(health: Health) -> Response[Health]:
    status = HTTP_503_SERVICE_UNAVAILABLE if health.status == UNAVAILABLE else HTTP_200_OK
    return Response(health, status_code=status)


@get("/health/live", summary="Whether the process answers")
async def live() -> Health:
    """Answer."""
    return Health(status=LIVE)


@get(
    ["/health", "/health/ready"],
    summary="Whether the hub keeps its promises, and if not, why",
    responses={
        HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
            Health, generate_examples=False, description="Requests cannot be served now"
        )
    },
)
async def ready(request: HubRequest) -> Response[Health]:
    """Answer 200 when requests can be served (ready or degraded, with reasons), 503 when not."""
    return _answer(await judge(hub_of(request)))


@get(
    "/metrics",
    summary="Figures for Prometheus",
    media_type=_PROMETHEUS,
    responses={
        HTTP_200_OK: ResponseSpec(
            str, generate_examples=False, media_type=f"{_PROMETHEUS}; charset=utf-8", description="The figures"
        )
    },
)
async def metrics(request: HubRequest) -> Response[bytes]:
    """Count what the database has, beside what this process has counted itself."""
    figures = CollectorRegistry()
    async with reading(hub_of(request).engine) as session:
        for name, text, value in await _figures(session, hub_of(request).clock.now()):
            Gauge(f"metergate_{name}", text, registry=figures).set(value)
        await deadlines_gauged.gauge(session, figures)
    return Response(generate_latest(figures) + generate_latest(REGISTRY), media_type=_PROMETHEUS)


async def _figures(session: AsyncSession, now: dt.datetime) -> list[tuple[str, str, float]]:
    oldest = await session.scalar(select(func.min(Gateway.oldest)).where(Gateway.depth > 0))
    rivalled = (await session.scalars(select(Gateway).where(Gateway.rival_at.is_not(None)))).all()
    return [
        ("gateways", "Gateways known", await _count(session, Gateway)),
        ("gateways_online", "Gateways online", await _count(session, Gateway, Gateway.online.is_(True))),
        (
            "gateways_out_of_step",
            "Gateways that do not run their newest plan",
            await _count(session, Gateway, Gateway.desired_revision != Gateway.applied_revision),
        ),
        (
            "gateway_outbox_rows",
            "Rows that wait on gateways for a receipt",
            (await session.scalar(select(func.coalesce(func.sum(Gateway.depth), 0)))) or 0,
        ),
        (
            "gateway_outbox_oldest_seconds",
            "Age of the oldest row that waits on a gateway for a receipt, as of its last life sign",
            max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0,
        ),
        (
            "gateways_in_conflict",
            "Gateways whose id a second agent uses",
            sum(bool(conflict_of(gateway)) for gateway in rivalled),
        ),
        (
            "gateways_clock_doubted",
            "Gateways that do not believe their clock and run nothing",
            await _count(session, Gateway, Gateway.clock_believed.is_(False)),
        ),
        ("readings", "Readings stored", await _count(session, Reading)),
        ("staged_readings", "Readings that wait for a reason to go", await _count(session, StagedReading)),
        (
            "quarantined",
            "Payloads that could not be read",
            await _count(session, Quarantined, Quarantined.replayed_at.is_(None)),
        ),
        (
            "lost_readings",
            "Readings that gateways had to give up",
            (await session.scalar(select(func.coalesce(func.sum(LossRecord.count), 0)))) or 0,
        ),
        (
            "open_commands",
            "Commands that have not ended",
            await _count(session, Command, Command.state.not_in(FINAL_STATES)),
        ),
        ("backfills_open", "Gaps that are being closed", await _count(session, Backfill, Backfill.ended_at.is_(None))),
        (
            "backfill_line_seconds",
            "Line time that the gaps which are being closed will take",
            (
                await session.scalar(
                    select(func.coalesce(func.sum(Backfill.cost_seconds), 0)).where(Backfill.ended_at.is_(None))
                )
            )
            or 0,
        ),
    ]


router = Router("/", route_handlers=[live, ready, metrics], tags=["health"])
