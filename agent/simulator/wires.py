"""The two wires that a bus can be put on: a pseudo-terminal and a TCP port.

Rules: bytes only. What arrives is stamped with the monotonic second at which it arrived. A wire does not wait for a
reader that has gone: what nobody takes for two seconds is lost, as on a cable.
"""

import asyncio
import contextlib
import os
import termios
import tty
from typing import Protocol

PATIENCE = 2.0
"""Seconds after which bytes that nobody takes are lost."""
_RATES = {
    getattr(termios, f"B{rate}"): rate
    for rate in (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
    if hasattr(termios, f"B{rate}")
}
"""Baud by the constant that a terminal has for it."""
_RETRY = 0.002
_CHUNK = 4096


class Wire(Protocol):
    """Where bytes come from and go to."""

    async def read(self, seconds: float | None) -> tuple[float, bytes]:
        """Return the next chunk and when it came; raises TimeoutError after ``seconds``, EOFError when it is closed."""

    @property
    def rate(self) -> int | None:
        """Bd at which the reader's port stands; None where that cannot be seen."""

    async def write(self, data: bytes) -> None:
        """Send at once; never raises."""

    def hang_up(self) -> None:
        """Take the line down as seen by the reader."""


class PtyWire:
    """A pseudo-terminal in raw mode; the slave stays open here, so that a reader may come and go."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._master, self._receive)

    def _receive(self) -> None:
        # EIO would mean that no slave is open, but ours is; nothing to read is a race that the loop may lose.
        with contextlib.suppress(BlockingIOError, OSError):
            self._arrived.put_nowait((self._loop.time(), os.read(self._master, _CHUNK)))

    async def read(self, seconds: float | None) -> tuple[float, bytes]:
        """Return the next chunk and when it came; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            return await self._arrived.get()

    @property
    def rate(self) -> int | None:
        """Bd that the reader has set; None for a rate without a name."""
        return _RATES.get(termios.tcgetattr(self._slave)[5])

    async def write(self, data: bytes) -> None:
        """Send; what does not fit into the terminal's buffer for two seconds is lost."""
        deadline = self._loop.time() + PATIENCE
        while data and self._loop.time() < deadline:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await asyncio.sleep(_RETRY)

    def hang_up(self) -> None:
        """A cable has no hang-up: the rest of the answer just does not come."""

    def close(self) -> None:
        """Remove the terminal."""
        self._loop.remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)


class TcpWire:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._receiving = asyncio.create_task(self._receive(), name="simulator connection")

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await self._reader.read(_CHUNK):
                self._arrived.put_nowait((loop.time(), data))
        except OSError:
            pass  # a connection that was reset is a connection that has ended
        finally:
            self._arrived.put_nowait((loop.time(), b""))

    async def read(self, seconds: float | None) -> tuple[float, bytes]:
        """Return the next chunk and when it came; raises TimeoutError, EOFError when the client has gone."""
        async with asyncio.timeout(seconds):
            at, data = await self._arrived.get()
        if not data:
            raise EOFError
        return at, data

    @property
    def rate(self) -> int | None:
        """A connection has none."""
        return None

    async def write(self, data: bytes) -> None:
        """Send; what a client does not take for two seconds is lost."""
        if not self._writer.is_closing():
            self._writer.write(data)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._writer.drain()

    def hang_up(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def aclose(self) -> None:
        """Close the connection and forget it."""
        self._receiving.cancel()
        await asyncio.wait([self._receiving])
        self._writer.close()
        with contextlib.suppress(OSError):
            # Whoever is cancelled here must not take the end from who closes it once more.
            await asyncio.shield(self._writer.wait_closed())
