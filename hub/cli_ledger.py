"""``metergate-hub ledger``: compare the ledger with the readings, or make it anew (``hub.ledger`` does both)."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.database import create_engine, reading, schema_problem, writing
from hub.expectations import expectations_of, expected_devices
from hub.ledger import Difference, catch_up, differences, ledger_turn, rebuild_all
from hub.ledger_chunks import size_of
from hub.ledger_folding import fold_gone
from hub.ledger_rebuilding import ask_for_rebuild
from hub.ledger_sums import sum_anew, wrong_sums
from hub.settings import StartError

_DEVICES = 200
"""Meters that are compared in one turn: ingestion goes on meanwhile, only clerks wait."""

_Result = TypeVar("_Result")


class Checked(msgspec.Struct, kw_only=True):
    """What a comparison found: of how many series which do not agree with their readings, and sums with their series.

    ``wrong_sums``: of so many chunks of rasters the totals of organizations are not what their series say.
    """

    series: int
    differing: list[Difference]
    wrong_sums: int = 0

    def text(self) -> str:
        """Say it to a person."""
        lines = [
            f"{one.device} {one.series}: {one.lacking} stored readings are not in the ledger, {one.too_many} slots are "
            f"in it without a reading, the first at {one.first:%Y-%m-%dT%H:%M:%SZ}"
            for one in self.differing
        ]
        if self.wrong_sums:
            lines.append(f"{self.wrong_sums} sums are not those of their series: make the ledger anew")
        return "\n".join([*lines, f"{self.series} series compared, {len(self.differing)} differ"])


class Rebuilt(msgspec.Struct, kw_only=True):
    """Of how many series the ledger was made anew."""

    series: int

    def text(self) -> str:
        """Say it to a person."""
        return f"{self.series} series made anew from their readings"


def check(database: str, device: uuid.UUID | None, clock: Clock) -> Checked:
    """Compare the ledger with the readings, of one meter or of all."""
    return asyncio.run(_with_engine(database, lambda engine: _check(engine, device, clock)))


def rebuild(database: str, device: uuid.UUID | None) -> Rebuilt:
    """Make the ledger anew from the readings, of one meter or of all."""
    return asyncio.run(_with_engine(database, lambda engine: _rebuild(engine, device)))


async def _with_engine(database: str, work: Callable[[AsyncEngine], Awaitable[_Result]]) -> _Result:
    engine = create_engine(database)
    try:
        problem = await schema_problem(engine)
        if problem:
            raise StartError(problem)
        return await work(engine)
    finally:
        await engine.dispose()


async def _devices(engine: AsyncEngine, device: uuid.UUID | None) -> list[uuid.UUID]:
    async with reading(engine) as session:
        found = await expected_devices(session)
    if device is None:
        return found
    if device not in found:
        raise StartError(f"nothing is expected of a meter {device}")
    return [device]


async def _rasters(engine: AsyncEngine, devices: Sequence[uuid.UUID]) -> dict[int, int]:
    """Return the rasters of what is expected of these meters, with the size of their chunks."""
    found: dict[int, int] = {}
    async with reading(engine) as session:
        for start in range(0, len(devices), _DEVICES):
            for one in await expectations_of(session, devices[start : start + _DEVICES]):
                found[one.raster_id] = size_of(one.raster.interval)
    return found


async def _check(engine: AsyncEngine, device: uuid.UUID | None, clock: Clock) -> Checked:
    checked = Checked(series=0, differing=[])
    devices = await _devices(engine, device)
    await rebuild_all(engine)
    for start in range(0, len(devices), _DEVICES):
        await catch_up(engine, clock.now())
        async with ledger_turn(engine, wait=True) as session:
            if session is None:
                continue
            for one in await expectations_of(session, devices[start : start + _DEVICES]):
                found = await differences(session, one)
                checked.series += 1
                checked.differing += [found] if found is not None else []
    # Sums are of all meters' series, not of one's.
    for raster, size in (await _rasters(engine, devices)).items() if device is None else ():
        await catch_up(engine, clock.now())
        async with ledger_turn(engine, wait=True) as session:
            if session is not None:
                await fold_gone(session)
                checked.wrong_sums += len(await wrong_sums(session, raster, size))
    return checked


async def _rebuild(engine: AsyncEngine, device: uuid.UUID | None) -> Rebuilt:
    devices = await _devices(engine, device)
    async with writing(engine) as session:
        series = await ask_for_rebuild(session, devices if device is not None else None)
    await rebuild_all(engine)
    for raster, size in (await _rasters(engine, devices)).items():
        async with ledger_turn(engine, wait=True) as session:
            if session is not None:
                await sum_anew(session, raster, size)
    return Rebuilt(series=series)
