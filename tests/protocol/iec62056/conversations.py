"""Both roles of the core at the two ends of one wire, for the tests of the core."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from protocol.iec62056 import (
    Ack,
    Connection,
    Data,
    Effect,
    Event,
    Identification,
    Nak,
    Need,
    OptionSelect,
    Parity,
    Pause,
    Prompt,
    ReadBlocks,
    RemoteProtocolError,
    Request,
    Role,
    SwitchRate,
)

EK280 = Identification("Els", "5", "EK280")
Heard = Event | Effect | RemoteProtocolError


def fetch(connection: Connection) -> list[Heard]:
    """Everything that is there, errors included."""
    heard: list[Heard] = []
    while True:
        try:
            item = connection.next_event()
        except RemoteProtocolError as error:
            heard.append(error)
        else:
            if isinstance(item, Need):
                return heard
            heard.append(item)


def telegrams(heard: Iterable[Heard]) -> list[Heard]:
    """What was heard, without effects."""
    return [item for item in heard if not isinstance(item, Pause | SwitchRate)]


Split = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def one_byte_at_a_time(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


@dataclass
class Wire:
    """A reader and a meter; whatever one says the other hears, after the wire has done to it what ``damage`` does."""

    reader: Connection = field(default_factory=lambda: Connection(Role.READER))
    meter: Connection = field(default_factory=lambda: Connection(Role.METER))
    split: Split = whole
    damage: Callable[[bytes], bytes] = bytes

    def say(self, speaker: Connection, event: Event) -> list[Heard]:
        """``speaker`` says ``event``; what the other side hears of it."""
        listener = self.meter if speaker is self.reader else self.reader
        data = self.damage(speaker.send(event))
        fetch(speaker)
        heard = []
        for part in self.split(data):
            listener.receive_data(part)
            heard += fetch(listener)
        return heard

    def ask(self, event: Event) -> list[Heard]:
        return self.say(self.reader, event)

    def answer(self, event: Event) -> list[Heard]:
        return self.say(self.meter, event)

    def open(self, identification: Identification = EK280, address: str = "") -> "Wire":
        self.ask(Request(address))
        self.answer(identification)
        self.ask(OptionSelect(identification.rate_id))
        self.answer(Prompt())
        return self

    def read_archive(self, blocks: list[str]) -> list[str]:
        """The blocks as the reader got them, damaged ones asked for again, as drivers would do it."""
        got: list[str] = []
        heard = self.ask(ReadBlocks("3:V.0", ";;;10"))
        for index, text in enumerate(blocks):
            block = Data(text, last=index == len(blocks) - 1)
            heard = self.answer(block)
            while isinstance(telegrams(heard)[0], RemoteProtocolError):
                assert Nak() in self.ask(Nak())
                heard = self.answer(block)
            [data] = telegrams(heard)
            assert isinstance(data, Data)
            got.append(data.text)
            if not data.last:
                self.ask(Ack())
        return got


def opened(parity: Parity = Parity.AUTO, split: Split = whole) -> Wire:
    """A wire in programming mode."""
    wire = Wire(Connection(Role.READER, parity=parity), Connection(Role.METER, parity=parity), split)
    return wire.open()


SLOW = Identification("ELS", "5", "EK260")
BLOCKS = ["(1)(a)\r\n(2)(b)", "(3)(c)\r\n(4)(d)", "(5)(e)"]

both_splits = pytest.mark.parametrize("split", [whole, one_byte_at_a_time])
both_parities = pytest.mark.parametrize("parity", [Parity.AUTO, Parity.EVEN, Parity.NONE])

__all__ = [
    "BLOCKS",
    "EK280",
    "SLOW",
    "Heard",
    "Split",
    "Wire",
    "both_parities",
    "both_splits",
    "fetch",
    "one_byte_at_a_time",
    "opened",
    "telegrams",
    "whole",
]
