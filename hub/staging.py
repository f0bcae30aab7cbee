"""Readings that have to wait: kept with the reason, visible, adopted when the reason is gone (``hub.adoption``).

A repeated delivery is staged once: the identity of a staged reading is a digest over everything that makes it a
different version of a different reading, when it was collected included, so that adoption merges the same versions
as a direct delivery would have.
"""

import datetime as dt
import decimal
import hashlib
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import versions
from hub.columns import to_microseconds
from hub.judging import NOT_THIS_GATEWAY, Claim, Directory
from hub.models import StagedReading
from hub.once import insert_once

_EXACT = decimal.Context(prec=60)
"""Wide enough that no value within the contract's 38 digits is rounded."""


async def stage(session: AsyncSession, waiting: Sequence[tuple[Claim, str]], now: dt.datetime) -> None:
    """Keep the claims with their reasons, each once, in the caller's transaction."""
    rows = [
        {
            "identity": identity(claim),
            "organization": claim.organization,
            "meter_device_name": claim.meter,
            "series_name": claim.series,
            "timestamp": claim.timestamp,
            "value": claim.value,
            "unit": claim.unit,
            "device": claim.device,
            "gateway": claim.gateway,
            "reason": reason,
            "batch": claim.batch,
            "collected": claim.collected,
            "provenance": claim.provenance,
            "clock_offset": claim.clock_offset,
            "created_at": now,
            "updated_at": now,
        }
        for claim, reason in waiting
    ]
    await insert_once(session, StagedReading, rows, "identity")


async def find_repeated(
    session: AsyncSession, directory: Directory, waiting: Iterable[tuple[Claim, str]]
) -> list[bool]:
    """Return for each claim whether it waits for its gateway only and the hub has the same version from another one.

    A store that was copied, or belonged to another gateway, brings such rows: what is there already need not wait.
    """
    arrivals = [directory.by_any_gateway(claim) if reason == NOT_THIS_GATEWAY else None for claim, reason in waiting]
    there = iter(await versions.held(session, [arrival for arrival in arrivals if arrival is not None]))
    return [arrival is not None and next(there) for arrival in arrivals]


async def staged_count(session: AsyncSession) -> int:
    """Return how many readings wait."""
    return (await session.execute(sa.select(sa.func.count()).select_from(StagedReading))).scalar_one()


def claim_of(row: StagedReading) -> Claim:
    """Return what was claimed when the row was staged."""
    return Claim(
        meter=row.meter_device_name,
        series=row.series_name,
        timestamp=row.timestamp,
        value=row.value,
        collected=row.collected,
        device=row.device,
        gateway=row.gateway,
        organization=row.organization,
        unit=row.unit,
        provenance=row.provenance,
        clock_offset=row.clock_offset,
        batch=row.batch,
    )


def identity(claim: Claim) -> bytes:
    """Return the digest that makes two deliveries the same."""
    source = claim.gateway or claim.organization
    parts = (
        source.hex if source else "",
        # With a UUID the name is only for people: a rename must not stage a redelivery again.
        claim.device.hex if claim.device else f"name {claim.meter}",
        claim.series,
        str(to_microseconds(claim.timestamp)),
        # Equal numbers are one version, however many zeros they end with.
        format(claim.value.normalize(_EXACT), "f"),
        str(to_microseconds(claim.collected)),
    )
    return hashlib.sha256("\0".join(parts).encode()).digest()
