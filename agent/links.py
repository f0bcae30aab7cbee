"""The seam between the agent and its ports: everything that touches a line's bytes, on one page.

Rules: ``LinkError`` is the only exception that leaves this module (and cancellation, of course); nothing here knows a
telegram. Every port is opened 8N1 at any rate that the kernel takes, because parity is made and checked in the
protocol core: so UART, pseudo-terminal and transparent TCP are one path. A serial port is opened exclusively: a line
has one owner.
"""

import asyncio
import contextlib
import errno
import socket
import termios
import urllib.parse
from collections.abc import Iterator
from typing import Protocol

import serial
import serial_asyncio_fast

CONNECT_SECONDS = 10.0
"""How long a TCP endpoint may take to accept."""
WRITE_SECONDS = 30.0
"""How long a telegram may take to leave; a wake-up at 300 baud takes two."""
CLOSE_SECONDS = 2.0
"""How long a port may take to close before it is left to the kernel."""
CHUNK = 4096

ADVICE = {
    errno.ENOENT: "no such port; check the cable and the path (ls /dev/serial/by-id)",
    errno.ENXIO: "the port is there but no device is behind it; check the cable",
    errno.ENODEV: "the port is there but no device is behind it; check the cable",
    errno.ENOTTY: "this is not a serial port; check the path",
    errno.EACCES: "this user may not open the port; add it to the group that owns it (often dialout)",
    errno.EPERM: "this user may not open the port; add it to the group that owns it (often dialout)",
    errno.EAGAIN: "the port is held by another process; stop that one, a line has one owner",
    errno.EBUSY: "the port is held by another process; stop that one, a line has one owner",
    errno.EIO: "the port has gone; check the cable",
    errno.ECONNREFUSED: "connection refused; check the port number, and that the device server runs and is free",
    errno.EHOSTUNREACH: "the host cannot be reached; check the network",
    errno.ENETUNREACH: "the network cannot be reached; check the network",
    errno.ECONNRESET: "the other side has closed the connection",
    errno.EPIPE: "the other side has closed the connection",
    errno.ETIMEDOUT: "no connection in time; check host, port and network",
}
"""What a person can do about each cause."""


class LinkError(Exception):
    """A port or connection failed. ``endpoint`` says which, ``what`` says how and what to do."""

    def __init__(self, endpoint: str, what: str) -> None:
        super().__init__(f"{endpoint}: {what}")
        self.endpoint = endpoint
        self.what = what


class Link(Protocol):
    """An open line. Bytes only: no telegrams, no parity."""

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - a time-out is an answer here, not an error
        """Return what has come, as soon as something has; ``b""`` when nothing came in ``timeout`` seconds."""

    async def write(self, data: bytes) -> None:
        """Send; returns when the bytes have left the port (a pseudo-terminal or socket has taken them)."""

    async def set_rate(self, baud: int) -> None:
        """Set the port's rate; a socket has none."""

    async def aclose(self) -> None:
        """Close; never fails."""


class _StreamLink:
    """The one implementation: asyncio streams, with the serial port behind them if there is one."""

    def __init__(
        self,
        endpoint: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: serial.Serial | None = None,
    ) -> None:
        self._endpoint, self._reader, self._writer, self._port = endpoint, reader, writer, port

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - as in Link
        with _mapped(self._endpoint):
            try:
                async with asyncio.timeout(timeout) as scope:
                    data = await self._reader.read(CHUNK)
            except TimeoutError:
                if scope.expired():
                    return b""
                raise  # the kernel's own, of a connection that is dead
        if not data:
            raise LinkError(self._endpoint, "the other side has closed the connection")
        return data

    async def write(self, data: bytes) -> None:
        with _mapped(self._endpoint):
            try:
                async with asyncio.timeout(WRITE_SECONDS) as scope:
                    self._writer.write(data)
                    await self._writer.drain()
                    if self._port is not None:
                        # tcdrain blocks until the last bit has left, so it must not hold up the other lines.
                        await asyncio.to_thread(self._port.flush)
            except TimeoutError:
                if not scope.expired():
                    raise
                if self._port is not None:
                    self._port.reset_output_buffer()  # lets the waiting thread go
                raise LinkError(self._endpoint, "bytes do not leave; check cable, adapter and flow control") from None

    async def set_rate(self, baud: int) -> None:
        if self._port is not None:
            with _mapped(self._endpoint):
                self._port.baudrate = baud

    async def aclose(self) -> None:
        self._writer.close()
        # What fails while closing has no consequence: the port is given up anyway.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer.wait_closed()


async def open_link(endpoint: str, rate: int) -> Link:
    """Open ``/dev/...`` 8N1 at ``rate`` baud, exclusively, or connect to ``socket://host:port``.

    Raises:
        LinkError: when the endpoint is unreadable, absent, refused or held by another process.
    """
    address = read_endpoint(endpoint)
    if address is not None:
        return await _connect(endpoint, *address)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    with _mapped(endpoint):
        port = serial.Serial(endpoint, baudrate=rate, exclusive=True)
        transport, _ = await serial_asyncio_fast.connection_for_serial(loop, lambda: protocol, port)
    return _StreamLink(endpoint, reader, asyncio.StreamWriter(transport, protocol, reader, loop), port)


def read_endpoint(endpoint: str) -> tuple[str, int] | None:
    """Host and port of ``socket://host:port``, or None for a serial port.

    Raises:
        LinkError: when it is neither.
    """
    if endpoint.startswith("/"):
        return None
    if not endpoint.startswith("socket://"):
        raise LinkError(endpoint, "not an endpoint; use /dev/... or socket://host:port")
    try:
        parts = urllib.parse.urlsplit(endpoint)
        host, number = parts.hostname, parts.port
    except ValueError as error:
        raise LinkError(endpoint, f"not an endpoint ({error}); use socket://host:port") from error
    if not host or not number:
        raise LinkError(endpoint, "host or port is missing; use socket://host:port")
    return host, number


async def _connect(endpoint: str, host: str, number: int) -> Link:
    with _mapped(endpoint):
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, number)
        # A device server that loses its power says nothing: let the kernel notice.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return _StreamLink(endpoint, reader, writer)


@contextlib.contextmanager
def _mapped(endpoint: str) -> Iterator[None]:
    """Turn whatever a port or socket raises into ``LinkError``: here and only here."""
    try:
        yield
    except TimeoutError as error:
        raise LinkError(endpoint, ADVICE[errno.ETIMEDOUT]) from error
    except socket.gaierror as error:
        raise LinkError(endpoint, f"the host name is not known ({error.strerror}); check name and DNS") from error
    except (OSError, termios.error, ValueError) as error:
        number = _number(error) or _number(error.__context__)
        if number is None and isinstance(error, serial.SerialException):
            number = errno.EIO  # "readiness to read but returned no data": pulled out
        raise LinkError(endpoint, ADVICE.get(number or 0, str(error))) from error


def _number(error: BaseException | None) -> int | None:
    """The system's error number; pyserial wraps some errors without it, and ``termios.error`` has it in ``args``."""
    number = error.errno if isinstance(error, OSError) else next(iter(error.args if error else ()), None)
    return number if isinstance(number, int) else None
