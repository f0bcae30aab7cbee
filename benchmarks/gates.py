"""A TCP proxy with faults: a connection through it can be held back in either direction, slowed down, or cut.

``shut(upstream=True)`` makes a half-open connection: what clients send is taken and goes nowhere, until ``open``
lets it flow or ``cut`` loses it. One thread serves one proxied port.
"""

import collections
import contextlib
import dataclasses
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

CHUNK = 65_536
MOST_HELD = 4_194_304
"""Bytes held for one direction of one connection; beyond it the sender is held back by TCP itself."""

IDLE_SECONDS = 0.1
CONNECT_SECONDS = 2.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, as a cut network ends a connection for whoever speaks next."""


@dataclasses.dataclass(eq=False)
class _Stream:
    """One direction of one connection: what was read from ``source`` and when it may go on to ``sink``."""

    source: socket.socket
    sink: socket.socket
    upstream: bool
    held: collections.deque[tuple[float, bytes]] = dataclasses.field(default_factory=collections.deque)
    size: int = 0
    ended: bool = False
    blocked: bool = False


class Gate:
    """One proxied port of the loopback. ``struck`` counts the bytes and connections that a fault has met."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0)
        self.port: int = self._listener.getsockname()[1]
        self.struck = 0
        self._shut = {True: False, False: False}
        self._delay = 0.0
        self._refusing = False
        self._cuts = 0
        self._cuts_done = 0
        self._ended = False
        self._streams: list[_Stream] = []
        self._thread = threading.Thread(target=self._serve, name="gate")
        self._thread.start()

    @property
    def url(self) -> str:
        """The address in the form that agent and hub take for a broker."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._streams) // 2

    def open(self) -> None:
        """Let both directions flow, at once, and take new connections."""
        self._shut = {True: False, False: False}
        self._delay = 0.0
        self._refusing = False

    def shut(self, *, upstream: bool = False, downstream: bool = False) -> None:
        """Hold back what clients send (upstream) or what the target sends (downstream)."""
        self._shut = {True: self._shut[True] or upstream, False: self._shut[False] or downstream}

    def slow(self, seconds: float) -> None:
        """Let everything arrive that much later."""
        self._delay = seconds

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections, with what was held; with ``refuse`` take no new ones until ``open``."""
        self._refusing = refuse
        self._cuts += 1
        wanted = self._cuts
        while self._cuts_done < wanted and self._thread.is_alive():
            time.sleep(IDLE_SECONDS / 10)

    def close(self) -> None:
        """End all connections and the listener."""
        self._ended = True
        self._thread.join()

    def _serve(self) -> None:
        with self._listener:
            while not self._ended:
                reading = [s.source for s in self._streams if not s.ended and s.size < MOST_HELD]
                writing = [s.sink for s in self._streams if s.blocked]
                ready, _, _ = select.select([self._listener, *reading], writing, [], self._patience())
                if self._cuts_done < self._cuts:
                    self._cut()
                    continue
                if self._listener in ready:
                    self._accept()
                for stream in list(self._streams):
                    if stream.source in ready:
                        self._take(stream)
                for stream in list(self._streams):
                    self._pass_on(stream)
            self._cut()

    def _patience(self) -> float:
        now = time.monotonic()
        due = [s.held[0][0] - now for s in self._streams if s.held and not s.blocked and not self._shut[s.upstream]]
        return min([IDLE_SECONDS, *(max(0.0, seconds) for seconds in due)])

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return  # the client has gone again
        if self._refusing:
            self.struck += 1
            _reset(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=CONNECT_SECONDS)
        except OSError:
            _reset(client)
            return
        for end in (client, server):
            end.settimeout(0)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams += [_Stream(client, server, upstream=True), _Stream(server, client, upstream=False)]

    def _take(self, stream: _Stream) -> None:
        if stream not in self._streams:
            return  # its other direction has just ended it
        try:
            data = stream.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._drop(stream)
            return
        if self._delay or self._shut[stream.upstream]:
            self.struck += max(1, len(data))
        stream.ended = not data
        stream.held.append((time.monotonic() + self._delay, data))
        stream.size += len(data)

    def _pass_on(self, stream: _Stream) -> None:
        stream.blocked = False
        while stream.held and stream in self._streams and not self._shut[stream.upstream]:
            due, data = stream.held[0]
            if due > time.monotonic():
                return
            try:
                if data:
                    sent = stream.sink.send(data)
                else:
                    stream.sink.shutdown(socket.SHUT_WR)
                    sent = 0
            except BlockingIOError:
                stream.blocked = True
                return
            except OSError:
                self._drop(stream)
                return
            stream.size -= sent
            stream.held.popleft()
            if sent < len(data):
                stream.held.appendleft((due, data[sent:]))
            elif not data and all(other.ended and not other.held for other in self._pair(stream)):
                self._drop(stream, orderly=True)

    def _pair(self, stream: _Stream) -> list[_Stream]:
        return [other for other in self._streams if other.source in {stream.source, stream.sink}]

    def _drop(self, stream: _Stream, *, orderly: bool = False) -> None:
        for other in self._pair(stream):
            self._streams.remove(other)
            if orderly:
                other.source.close()
            else:
                _reset(other.source)

    def _cut(self) -> None:
        self.struck += self.connections
        for stream in self._streams:
            _reset(stream.source)
        # Whoever the kernel has let in already is cut off too.
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                _reset(client)
        self._streams = []
        self._cuts_done = self._cuts


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()


@contextlib.contextmanager
def gate(target: int) -> Iterator[Gate]:
    """Put a gate in front of a port of the loopback for the length of the block."""
    opened = Gate(target)
    try:
        yield opened
    finally:
        opened.close()
