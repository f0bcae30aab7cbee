"""A line without time and with noise: a meter and a reader in one process, and what goes wrong between them.

Rules: the reader's side is an ``agent.links.Link``, the meter's side the simulator's own conversation; both cores are
the real ones. Time is the loop's and passes only while it has nothing else to do, so that every pause and time-out is
kept and none is waited for. Noise strikes a telegram of either side, in exactly one place, by a seeded generator.
"""

import asyncio
import dataclasses
import random
import selectors
from collections.abc import Callable

from agent.simulator.conversations import Conversation, Say

BUSY = 0.0004
"""Seconds that pass on the loop's clock while it works; whoever polls for the end of a pause gets there."""
BURST = (2, 24)
"""Bits from the first damaged one of a burst to its last."""

Strike = Callable[[bytes, random.Random], bytes]


class _Selector(selectors.SelectSelector):
    """Waits for nothing: says how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time pass."""
        self.now += max(timeout or 0.0, BUSY)
        return []


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits."""

    def __init__(self) -> None:
        self.passing = _Selector()
        super().__init__(self.passing)

    def time(self) -> float:
        """Seconds that have passed for whoever runs on it."""
        return self.passing.now


def one_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit is flipped."""
    return flipped(data, rng.randrange(8 * len(data)))


def two_bits(data: bytes, rng: random.Random) -> bytes:
    """Two bits are flipped, anywhere."""
    return flipped(data, *rng.sample(range(8 * len(data)), 2))


def one_column(data: bytes, rng: random.Random) -> bytes:
    """The same bit of two bytes is flipped: the block check does not change."""
    if len(data) < 2:  # noqa: PLR2004 - two bytes
        return one_bit(data, rng)
    bit = rng.randrange(7)
    return flipped(data, *(8 * at + bit for at in rng.sample(range(len(data)), 2)))


def drop(data: bytes, rng: random.Random) -> bytes:
    """One byte is lost."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + 1 :]


def insert(data: bytes, rng: random.Random) -> bytes:
    """One byte comes from nowhere."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes((rng.randrange(256),)) + data[at:]


def double(data: bytes, rng: random.Random) -> bytes:
    """One byte comes twice."""
    at = rng.randrange(len(data))
    return data[: at + 1] + data[at:]


def two_drops(data: bytes, rng: random.Random) -> bytes:
    """Two bytes next to each other are lost."""
    at = rng.randrange(max(1, len(data) - 1))
    return data[:at] + data[at + 2 :]


def swap(data: bytes, rng: random.Random) -> bytes:
    """One byte is lost, and the same one comes somewhere else: the block check does not change."""
    at = rng.randrange(len(data))
    rest = data[:at] + data[at + 1 :]
    to = rng.randrange(len(rest) + 1)
    return rest[:to] + data[at : at + 1] + rest[to:]


def burst(data: bytes, rng: random.Random) -> bytes:
    """From one bit to another everything is random."""
    first = rng.randrange(8 * len(data))
    last = min(8 * len(data), first + rng.randint(*BURST))
    return flipped(data, first, *(at for at in range(first + 1, last) if rng.random() < 0.5))  # noqa: PLR2004 - a coin


def flipped(data: bytes, *bits: int) -> bytes:
    """``data`` with these bits flipped; bits count from the lowest of the first byte."""
    damaged = bytearray(data)
    for bit in bits:
        damaged[bit >> 3] ^= 1 << (bit & 7)
    return bytes(damaged)


@dataclasses.dataclass(slots=True)
class Noise:
    """Strikes a telegram with the probability that one of its bytes is struck at ``rate`` a byte."""

    strike: Strike
    rate: float
    rng: random.Random
    struck: int = 0

    def __call__(self, data: bytes) -> bytes:
        """What becomes of one telegram."""
        if not data or self.rng.random() >= 1 - (1 - self.rate) ** len(data):
            return data
        self.struck += 1
        return self.strike(data, self.rng)


@dataclasses.dataclass(slots=True)
class Once:
    """Puts ``damaged`` in the place of the first telegram that is ``telegram``, and leaves all others alone."""

    telegram: bytes
    damaged: bytes
    done: bool = False

    def __call__(self, data: bytes) -> bytes:
        """What becomes of one telegram."""
        if self.done or data != self.telegram:
            return data
        self.done = True
        return self.damaged


class NoisyLine:
    """The reader's end of a line with one meter: an ``agent.links.Link``."""

    def __init__(self, meter: Conversation, noise: Callable[[bytes], bytes], loop: InstantLoop) -> None:
        self._meter, self._noise, self._loop = meter, noise, loop
        self._came = bytearray()
        self.telegrams: list[bytes] = []
        self.moved = 0

    @property
    def arrived(self) -> float:
        """Now: what is said is there at once."""
        return self._loop.time()

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - as in Link
        """Return what has come, or let ``timeout`` seconds pass."""
        if not self._came:
            self._loop.passing.now += timeout
            return b""
        data = bytes(self._came)
        self._came.clear()
        return data

    async def write(self, data: bytes) -> None:
        """Let the meter hear it, and keep what it says to it."""
        self.moved += len(data)
        self.telegrams.append(data)
        for action in self._meter.hear(self._noise(data), self._loop.time()):
            if isinstance(action, Say):
                said = b"".join(piece.data for piece in action.pieces)
                self.telegrams.append(said)
                self.moved += len(said)
                self._came += self._noise(said)

    async def set_rate(self, baud: int) -> None:
        """It has none."""

    async def renew(self) -> None:
        """It stays."""

    async def aclose(self) -> None:
        """Nothing is open."""
