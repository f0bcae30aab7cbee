"""What travels between a program and a hub, against a peer that answers what the test says: retries, errors, TLS."""

import contextlib
import datetime as dt
import ipaddress
import queue
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import Changed, Hub, HubError, NotAllowed, NotReachable, NotThere, Refused, SettingsError
from client.connection import TRIES, Connection
from tests.docs.test_readme import free_port

SECRET = "the-key-of-somebody"  # noqa: S105 - nobody's


def answer(status: int, body: str = "", *headers: str) -> bytes:
    """Return an HTTP answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


class Peer(socketserver.ThreadingTCPServer):
    """Gives each request the next answer; b"" closes the connection without one. ``asked`` has the requests."""

    daemon_threads = True

    def __init__(self, *answers: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for one in answers:
            self.answers.put(one)
        self.asked: list[str] = []
        self.tls = tls
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def lines(self, number: int) -> list[str]:
        """Return the lines of a request."""
        return self.asked[number].split("\r\n")


class Handler(socketserver.BaseRequestHandler):
    """Reads requests until one is answered by closing."""

    def handle(self) -> None:
        """Answer what comes."""
        peer = self.server
        assert isinstance(peer, Peer)
        wire = self.request
        if peer.tls is not None:
            try:
                wire = peer.tls.wrap_socket(wire, server_side=True)
            except (ssl.SSLError, OSError):
                return
        with wire:
            while request := self.read(wire):
                peer.asked.append(request)
                said = peer.answers.get()
                wire.sendall(said)
                if not said or b"Connection: close" in said:
                    return

    def read(self, wire: ssl.SSLSocket) -> str:
        """Return a whole request, or nothing at the end."""
        data = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in data:
                more = wire.recv(65536)
                if not more:
                    return ""
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            for line in head.decode().lower().split("\r\n"):
                if line.startswith("content-length:"):
                    while len(body) < int(line.split(":")[1]):
                        body += wire.recv(65536)
            return (head + b"\r\n\r\n" + body).decode()
        return ""


@contextlib.contextmanager
def peer(*answers: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    with Peer(*answers, tls=tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def connection(url: str) -> Iterator[tuple[Connection, list[float]]]:
    """A connection whose pauses are only noted."""
    slept: list[float] = []
    with Connection(url, f"Token {SECRET}", sleep=slept.append, seconds=5) as made:
        yield made, slept


BUSY = answer(503, '{"title": "Service Unavailable", "detail": "the database does not answer"}', "Retry-After: 5")
GOOD = answer(200, '{"id": 7}')


def test_a_get_is_tried_again_when_it_was_not_answered() -> None:
    with peer(b"", BUSY, answer(502, "<html>proxy</html>"), GOOD) as server, connection(server.url) as (made, slept):
        assert made.send("GET", "/v1/things").body == b'{"id": 7}'
        assert len(server.asked) == TRIES
        assert slept[1] == 5, "the hub said when"
        assert all(f"Authorization: Token {SECRET}" in request for request in server.asked)


def test_a_get_is_given_up_with_the_cause() -> None:
    with peer(*[BUSY] * TRIES) as server, connection(server.url) as (made, _):
        with pytest.raises(NotReachable, match="the database does not answer") as caught:
            made.send("GET", "/v1/things")
        assert caught.value.retry_after == 5
    long = answer(503, "", "Retry-After: 3600")
    with peer(long) as server, connection(server.url) as (made, slept):
        with pytest.raises(NotReachable):
            made.send("GET", "/v1/things")
        assert slept == [], "nobody sleeps an hour without being told"


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
def test_what_may_have_been_done_is_not_done_again(method: str) -> None:
    with peer(b"", GOOD) as server, connection(server.url) as (made, _):
        with pytest.raises(NotReachable, match="may have been done"):
            made.send(method, "/v1/things", b"{}")
        assert len(server.asked) == 1


def test_a_post_with_a_key_of_its_own_is_sent_again_the_same() -> None:
    with peer(b"", BUSY, GOOD) as server, connection(server.url) as (made, _):
        made.send("POST", "/v1/things", b'{"a": 1}', {"Idempotency-Key": "k-1"})
        assert len(set(server.asked)) == 1
        assert "Idempotency-Key: k-1" in server.asked[0]


def test_nobody_there_is_tried_again_whatever_is_asked() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with connection(url) as (made, slept):
        with pytest.raises(NotReachable, match=rf"{url} cannot be reached: .*refused"):
            made.send("POST", "/v1/things", b"{}")
        assert len(slept) == TRIES - 1
        assert slept == sorted(slept) or max(slept) < 2


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    closing = answer(200, "1", "Connection: close")
    with peer(GOOD, b"", closing, GOOD) as server, connection(server.url) as (made, _):
        made.send("GET", "/v1/a")
        made.send("GET", "/v1/b")
        made.send("GET", "/v1/c")
    assert [request.split()[1] for request in server.asked] == ["/v1/a", "/v1/b", "/v1/b", "/v1/c"]


def test_silence_and_half_an_answer_are_told() -> None:
    half = answer(200, "x" * 100)[:-60] + b"Connection: close"
    with peer(half) as server, connection(server.url) as (made, _), pytest.raises(NotReachable, match="broke off"):
        made.send("POST", "/v1/things", b"{}")
    with peer() as server, connection(server.url) as (made, _):
        with pytest.raises(NotReachable, match="no answer in time"):
            made.send("POST", "/v1/things", b"{}", seconds=0.1)
        server.answers.put(b"")


PROBLEM = (
    '{"title": "Unprocessable Entity", "status": 422, "detail": "name: this field is required", '
    '"errors": [{"field": "name", "text": "this field is required"}]}'
)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (422, PROBLEM, Refused, "name: this field is required"),
        (401, '{"detail": "the token is not valid"}', NotAllowed, "the token is not valid"),
        (403, "", NotAllowed, "403 Forbidden"),
        (404, '{"detail": "there is no meter"}', NotThere, "there is no meter"),
        (412, '{"detail": "it was changed"}', Changed, "it was changed"),
        (418, "[]", Refused, "418"),
        (500, '{"errors": 3}', Refused, "500 Internal Server Error"),
        (302, "", SettingsError, "sends its callers to http://elsewhere/"),
    ],
)
def test_what_the_hub_says_is_what_the_exception_says(status: int, body: str, kind: type[HubError], text: str) -> None:
    with peer(answer(status, body, "Location: http://elsewhere/")) as server, connection(server.url) as (made, _):
        with pytest.raises(kind) as caught:
            made.send("GET", "/v1/things")
        assert text in str(caught.value)
        if isinstance(caught.value, Refused) and body == PROBLEM:
            assert caught.value.errors == [("name", "this field is required")]
            assert caught.value.status == 422


def test_a_path_before_the_interface_is_kept() -> None:
    for base in ("/meters", "/meters/", "/meters/v1", "/meters/v1/"):
        with peer(GOOD) as server, Hub(server.url + base, SECRET) as hub:
            assert hub.get("gateways", name="a b", online=True) == {"id": 7}
            assert server.lines(0)[0] == "GET /meters/v1/gateways?name=a+b&online=true HTTP/1.1"


@pytest.mark.parametrize(
    "url", ["hub.example.com", "ftp://hub", "https://", "https://me:secret@hub", "http://hub?x", "http://hub:x"]
)
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Hub(url, SECRET)
    assert "secret" not in str(caught.value)


def test_nothing_that_is_printed_has_the_token() -> None:
    with peer(answer(500, "")) as server, Hub(server.url, SECRET) as hub:
        with pytest.raises(Refused) as caught:
            hub.get("gateways")
        shown = [repr(hub), repr(hub._connection), repr(caught.value), str(caught.value)]
        assert not [text for text in shown if SECRET in text]
    with pytest.raises(SettingsError) as odd:
        Hub("http://127.0.0.1", f"{SECRET}\r\nX-More: 1")
    assert SECRET not in str(odd.value)


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make an authority that is its own server at 127.0.0.1; return its certificate's file, and the server's side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "ca.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


def test_a_certificate_is_believed_when_its_authority_is_named(tmp_path: Path) -> None:
    authority, server_side = certificate(tmp_path)
    with peer(GOOD, tls=server_side) as server:
        with Hub(server.url, SECRET, ca=authority) as hub:
            assert hub.get("gateways") == {"id": 7}
        with Hub(server.url, SECRET) as hub, pytest.raises(NotReachable, match=r"is not believed.*--ca"):
            hub.get("gateways")
        assert len(server.asked) == 1, "the token went to nobody who is not believed"
    with pytest.raises(SettingsError, match="cannot be read"):
        Hub("https://hub.example.com", SECRET, ca=tmp_path / "none.pem")


def test_events_are_taken_apart_however_they_arrive() -> None:
    text = ': hello\r\n\r\nid: 4\r\nevent: state\ndata: {"a":\ndata: 1}\n\ndata: x\n\nevent: unfinished\n'
    pieces = "".join(f"{len(one):x}\r\n{one}\r\n" for one in (text[:20], text[20:33], text[33:]))
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with peer(f"{head}{pieces}0\r\n\r\n".encode()) as server, Hub(server.url, SECRET) as hub:
        assert list(hub.events("commands/7/events")) == [("4", "state", '{"a":\n1}'), ("4", "message", "x")]
