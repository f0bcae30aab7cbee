"""The seam between the agent and its ports: everything that touches a line's bytes, on one page.

Rules: ``LinkError`` is the only exception that leaves this module (and cancellation, of course); nothing here knows a
telegram. Every port is opened 8N1 at any rate that the kernel takes, because parity is made and checked in the
protocol core: so UART, pseudo-terminal and transparent TCP are one path. A serial port is opened exclusively: a line
has one owner.
"""

import asyncio
import contextlib
import errno
import os
import socket
import termios
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import serial

from contexts.meters import LineFailure

CONNECT_SECONDS = 10.0
"""How long a TCP endpoint may take to accept."""
WRITE_SECONDS = 30.0
"""How long a telegram may take to leave; a wake-up at 300 baud takes two."""
CHUNK = 4096
BITS = 10
"""Of one character on the wire."""
PTY_MAJORS = range(136, 144)
"""Device numbers of Linux's pseudo-terminals."""
STUCK = "bytes do not leave; check cable, adapter and flow control"

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


Done = TypeVar("Done")


class LinkError(LineFailure):
    """A port or connection failed. ``endpoint`` says which, ``what`` says how and what to do."""

    def __init__(self, endpoint: str, what: str) -> None:
        super().__init__(f"{endpoint}: {what}")
        self.endpoint = endpoint
        self.what = what


class Link(Protocol):
    """An open line. Bytes only: no telegrams, no parity."""

    @property
    def arrived(self) -> float:
        """When the bytes that were read last had come, on the event loop's clock: pauses are counted from there."""

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - a time-out is an answer here, not an error
        """Return what has come, as soon as something has; ``b""`` when nothing came in ``timeout`` seconds."""

    async def write(self, data: bytes) -> None:
        """Send; returns when the bytes have left the port (a pseudo-terminal or socket has taken them)."""

    async def set_rate(self, baud: int) -> None:
        """Set the port's rate; a socket has none."""

    async def renew(self) -> None:
        """Connect anew: a device server may hold a connection that leads nowhere. A port stays as it is."""

    async def aclose(self) -> None:
        """Close; never fails."""


class _PortLink:
    """The one implementation: a file descriptor that does not block, of a serial port or of a socket.

    It is watched only while somebody waits for bytes: a line that nobody listens to costs nothing.
    """

    def __init__(self, endpoint: str, source: serial.Serial | socket.socket, rate: int) -> None:
        self._endpoint, self._source, self._rate = endpoint, source, rate
        self._fd = source.fileno()
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()
        # A pseudo-terminal takes everything at once, and has no wire to wait for.
        self._wired = isinstance(source, serial.Serial) and os.major(os.fstat(self._fd).st_rdev) not in PTY_MAJORS

    @property
    def arrived(self) -> float:
        return self._arrived

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - as in Link
        with _mapped(self._endpoint):
            # Before the first wait nothing may be there yet: of a port that is no end (VMIN 0, VTIME 0).
            data = self._take()
            if data is None or (not data and isinstance(self._source, serial.Serial)):
                data = await self._ready(self._loop.add_reader, self._loop.remove_reader, self._take, timeout)
            else:
                await asyncio.sleep(0)  # whoever never stops talking must not hold up the other lines
        if data is None:
            return b""
        if not data:
            gone = errno.EIO if isinstance(self._source, serial.Serial) else errno.ECONNRESET
            raise LinkError(self._endpoint, ADVICE[gone])
        return data

    def _take(self) -> bytes | None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return None
        self._arrived = self._loop.time()
        return data

    async def _ready(
        self,
        watch: Callable[..., None],
        unwatch: Callable[[int], object],
        act: Callable[[], Done | None],
        seconds: float,
    ) -> Done | None:
        """Act once the descriptor is ready, and not only when this task's turn comes; None when that is not in time."""
        ready: asyncio.Future[Done | None] = self._loop.create_future()
        watch(self._fd, _settle, ready, act)
        timer = self._loop.call_later(seconds, _settle, ready, _nothing)
        try:
            return await ready
        finally:
            timer.cancel()
            unwatch(self._fd)

    async def write(self, data: bytes) -> None:
        begun = self._loop.time()
        deadline = begun + WRITE_SECONDS
        left = data
        with _mapped(self._endpoint):
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    wait = deadline - self._loop.time()
                    if not await self._ready(self._loop.add_writer, self._loop.remove_writer, lambda: True, wait):
                        raise LinkError(self._endpoint, STUCK) from None
            if self._wired and isinstance(self._source, serial.Serial):
                await self._drain(self._source, begun + len(data) * BITS / self._rate, deadline)

    async def _drain(self, port: serial.Serial, leaves: float, deadline: float) -> None:
        """Wait until the last bit has left the port."""
        # tcdrain blocks, and a thread for each of many lines would be much for so small a wait: most of it is slept.
        await asyncio.sleep(max(0.0, leaves - self._loop.time()))
        try:
            async with asyncio.timeout_at(deadline) as scope:
                await asyncio.to_thread(port.flush)
        except TimeoutError:
            if not scope.expired():
                raise
            port.reset_output_buffer()  # lets the waiting thread go
            raise LinkError(self._endpoint, STUCK) from None

    async def set_rate(self, baud: int) -> None:
        self._rate = baud
        if isinstance(self._source, serial.Serial) and self._source.baudrate != baud:
            with _mapped(self._endpoint):
                self._source.baudrate = baud

    async def renew(self) -> None:
        address = read_endpoint(self._endpoint)
        if address is not None:
            self._source.close()
            self._fd = -1  # the number may be somebody else's by the time of a failure
            self._source = await _connect(self._endpoint, *address)
            self._fd = self._source.fileno()

    async def aclose(self) -> None:
        # What fails while closing has no consequence: the port is given up anyway.
        with contextlib.suppress(OSError, termios.error):
            if self._wired and isinstance(self._source, serial.Serial):
                # What was said has left; what is left could not, and would hold up the close.
                self._source.reset_output_buffer()
        with contextlib.suppress(OSError):
            self._source.close()
        self._fd = -1


def _settle(ready: asyncio.Future[Done | None], act: Callable[[], Done | None]) -> None:
    if not ready.done():
        try:
            ready.set_result(act())
        except OSError as error:
            ready.set_exception(error)


def _nothing() -> None:
    """What is done when time is up."""


async def open_link(endpoint: str, rate: int) -> Link:
    """Open ``/dev/...`` 8N1 at ``rate`` baud, exclusively, or connect to ``socket://host:port``.

    Raises:
        LinkError: when the endpoint is unreadable, absent, refused or held by another process.
    """
    address = read_endpoint(endpoint)
    if address is not None:
        return _PortLink(endpoint, await _connect(endpoint, *address), rate)
    with _mapped(endpoint):
        port = serial.Serial(endpoint, baudrate=rate, exclusive=True)
        os.set_blocking(port.fileno(), False)
        return _PortLink(endpoint, port, rate)


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


async def _connect(endpoint: str, host: str, number: int) -> socket.socket:
    """Connect to the first of the host's addresses that takes it."""
    loop = asyncio.get_running_loop()
    with _mapped(endpoint):
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(host, number, type=socket.SOCK_STREAM)
            failure: OSError | None = None
            for family, kind, protocol, _, address in found:
                connection = socket.socket(family, kind, protocol)
                connection.settimeout(0)
                try:
                    await loop.sock_connect(connection, address)
                except OSError as error:
                    connection.close()
                    failure = error
                    continue
                except asyncio.CancelledError:
                    connection.close()
                    raise
                # Telegrams are short and answered; and a device server that loses its power says nothing: let the
                # kernel notice.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return connection
            raise failure or OSError(errno.EHOSTUNREACH, "the host has no address")


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
