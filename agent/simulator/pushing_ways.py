"""Where pushing meters send what they say: a pseudo-terminal, a TCP port to be read from, a TCP or UDP receiver.

Rules: a meter that pushes does not wait for anybody. What nobody reads is lost, as on a real line; a receiver that is
away is called again at the next push.
"""

import asyncio
import contextlib
import os
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

MOST_UNREAD = 1 << 20
"""Bytes that wait in this process for a slow reader; what comes beyond is lost."""
_PATIENCE = 5.0


class Outlet(Protocol):
    """Sends bytes somewhere. ``place`` is what somebody else opens to get them, or where they go."""

    place: str

    async def send(self, data: bytes) -> None:
        """Send, or lose."""

    async def restart(self) -> None:
        """Be switched off and on: connections break."""


class _Pty:
    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.place = os.ttyname(self._theirs)

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._ours, data)

    async def restart(self) -> None:
        """A port stays."""

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


class _Server:
    """A device server: everybody who is connected gets everything."""

    def __init__(self) -> None:
        self.place = ""
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, host: str, port: int) -> asyncio.Server:
        server = await asyncio.start_server(self._called, host, port)
        self.place = f"socket://{host}:{server.sockets[0].getsockname()[1]}"
        return server

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError):
                while await reader.read(1024):
                    pass
        finally:
            self._writers.discard(writer)
            await _closed(writer)

    async def send(self, data: bytes) -> None:
        for writer in list(self._writers):
            if writer.transport.get_write_buffer_size() + len(data) <= MOST_UNREAD:
                writer.write(data)
        await asyncio.sleep(0)

    async def restart(self) -> None:
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()


class _Caller:
    """Calls a receiver and pushes; calls again when the connection is gone."""

    def __init__(self, host: str, port: int) -> None:
        self.place = f"listen://{host}:{port}"
        self._address = (host, port)
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, data: bytes) -> None:
        try:
            if self._writer is None or self._writer.is_closing():
                async with asyncio.timeout(_PATIENCE):
                    _, self._writer = await asyncio.open_connection(*self._address)
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, TimeoutError):
            await self.restart()

    async def restart(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await _closed(writer)


class _Datagrams:
    def __init__(self, transport: asyncio.DatagramTransport, place: str) -> None:
        self.place = place
        self._transport = transport

    async def send(self, data: bytes) -> None:
        self._transport.sendto(data)

    async def restart(self) -> None:
        """A datagram has no connection."""


class _Deaf(asyncio.DatagramProtocol):
    """Does not mind that nobody is there."""


@asynccontextmanager
async def outlet(place: str) -> AsyncIterator[Outlet]:
    """Open ``pty``, ``serve:HOST:PORT`` (port 0: any), ``tcp:HOST:PORT`` or ``udp:HOST:PORT`` while the context lasts.

    Raises:
        ValueError: when the place is none of these.
        OSError: when it cannot be opened.
    """
    kind, _, rest = place.partition(":")
    host, _, digits = rest.rpartition(":")
    host = host.strip("[]")
    if place != "pty" and (not host or not digits.isdecimal() or kind not in {"serve", "tcp", "udp"}):
        raise ValueError(f"{place!r}: use pty, serve:HOST:PORT, tcp:HOST:PORT or udp:HOST:PORT")
    match kind:
        case "pty":
            port = _Pty()
            try:
                yield port
            finally:
                port.close()
        case "serve":
            device_server = _Server()
            async with await device_server.serve(host, int(digits)):
                try:
                    yield device_server
                finally:
                    await device_server.restart()
                    await asyncio.sleep(0)
        case "tcp":
            caller = _Caller(host, int(digits))
            try:
                yield caller
            finally:
                await caller.restart()
        case _:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(_Deaf, remote_addr=(host, int(digits)))
            try:
                yield _Datagrams(transport, f"udp://{host}:{digits}")
            finally:
                transport.close()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, TimeoutError):
        await writer.wait_closed()
