"""One connection to a hub over HTTP: kept alive, with time-outs, TLS, and retries of what can be done twice.

Rules. A request that may have reached the hub is sent again only if doing it twice is doing it once: a GET, or a POST
with an ``Idempotency-Key``. One that cannot have reached it (nobody listens yet) is always tried again. The token
goes to the address it is meant for and nowhere else: a redirection is an error that says where to. No text of an error
has it.
"""

import contextlib
import http.client
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from client.errors import HubError, NotReachable, SettingsError, error_of

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
TRIES = 4
PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Of a ``Retry-After`` that is obeyed before the next try; a longer one is told."""

_FRESH_SECONDS = 2.0
"""So long an idle connection is believed to be open; servers close theirs after five."""

_MULTIPLE_CHOICES, _BAD_REQUEST = 300, 400
_PIECE = 64 * 1024


class Answer(NamedTuple):
    """What came back; ``headers`` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A connection to one hub as somebody. Not for several threads at once.

    ``authorization`` is a whole header's value, such as ``Token <key>``.
    """

    def __init__(
        self,
        url: str,
        authorization: str | None = None,
        *,
        ca: Path | None = None,
        seconds: float = ANSWER_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self._host, self._port, self._base, tls = _read_url(url)
        if authorization is not None and not (authorization.isascii() and authorization.isprintable()):
            raise SettingsError("the token has characters that no token has: is it the right file?")
        self._authorization = authorization
        self._tls = _trusting(ca) if tls else None
        self._seconds = seconds
        self._sleep = sleep
        self._open: http.client.HTTPConnection | None = None
        self._used = 0.0

    def __repr__(self) -> str:
        return f"<Connection to {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float | None = None,
    ) -> Answer:
        """Send a request and return the whole answer. ``seconds`` is the longest silence that is waited for.

        Raises:
            NotReachable: when the hub does not answer; the text says if it may have done what was asked.
            Refused: when it says no.
        """
        with self.stream(method, path, body, headers, seconds=seconds) as (answer, pieces):
            return answer._replace(body=b"".join(pieces))

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float | None = None,
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Send a request; give its answer without its body, and the body in pieces as they come.

        Raises:
            NotReachable: as ``send``; also when the answer breaks off.
            Refused: when the hub says no.
        """
        response = self._answered(method, path, body, dict(headers or {}), seconds or self._seconds)
        found = {name.lower(): value for name, value in response.getheaders()}
        whole = False

        def pieces() -> Iterator[bytes]:
            nonlocal whole
            try:
                while piece := response.read1(_PIECE):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise NotReachable(f"the answer of {self.url} broke off: {_cause(error)}") from None
            if response.length:
                # read1 takes the end of the connection for the end of the answer.
                raise NotReachable(f"the answer of {self.url} broke off: {response.length} bytes are lacking")
            whole = True

        try:
            yield Answer(response.status, found, b""), pieces()
        finally:
            # What is left of an answer would be taken for the next one.
            response.close()
            if not whole or response.will_close:
                self.close()
            self._used = time.monotonic()

    def _answered(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], seconds: float
    ) -> http.client.HTTPResponse:
        twice = method in {"GET", "HEAD"} or any(name.lower() == "idempotency-key" for name in headers)
        for turn in range(TRIES):
            last = turn == TRIES - 1
            try:
                return self._once(method, path, body, headers, seconds)
            except _Unsent as error:
                problem, may_try = NotReachable(str(error)), True
            except NotReachable as error:
                problem, may_try = error, twice and (error.retry_after or 0) <= LONGEST_PAUSE_SECONDS
            if last or not may_try:
                raise problem
            self._sleep(problem.retry_after or PAUSE_SECONDS * 2**turn * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        raise AssertionError("unreachable")

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], seconds: float
    ) -> http.client.HTTPResponse:
        connection = self._connected(seconds)
        if self._authorization is not None:
            headers = {"Authorization": self._authorization, **headers}
        try:
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            done = "" if method == "GET" else "; it may have been done all the same"
            raise NotReachable(f"{self.url} does not answer: {_cause(error)}{done}") from None
        if response.status < _MULTIPLE_CHOICES:
            return response
        try:
            problem = self._problem(response)
        finally:
            response.close()
            self.close()
        raise problem

    def _problem(self, response: http.client.HTTPResponse) -> HubError:
        if response.status < _BAD_REQUEST:
            place = response.getheader("location", "elsewhere")
            return SettingsError(f"{self.url} sends its callers to {place}: give the hub's own address")
        try:
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return NotReachable(f"the answer of {self.url} broke off: {_cause(error)}")
        return error_of(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _connected(self, seconds: float) -> http.client.HTTPConnection:
        if self._open is not None and time.monotonic() - self._used > _FRESH_SECONDS:
            self.close()
        if self._open is None:
            connection = (
                http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_SECONDS, context=self._tls)
                if self._tls is not None
                else http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
            )
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as error:
                connection.close()
                raise NotReachable(
                    f"the certificate of {self.url} is not believed: {error.verify_message}; "
                    "if it is one of your own authority, give its file with --ca or METERGATE_HUB_CA"
                ) from None
            except OSError as error:
                connection.close()
                raise _Unsent(f"{self.url} cannot be reached: {_cause(error)}") from None
            self._open = connection
        self._open.sock.settimeout(seconds)
        return self._open


class _Unsent(Exception):  # noqa: N818 - said as a sentence
    """Nobody took the connection, so nothing was asked."""


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsError(f"the certificates in {ca} cannot be read: {_cause(error)}") from None


def _read_url(url: str) -> tuple[str, str, int, str, bool]:
    """Return a hub's address as it is shown, its host, port and path, and whether it has TLS.

    Raises:
        SettingsError: when it is none.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urllib.parse.urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise SettingsError("the hub's address is no URL such as https://hub.example.com")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("the hub's address has a user in it: a token is given by itself")
    tls = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix("/v1")
    shown = f"{parts.scheme}://{parts.netloc}{base}"
    return shown, parts.hostname, port or (443 if tls else 80), base, tls
