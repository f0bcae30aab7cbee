"""The proxy of the benches: it passes on, holds back, slows down and cuts."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.gates import Gate, gate

PATIENCE = 30.0


def echo(listener: socket.socket) -> None:
    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)
            connection.sendall(b"end")

    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,)).start()


@pytest.fixture
def wire() -> Iterator[Gate]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = threading.Thread(target=echo, args=(listener,))
    server.start()
    with gate(listener.getsockname()[1]) as opened:
        yield opened
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    server.join()


def client(wire: Gate) -> socket.socket:
    return socket.create_connection(("127.0.0.1", wire.port), timeout=PATIENCE)


def test_all_bytes_pass_in_order_and_the_end_with_them(wire: Gate) -> None:
    sent = bytes(range(256)) * 4096
    with client(wire) as end:

        def write() -> None:
            end.sendall(sent)
            end.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        heard = b""
        while data := end.recv(65_536):
            heard += data
        writer.join()
    assert heard == sent + b"end"
    assert wire.struck == 0


@pytest.mark.parametrize("upstream", [True, False])
def test_a_half_open_connection_holds_back_until_it_is_opened(wire: Gate, upstream: bool) -> None:  # noqa: FBT001
    with client(wire) as end:
        wire.shut(upstream=upstream, downstream=not upstream)
        end.sendall(b"x")
        end.settimeout(0.3)
        with pytest.raises(TimeoutError):
            end.recv(1)
        assert wire.struck == 1
        wire.open()
        end.settimeout(PATIENCE)
        assert end.recv(1) == b"x"


def test_what_was_held_is_lost_with_a_cut(wire: Gate) -> None:
    with client(wire) as end:
        wire.shut(upstream=True)
        end.sendall(b"lost")
        wire.cut()
        wire.open()
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with client(wire) as end:
        end.sendall(b"x")
        assert end.recv(4) == b"x"


def test_a_cut_that_refuses_lets_nobody_in_until_it_is_opened(wire: Gate) -> None:
    wire.cut(refuse=True)
    with contextlib.suppress(ConnectionError), client(wire) as end:
        assert end.recv(1) == b""
    wire.open()
    with client(wire) as end:
        end.sendall(b"x")
        assert end.recv(1) == b"x"


def test_a_slow_wire_delivers_late(wire: Gate) -> None:
    with client(wire) as end:
        wire.slow(0.2)
        begun = time.monotonic()
        end.sendall(b"x")
        assert end.recv(1) == b"x"
        assert time.monotonic() - begun >= 0.4  # both ways
