"""What decoders of a byte stream share: frames are found in it, the rest is told as it came."""

import abc
import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from receivers.receiver import Arrival, Undecodable

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Junk:
    """Bytes that are no frame, and why."""

    content: bytes
    cause: str


class Framing(Protocol[F_co]):
    """Finds frames in a stream that comes in any pieces; holds at most ``MAX_BUFFER`` bytes of it."""

    def feed(self, data: bytes) -> Iterator[F_co | Junk]:
        """Add bytes; give what they end."""

    def close(self) -> Iterator[F_co | Junk]:
        """Nothing more comes: give what is left, begin anew."""


class FramedDecoder(abc.ABC, Generic[F]):
    """A decoder of one stream. Implements ``receivers.receiver.Decoder``; ``judge`` is the receiver's own."""

    def __init__(self, framing: Framing[F]) -> None:
        self._framing = framing

    def receive(self, data: bytes, at: dt.datetime) -> list[Arrival]:
        """Judge the frames that these bytes end."""
        return [arrival for frame in self._framing.feed(data) for arrival in self._arrivals(frame, at)]

    def end(self, at: dt.datetime) -> list[Arrival]:
        """Judge what is left."""
        return [arrival for frame in self._framing.close() for arrival in self._arrivals(frame, at)]

    @abc.abstractmethod
    def judge(self, frame: F, at: dt.datetime) -> Iterator[Arrival]:
        """What a frame has."""

    def _arrivals(self, frame: F | Junk, at: dt.datetime) -> Iterator[Arrival]:
        if isinstance(frame, Junk):
            yield Undecodable(frame.content, frame.cause, at)
        else:
            yield from self.judge(frame, at)
