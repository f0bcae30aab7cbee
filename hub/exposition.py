"""The page of figures for Prometheus: what this process counts, how it is, and of a process with REST the whole hub's.

Rules:
- Names begin with ``metergate_``; seconds, bytes and ratios say so at their end, counters end with ``_total``. What is
  released stays.
- The page has the same number of series for one gateway and for ten thousand: nothing is told by gateway, and each
  label has few values that are known beforehand (deadlines, by their name, are ``deadlines_gauged.MOST`` at most).
- There is a page also while the database is away: ``metergate_check_ok`` says that it is.
"""

import asyncio
import importlib.metadata

import prometheus_client
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from hub import deadlines_gauged, wellbeing
from hub.database import UNREACHABLE, reading, schemas
from hub.figures import FIGURES, find
from hub.state import Hub

CONTENT_TYPE = CONTENT_TYPE_LATEST

# When a counter began says nothing that its first value does not, and is as many series again.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


async def page(hub: Hub) -> bytes:
    """Write the page of a process; of a relay without REST it has nothing that a process with REST tells as well."""
    figures = CollectorRegistry()
    _build(figures)
    health = await wellbeing.judge(hub)
    ok = Gauge("metergate_check_ok", "Whether a check of this process's health ended well", ["check"], registry=figures)
    for check, status in health.checks.items():
        ok.labels(check).set(status == wellbeing.OK)
    pages = [figures, REGISTRY]
    if not hub.relays_only and health.checks["database"] == wellbeing.OK:
        pages.append(await _of_database(hub))
    return b"".join(map(generate_latest, pages))


def _build(figures: CollectorRegistry) -> None:
    text = "Which version this is: always 1, the labels say it"
    build = Gauge("metergate_build_info", text, ["version", "schema"], registry=figures)
    build.labels(importlib.metadata.version("metergate"), schemas()[-1]).set(1)


async def _of_database(hub: Hub) -> CollectorRegistry:
    """Return the figures of the whole hub; none when the database went away since it was judged."""
    figures, nothing = CollectorRegistry(), CollectorRegistry()
    try:
        async with asyncio.timeout(wellbeing.PATIENCE_SECONDS):
            found = await find(hub.engine, hub.clock)
            async with reading(hub.engine) as session:
                await deadlines_gauged.gauge(session, figures)
    except (TimeoutError, SQLAlchemyError, *UNREACHABLE):
        return nothing
    for name, value in found.figures.items():
        Gauge(f"metergate_{name}", FIGURES[name], registry=figures).set(value)
    return figures
