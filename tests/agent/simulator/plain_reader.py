"""A plain reader for the simulator's tests: the protocol core in the role of the reader, on asyncio streams.

It is written here and not borrowed from ``agent.session``, so that the simulator is judged by the protocol alone.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.links import Link, open_link
from protocol.iec62056 import (
    Ack,
    Break,
    Connection,
    Data,
    Event,
    Identification,
    MeterRefusal,
    Nak,
    Need,
    OptionSelect,
    Password,
    Pause,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    RemoteProtocolError,
    Request,
    Role,
    SwitchRate,
    WriteCommand,
)

NOW = dt.datetime(2025, 3, 12, 9, 30, 10, tzinfo=dt.UTC)


class Silence(Exception):  # noqa: N818 - a test's word for no answer
    """Nothing came in time."""


class Reader:
    """One conversation; every method is one telegram and its answer."""

    def __init__(self, link: Link, *, opening_rate: int = 300, patience: float = 1.0) -> None:
        self.link, self.patience = link, patience
        self.connection = Connection(Role.READER, opening_rate=opening_rate)
        self.damaged = 0

    async def ask(self, event: Event) -> Event:
        """Say ``event`` and return the answer; asks again what arrives damaged."""
        await self.link.write(self.connection.send(event))
        while True:
            try:
                answer = self.connection.next_event()
            except RemoteProtocolError:
                self.damaged += 1
                while isinstance(self.connection.next_effect(), Pause | SwitchRate):
                    pass
                await asyncio.sleep(0.05)
                await self.link.write(self.connection.send(Nak()))
                continue
            if isinstance(answer, Need):
                data = await self.link.read(self.patience)
                if not data:
                    raise Silence("the meter did not answer")
                self.connection.receive_data(data)
            elif isinstance(answer, SwitchRate):
                await self.link.set_rate(answer.baud)
            elif not isinstance(answer, Pause):
                if isinstance(answer, Refusal):
                    raise MeterRefusal(answer.code)
                return answer

    async def open(self, address: str = "") -> Identification:
        """Call a meter and enter programming mode."""
        who = await self.ask(Request(address))
        assert isinstance(who, Identification)
        assert isinstance(await self.ask(OptionSelect(who.rate_id)), Prompt)
        return who

    async def read(self, address: str, argument: str = "1") -> str:
        """R1: the text of the answer."""
        answer = await self.ask(ReadCommand(address, argument))
        assert isinstance(answer, Data)
        return answer.text

    async def value(self, address: str) -> str:
        """R1 of one object: what stands in its brackets."""
        return (await self.read(address)).partition("(")[2].removesuffix(")")

    async def rows(self, address: str, argument: str = ";;;10") -> list[tuple[str, ...]]:
        """R3: all rows of all blocks."""
        answer: Event = await self.ask(ReadBlocks(address, argument))
        rows: list[tuple[str, ...]] = []
        while True:
            assert isinstance(answer, Data)
            rows += answer.rows
            if answer.last:
                return rows
            answer = await self.ask(Ack())

    async def write(self, address: str, value: str) -> None:
        """W1."""
        assert isinstance(await self.ask(WriteCommand(address, value)), Ack)

    async def log_in(self, lock: int, code: str) -> None:
        """P1."""
        assert isinstance(await self.ask(Password.for_lock(lock, code)), Ack)

    async def end(self) -> None:
        """Break."""
        await self.link.write(self.connection.send(Break()))
        while isinstance(self.connection.next_effect(), SwitchRate):
            await self.link.set_rate(self.connection.rate)


@asynccontextmanager
async def reading(endpoint: str, *, opening_rate: int = 300, patience: float = 1.0) -> AsyncIterator[Reader]:
    link = await open_link(endpoint, opening_rate)
    try:
        yield Reader(link, opening_rate=opening_rate, patience=patience)
    finally:
        await link.aclose()


class SetClock:
    """A clock that stands until a test moves it."""

    def __init__(self, instant: dt.datetime = NOW) -> None:
        self.instant = instant

    def now(self) -> dt.datetime:
        """The instant."""
        return self.instant

    def advance(self, **span: float) -> None:
        """Let time pass."""
        self.instant += dt.timedelta(**span)
