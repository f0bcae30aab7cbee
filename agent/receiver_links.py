"""The seam between receivers and what they listen to: serial ports, TCP both ways, UDP. Bytes only.

Rules: everything is read in pieces and at the pace of ``Sink.hear``: while it waits nothing is read, so that a flood
stays in the kernel's buffers, which are bounded; what a datagram socket loses there is counted and told. ``LinkError``
is the only exception that leaves this module, and cancellation.
"""

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from agent.links import ADVICE, Link, LinkError
from receivers.endpoints import Endpoint, Way
from receivers.receiver import Decoder

CHUNK = 16_384
"""Bytes of a stream that are taken at once, more or less."""

MOST_CONNECTIONS = 256
"""Meters that may be connected to one ``listen`` endpoint at once."""

GIVES_WAY = 30.0
"""After so many seconds without a payload that could be read a caller gives its place to a new one, if all are taken.

Who says nothing, or a byte a second, keeps no meter out.
"""

IDLE_SECONDS = 3600.0
"""After so long without a byte a connection to a ``listen`` endpoint is given up: the meter has gone."""

QUIET_SECONDS = 300.0
"""After so long without a byte a connection that the gateway has made is made anew."""

DATAGRAM_BYTES = 65_535
_BATCH = 16
_LOOK = 60.0
_SO_RXQ_OVFL = 40
"""Linux: a received datagram tells how many the kernel had to drop before it. socket(7)."""
_BUFFER_BYTES = 1 << 20
_COUNT = struct.Struct("=I")

log = structlog.get_logger(__name__)

Connect = Callable[[str, int], Awaitable[Link]]


class Sink(Protocol):
    """Who takes what comes; ``silence`` is that of the receiver, in seconds."""

    silence: float | None

    def begin(self) -> Decoder:
        """A decoder for one connection, port or datagram."""

    async def hear(self, decoder: Decoder, data: bytes, source: str) -> bool:
        """Take bytes; returns when more may come, and whether they ended a payload that could be read."""

    def cease(self, decoder: Decoder, source: str) -> None:
        """Nothing more comes from there."""

    def missed(self, count: int) -> None:
        """So many payloads were lost before anybody could take them."""

    def works(self) -> None:
        """The endpoint is open."""


async def listen_to(endpoint: Endpoint, rate: int, sink: Sink, connect: Connect) -> None:
    """Take in what comes, for ever.

    Raises:
        LinkError: when the endpoint cannot be opened, or is gone; open it again later.
    """
    match endpoint.way:
        case Way.SERIAL | Way.CONNECT:
            await _from_link(endpoint, rate, sink, connect)
        case Way.LISTEN:
            await _from_callers(endpoint, sink)
        case Way.DATAGRAMS:
            await _from_datagrams(endpoint, sink)
        case Way.BROKER:
            raise LinkError(endpoint.text, "messages of the broker come by the gateway's own connection")


async def _from_link(endpoint: Endpoint, rate: int, sink: Sink, connect: Connect) -> None:
    link = await connect(endpoint.text, rate)
    decoder = sink.begin()
    sink.works()
    quiet = 0.0
    try:
        while True:
            data = await link.read(sink.silence or _LOOK)
            try:
                # What has come meanwhile is taken together; a flood would cost a turn of the loop for every bit of it.
                while data and len(data) < CHUNK and (more := await link.read(0)):
                    data += more
            except LinkError:
                # What came before the end came all the same.
                await sink.hear(decoder, data, endpoint.text)
                raise
            if data:
                quiet = 0.0
                await sink.hear(decoder, data, endpoint.text)
                continue
            if sink.silence is not None:
                sink.cease(decoder, endpoint.text)
            quiet += sink.silence or _LOOK
            if quiet >= QUIET_SECONDS:
                # A device server that lost its power says nothing of it, and a connection to it leads nowhere.
                quiet = 0.0
                await link.renew()
                decoder = sink.begin()
    finally:
        sink.cease(decoder, endpoint.text)
        await link.aclose()


@dataclasses.dataclass(eq=False, slots=True)
class _Caller:
    """A connection to a ``listen`` endpoint, and when it last brought a payload that could be read."""

    source: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    useful: float


async def _from_callers(endpoint: Endpoint, sink: Sink) -> None:
    connected: set[_Caller] = set()
    callers = asyncio.TaskGroup()
    now = asyncio.get_running_loop().time

    def has_room() -> bool:
        if len(connected) < MOST_CONNECTIONS:
            return True
        other = min(connected, key=lambda caller: caller.useful)
        if now() - other.useful < GIVES_WAY:
            return False
        log.debug("caller_gave_way", endpoint=endpoint.text, source=other.source)
        connected.discard(other)
        # Its reader sees the end.
        other.writer.transport.abort()
        return True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        caller = _Caller(f"{peer[0]}:{peer[1]}" if peer else endpoint.text, reader, writer, now())
        try:
            if not has_room():
                sink.missed(1)
                return
            connected.add(caller)
            await _from_caller(caller, sink)
        except (ConnectionError, TimeoutError):
            log.debug("caller_gone", endpoint=endpoint.text)
        finally:
            connected.discard(caller)
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()

    def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: asyncio's own cannot be cancelled without a complaint in Python 3.11.
        callers.create_task(serve(reader, writer))

    try:
        server = await asyncio.start_server(called, endpoint.host, endpoint.port, limit=CHUNK, start_serving=False)
    except OSError as error:
        raise _failed(endpoint, error) from error
    sink.works()
    async with callers, server:
        await server.serve_forever()


async def _from_caller(caller: _Caller, sink: Sink) -> None:
    decoder = sink.begin()
    try:
        quiet = 0.0
        wait = min(sink.silence or IDLE_SECONDS, IDLE_SECONDS)
        while quiet < IDLE_SECONDS:
            try:
                async with asyncio.timeout(wait) as scope:
                    data = await caller.reader.read(CHUNK)
            except TimeoutError:
                if not scope.expired():
                    raise
                quiet += wait
                sink.cease(decoder, caller.source)
                continue
            if not data:
                return
            quiet = 0.0
            if await sink.hear(decoder, data, caller.source):
                caller.useful = asyncio.get_running_loop().time()
    finally:
        sink.cease(decoder, caller.source)


async def _from_datagrams(endpoint: Endpoint, sink: Sink) -> None:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _failed(endpoint, error) from error
    with door:
        try:
            door.setblocking(False)  # noqa: FBT003 - the standard library's own
            with contextlib.suppress(OSError):
                door.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
            door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            door.bind(address)
        except OSError as error:
            raise _failed(endpoint, error) from error
        sink.works()
        dropped = 0
        while True:
            await _readable(door)
            for _ in range(_BATCH):
                try:
                    data, extra, _, peer = door.recvmsg(DATAGRAM_BYTES, socket.CMSG_SPACE(4))
                except BlockingIOError:
                    break
                except OSError as error:
                    raise _failed(endpoint, error) from error
                now = _overflow(extra, dropped)
                if now != dropped:
                    sink.missed((now - dropped) % 2**32)
                    dropped = now
                source = f"{peer[0]}:{peer[1]}"
                decoder = sink.begin()
                await sink.hear(decoder, data, source)
                sink.cease(decoder, source)
            await asyncio.sleep(0)


def _overflow(extra: list[tuple[int, int, bytes]], known: int) -> int:
    """What the kernel says that it dropped since the socket was opened."""
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL and len(data) >= _COUNT.size:
            (count,) = _COUNT.unpack_from(data)
            return int(count)
    return known


async def _readable(door: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(door.fileno(), _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(door.fileno())


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _failed(endpoint: Endpoint, error: OSError) -> LinkError:
    return LinkError(endpoint.text, ADVICE.get(error.errno or 0, error.strerror or str(error)))
