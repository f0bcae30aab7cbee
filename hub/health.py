"""How the hub is, over REST: ``/health``, ``/health/live``, ``/health/ready``, and ``/metrics`` for Prometheus.

Open to everybody, because those who ask are machines. What is judged is in ``hub.wellbeing``, what is told in
``hub.exposition``; a relay without REST has the same paths on a door of its own (``hub.door``).
"""

from litestar import Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from hub import exposition
from hub.state import HubRequest, hub_of
from hub.wellbeing import LIVE, UNAVAILABLE, Health, judge

_PROMETHEUS = exposition.CONTENT_TYPE.removesuffix("; charset=utf-8")
"""The framework adds the charset itself; twice in one header makes it unreadable to Prometheus."""


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
    health = await judge(hub_of(request))
    status = HTTP_503_SERVICE_UNAVAILABLE if health.status == UNAVAILABLE else HTTP_200_OK
    return Response(health, status_code=status)


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
    """Tell what this process counts and how it is, and while the database answers, what that has."""
    return Response(await exposition.page(hub_of(request)), media_type=_PROMETHEUS)


router = Router("/", route_handlers=[live, ready, metrics], tags=["health"])
