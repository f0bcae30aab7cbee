"""A TCP proxy with gates: each direction can be shut, so that a process sees the other but is not heard."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

CHUNK = 65_536


class Gate:
    """One proxied port. ``shut(upstream=True)`` keeps back what clients send; ``open`` lets it flow again."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self.port: int = self._listener.getsockname()[1]
        self._up = threading.Event()
        self._down = threading.Event()
        self._ended = threading.Event()
        self.open()
        self._threads = [threading.Thread(target=self._accept, name="gate")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """The address in the form that agent and hub take."""
        return f"mqtt://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Let both directions flow."""
        self._up.set()
        self._down.set()

    def shut(self, *, upstream: bool = False, downstream: bool = False) -> None:
        """Keep back what clients send (upstream) or what the target sends (downstream)."""
        if upstream:
            self._up.clear()
        if downstream:
            self._down.clear()

    def close(self) -> None:
        """End all connections and the listener."""
        self._ended.set()
        self.open()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), timeout=2)
                except OSError:
                    client.close()
                    continue
                for source, sink, gate in ((client, server, self._up), (server, client, self._down)):
                    thread = threading.Thread(target=self._pump, args=(source, sink, gate), name="gate-pump")
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(source, selectors.EVENT_READ)
            while not self._ended.is_set():
                if not selector.select(0.2):
                    continue
                data = source.recv(CHUNK)
                while not gate.wait(0.2):
                    if self._ended.is_set():
                        break
                if not data:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


@contextlib.contextmanager
def gate(target: int) -> Iterator[Gate]:
    """Put a gate in front of a port of the loopback for the length of the block."""
    opened = Gate(target)
    try:
        yield opened
    finally:
        opened.close()
