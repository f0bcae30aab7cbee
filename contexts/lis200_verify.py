"""``verify: twice``: a meter of which only that is believed which came the same twice, each time to its own question.

Rules: reads only; what is written passes through. Two reads in a row must agree word for word, over a whole range of an
archive too, and a refusal counts as an answer; a few pairs are tried, because a value may move between two reads. What
is left is the same error twice in a row.
"""

import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Literal

import msgspec

from contexts.lis200_rows import packed, unpacked
from contexts.meters import Held, Layout, Meter
from protocol.iec62056.errors import MeterRefusal, RemoteProtocolError

TRIES = 5
"""Reads in all before a value or range counts as not to be verified."""

Verify = Annotated[
    Literal["once", "twice"],
    msgspec.Meta(description="'twice' to take only what two reads agree on (twice the line time), else 'once'"),
]


class Disagreement(RemoteProtocolError):  # noqa: N818 - named by what it is
    """No two reads in a row agreed."""


class TwiceRead:
    """A ``contexts.meters.Meter`` that asks another one everything twice."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """As the meter's."""
        return self._meter.zone

    @property
    def mappings(self) -> Mapping[tuple[int, str], str]:
        """As the meter's."""
        return self._meter.mappings

    @property
    def model(self) -> str:
        """As the meter's."""
        return self._meter.model

    async def read(self, address: str) -> list[str]:
        """Read one object until two reads in a row agree.

        Raises:
            Disagreement: when no two of them did.
            MeterRefusal: when the meter says no, twice.
        """
        before: list[str] | int | None = None
        for _ in range(TRIES):
            answer: list[str] | int
            try:
                answer = await self._meter.read(address)
            except MeterRefusal as refusal:
                if before == refusal.code:
                    raise
                answer = refusal.code
            if answer == before and not isinstance(answer, int):
                return answer
            before = answer
        raise Disagreement(f"{address} was read {TRIES} times and no two reads in a row agreed; the last is {before!r}")

    async def write(self, address: str, value: str) -> None:
        """Write one object, once."""
        await self._meter.write(address, value)

    async def layout(self, archive: int) -> Layout:
        """The archive's columns, which a session reads twice anyway."""
        return await self._meter.layout(archive)

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Read a range of an archive until two reads in a row agree, then bring its rows.

        Raises:
            Disagreement: when no two of them did.
            MeterRefusal: when the meter says no, twice.
        """
        before: tuple[list[str], int | None] | None = None
        for _ in range(TRIES):
            rows: list[str] = []
            refused: MeterRefusal | None = None
            try:
                async for block in self._meter.rows(archive, position, start, end):
                    rows += [packed([row]) for row in block]
            except MeterRefusal as refusal:
                refused = refusal
            answer = rows, refused.code if refused else None
            if answer == before:
                if rows:
                    yield [unpacked(row)[0] for row in rows]
                if refused is not None:
                    raise refused
                return
            before = answer
        raise Disagreement(f"archive {archive} was read {TRIES} times and no two reads in a row agreed")

    def held(self, archive: int) -> Held | None:
        """As the meter's."""
        return self._meter.held(archive)

    async def now(self) -> dt.datetime:
        """As the meter's."""
        return await self._meter.now()

    async def enough(self) -> None:
        """As the meter's."""
        await self._meter.enough()

    def under_way(self, characters: int) -> dt.timedelta:
        """As the meter's."""
        return self._meter.under_way(characters)


def verified(meter: Meter, verify: str) -> Meter:
    """The meter as a call with that ``verify`` is to see it."""
    return TwiceRead(meter) if verify == "twice" else meter
