"""Chunks: which of some thousand slots in a row are stored, one bit each. Pure functions.

The slot ``chunk * size + i`` of an expectation is bit i: of byte ``i // 8`` the one with the value ``1 << i % 8``. All
chunks of one interval have the same size, so that a window of time is the same bytes of every meter's chunk.
"""

import bisect
import dataclasses
import enum
from collections.abc import Iterable, Iterator, Sequence

from protocol.rasters import SECONDS

SHORT_SLOTS, LONG_SLOTS = 2048, 256
"""Slots per chunk of intervals below a day (hours: 85 days), and of days and longer ones (days: 8 months)."""

Spans = list[tuple[int, int]]
"""Slots from a first to a last one, both included; in order, apart from one another."""


def size_of(interval: str) -> int:
    """Return how many slots a chunk of this interval has."""
    return SHORT_SLOTS if interval in SECONDS else LONG_SLOTS


class Filling(enum.IntEnum):
    """How far the expected slots of one chunk are stored, in order of time."""

    WHOLE = 0
    """All of them."""
    BEGUN = 1
    """All up to some slot, and none after it: what comes as time goes by, or no longer."""
    HOLED = 2
    """A slot is stored after one that is not; or none has come for so long that it is to be looked at one by one."""


def filling(bits: int, size: int, chunk: int, since: int, until: int | None) -> Filling:
    """Return how a chunk is filled of an expectation that goes from slot ``since`` to ``until`` (None: without end)."""
    begin = max(0, since - chunk * size)
    end = size - 1 if until is None else min(size - 1, until - chunk * size)
    stored = bits >> begin
    if stored == (1 << max(0, end - begin + 1)) - 1:
        return Filling.WHOLE
    # Ones without a gap from the lowest bit on are one less than a power of two.
    return Filling.HOLED if stored & stored + 1 else Filling.BEGUN


class Bits:
    """The slots of one expectation that are stored, as far as they were put in here."""

    __slots__ = ("chunks", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.chunks: dict[int, int] = {}
        """A number per chunk: its bits."""

    def load(self, chunk: int, bits: bytes) -> None:
        """Put a stored chunk in."""
        self.chunks[chunk] = int.from_bytes(bits, "little")

    def add(self, slots: Iterable[int]) -> None:
        """Put slots in."""
        size, chunks = self.size, self.chunks
        if isinstance(slots, range) and slots.step == 1:
            chunk, low = divmod(slots.start, size)
            if slots and low + len(slots) <= size:
                # Nearly always: no object for the part.
                chunks[chunk] = chunks.get(chunk, 0) | (1 << len(slots)) - 1 << low
                return
            for part in parts(size, slots.start, slots.stop - 1):
                chunks[part.chunk] = chunks.get(part.chunk, 0) | (1 << part.slots) - 1 << part.low
            return
        for slot in slots:
            chunk, bit = divmod(slot, size)
            chunks[chunk] = chunks.get(chunk, 0) | 1 << bit

    def drop(self, slots: Iterable[int]) -> None:
        """Take slots out."""
        for slot in slots:
            chunk, bit = divmod(slot, self.size)
            self.chunks[chunk] = self.chunks.get(chunk, 0) & ~(1 << bit)

    def dump(self, chunk: int) -> bytes:
        """Return a chunk as it is stored."""
        return self.chunks.get(chunk, 0).to_bytes(self.size // 8, "little")

    def count(self, first: int, last: int) -> int:
        """Return how many of the slots from first to last are in."""
        return sum(
            (self.chunks.get(part.chunk, 0) >> part.low & (1 << part.slots) - 1).bit_count()
            for part in parts(self.size, first, last)
        )

    def missing(self, first: int, last: int) -> Spans:
        """Return the spans of slots from first to last that are not in."""
        spans: Spans = []
        for part in parts(self.size, first, last):
            mask = (1 << part.slots) - 1
            left = ~(self.chunks.get(part.chunk, 0) >> part.low) & mask
            base = part.chunk * self.size + part.low
            while left:
                low = (left & -left).bit_length() - 1
                length = (~(left >> low) & (left >> low) + 1).bit_length() - 1
                begin, end = base + low, base + low + length - 1
                if spans and spans[-1][1] == begin - 1:
                    spans[-1] = (spans[-1][0], end)
                else:
                    spans.append((begin, end))
                left &= ~((1 << low + length) - 1)
        return spans


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What a window has of one chunk: ``slots`` of them from bit ``low`` on."""

    chunk: int
    low: int
    slots: int


def chunks_of(size: int, slots: Sequence[int]) -> Iterable[int]:
    """Return the numbers of the chunks that have these slots."""
    if isinstance(slots, range) and slots.step == 1:
        return range(slots.start // size, (slots.stop - 1) // size + 1)
    return {slot // size for slot in slots}


def parts(size: int, first: int, last: int) -> Iterator[Part]:
    """Yield the parts of the chunks that the slots from first to last lie in."""
    for chunk in range(first // size, last // size + 1) if first <= last else ():
        low, high = max(first, chunk * size), min(last, chunk * size + size - 1)
        yield Part(chunk, low - chunk * size, high - low + 1)


def cut(spans: Iterable[tuple[int, int]], at: Iterable[int]) -> Spans:
    """Cut the spans so that each slot of ``at`` begins one."""
    cuts = sorted(set(at))
    found: Spans = []
    for first, last in spans:
        begin = first
        for slot in cuts[bisect.bisect_right(cuts, first) : bisect.bisect_right(cuts, last)]:
            found.append((begin, slot - 1))
            begin = slot
        found.append((begin, last))
    return found
