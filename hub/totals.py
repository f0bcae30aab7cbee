"""How much of what is expected is stored: of whom it is asked, and which bits of chunks that is. No counting here.

Theory of operation. A window of time is, on each raster, slots from a first to a last one, and these are, in all chunks
of that raster, the same bits. Of an organization, and of all, they are counted in the sums of chunks
(``hub.totals_kept``), however many meters there are. Of a gateway, a group or a meter the chunks are counted
(``hub.totals_counted``). Only expectations that lack some are looked at one by one.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.expectations import slots_within
from hub.ledger_chunks import parts, size_of
from hub.models import LedgerRaster, MeterDevice, NetworkInterface, device_groups
from protocol.rasters import Raster


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """Whose slots are counted; at most one is given, none for all."""

    organization: uuid.UUID | None = None
    gateway: uuid.UUID | None = None
    group: uuid.UUID | None = None
    device: uuid.UUID | None = None

    def devices(self) -> sa.Select[Any] | None:
        """Return the statement of the meters; None where rasters alone tell (an organization, or all)."""
        if self.device is not None:
            return select(MeterDevice.id).where(MeterDevice.id == self.device)
        if self.gateway is not None:
            return (
                select(MeterDevice.id)
                .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
                .where(NetworkInterface.gateway == self.gateway)
            )
        if self.group is not None:
            return select(device_groups.c.device).where(device_groups.c.group == self.group)
        return None


@dataclasses.dataclass(slots=True)
class Totals:
    """Slots that were expected, and that are stored; which expectations lack some; how many are being rebuilt.

    Of very many that lack some not all are named. ``rasters`` are those that were counted.
    """

    expected: int = 0
    stored: int = 0
    lacking: list[int] = dataclasses.field(default_factory=list)
    rebuilding: int = 0
    rasters: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """The slots of one raster that are counted."""

    raster_id: int
    size: int
    first: int
    last: int


async def windows_of(
    session: AsyncSession, scope: Scope, start: dt.datetime, end: dt.datetime, now: dt.datetime
) -> list[Window]:
    """Return the slots of each raster of the scope's organization that lie within [start, end) and until now."""
    statement = select(LedgerRaster)
    if scope.organization is not None:
        statement = statement.where(LedgerRaster.organization == scope.organization)
    found = []
    for row in (await session.execute(statement)).scalars():
        first, last = slots_within(Raster(row.interval, row.anchor_seconds, row.zone), start, end, now)
        if first <= last:
            found.append(Window(row.id, size_of(row.interval), first, last))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Which bits of a chunk a window counts: ``bytes`` whole ones from ``byte`` on, and ``masks`` of others."""

    raster_id: int
    chunk: int
    first: int
    last: int
    byte: int
    bytes: int
    masks: tuple[tuple[int, int], ...]
    """Bytes at the ends, each with the bits that count."""


def parts_of(windows: Sequence[Window]) -> list[Part]:
    """Return the parts of chunks that the windows are."""
    found = []
    for window in windows:
        for part in parts(window.size, window.first, window.last):
            first, end = part.chunk * window.size + part.low, part.low + part.slots
            byte, beyond = -(-part.low // 8), end // 8
            if byte > beyond:
                # All within one byte.
                masks = [(part.low // 8, (1 << part.slots) - 1 << part.low % 8)]
                byte = beyond
            else:
                masks = [(part.low // 8, 0xFF << part.low % 8 & 0xFF)] if part.low % 8 else []
                masks += [(end // 8, (1 << end % 8) - 1)] if end % 8 else []
            found.append(
                Part(window.raster_id, part.chunk, first, first + part.slots - 1, byte, beyond - byte, tuple(masks))
            )
    return found


def bits_within(part: Part) -> str:
    """Return PostgreSQL's words that count a part's bits of ``c.bits``."""
    counted = [f"bit_count(substring(c.bits FROM {part.byte + 1} FOR {part.bytes}))"] if part.bytes else []
    counted += [
        f"bit_count(set_byte('\\x00'::bytea, 0, get_byte(c.bits, {byte}) & {mask}))" for byte, mask in part.masks
    ]
    return " + ".join(counted)
