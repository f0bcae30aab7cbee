"""A hub as a program sees it: read, list, create, change, delete, call a meter and wait, take away readings.

    with Hub("https://hub.example.com", token=key) as hub:
        for reading in hub.list(Reading, meter_device=hub.find(Meter, "Heating plant").id):
            print(reading.timestamp, reading.value)

A kind of ``client.records`` gives objects of it, with decimals and times; a path (with or without ``/v1/``) gives what
the hub answers as it is. One ``Hub`` is one connection, for one thread. What is tried again, and how errors look, is
told in ``client.connection`` and ``client.errors``.
"""

import datetime as dt
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar, overload

import msgspec

from client.connection import ANSWER_SECONDS, TRIES, Answer, Connection
from client.errors import NotClear, NotReachable
from client.records import Command, CommandBatch, Record, StateChange

PAGE = 1000
"""Rows that a list gives at once."""

WAIT_SECONDS = 30
"""So long one question waits for a command's end; the next one follows."""

_AGAIN_SECONDS = 0.5
"""Before a stream that ended too early is asked for again."""

_PLACES = "/v1/"
_R = TypeVar("_R", bound=Record)
_Ending = TypeVar("_Ending", StateChange, CommandBatch)
_Answered = dict[str, Any]
_Id = uuid.UUID | int | str
_JSON = "application/json"


class ServerEvent(NamedTuple):
    """A server-sent event."""

    id: str
    name: str
    data: str


class Hub:
    """A hub, asked as whoever the token is of.

    ``token`` is a key of staff or of a machine; ``session`` what a user got for a password (JWT). ``ca`` is a file with
    certificates to believe in place of the system's; ``seconds`` the longest silence that is waited for.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        session: str | None = None,
        ca: Path | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        said = f"Token {token}" if token is not None else f"JWT {session}" if session is not None else None
        self._connection = Connection(url, said, ca=ca, seconds=seconds)
        self._seconds = seconds

    def __repr__(self) -> str:
        return f"<Hub at {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The hub's address."""
        return self._connection.url

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    # What is asked and answered as it is

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Send any request and return the answer as it came. See ``client.connection`` for errors and retries."""
        told = {"Accept": accept, **({"Content-Type": content_type} if body is not None else {}), **(headers or {})}
        return self._connection.send(method, _place(path, query), body, told, seconds=seconds)

    def export(self, path: str, to: BinaryIO, accept: str = "text/csv", **query: object) -> int:
        """Write an answer of any size to a file, piece by piece; return how many bytes it has.

        Raises:
            NotReachable: also when the answer breaks off, and the file has only a part of it.
        """
        count = 0
        with self._connection.stream("GET", _place(path, query), None, {"Accept": accept}) as (_, pieces):
            for piece in pieces:
                count += to.write(piece)
        return count

    def events(self, path: str, after: str = "", until: float | None = None, **query: object) -> Iterator[ServerEvent]:
        """Yield server-sent events as they come, those ``after`` an id; the stream is left at a monotonic instant.

        Raises:
            NotReachable: when the stream breaks off; whoever knows the last id may ask for what came after it.
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        left = self._seconds if until is None else max(0.1, min(self._seconds, until - time.monotonic()))
        with self._connection.stream("GET", _place(path, query), None, headers, seconds=left) as (_, pieces):
            yield from _events(_before(pieces, until))

    # Objects

    @overload
    def get(self, what: type[_R], key: _Id, /, **query: object) -> _R: ...

    @overload
    def get(self, what: str, key: None = None, /, **query: object) -> Any: ...  # noqa: ANN401 - JSON

    def get(self, what: type[Record] | str, key: _Id | None = None, /, **query: object) -> Any:
        """Read one object, or whatever a path answers."""
        path = what if isinstance(what, str) else f"{what.path}/{key}"
        return _read(self.send("GET", path, query).body, what)

    def get_with_etag(self, path: str) -> tuple[_Answered, str]:
        """Read one object with the ETag that ``update`` takes; empty where the object has none."""
        answer = self.send("GET", path)
        return _decode(answer.body, _Answered), answer.headers.get("etag", "")

    @overload
    def list(self, what: type[_R], *, most: int | None = None, **filters: object) -> Iterator[_R]: ...

    @overload
    def list(self, what: str, *, most: int | None = None, **filters: object) -> Iterator[_Answered]: ...

    def list(self, what: type[Record] | str, *, most: int | None = None, **filters: object) -> Iterator[Any]:
        """Yield the objects of a list, or ``most`` of them, page by page as they are taken."""
        path = what if isinstance(what, str) else what.path
        query: Mapping[str, object] = {**filters, "limit": PAGE if most is None else max(1, min(most, PAGE))}
        if not isinstance(what, str) and what.walked and "ordering" not in filters:
            query = {**query, "cursor": ""}
        left = most
        while left is None or left > 0:
            page = _decode(self.send("GET", path, query).body, _Page)
            for raw in page.results[:left]:
                yield _read(raw, what)
            left = None if left is None else left - len(page.results)
            if page.next is None or not page.results:
                return
            # Only the question is taken from there: before a proxy the hub has another address.
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(page.next).query, keep_blank_values=True))

    def count(self, what: type[Record] | str, **filters: object) -> int:
        """Return how many objects a list has."""
        page = self.send("GET", what if isinstance(what, str) else what.path, {**filters, "limit": 1})
        return _decode(page.body, _Page).count or 0

    @overload
    def create(self, what: type[_R], fields: object, *, idempotency_key: str | None = None) -> _R: ...

    @overload
    def create(self, what: str, fields: object = None, *, idempotency_key: str | None = None) -> Any: ...  # noqa: ANN401 - JSON

    def create(self, what: type[Record] | str, fields: object = None, *, idempotency_key: str | None = None) -> Any:
        """Send a POST and return the answer. With an ``idempotency_key`` it is tried again when no answer comes."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
        body = msgspec.json.encode(fields) if fields is not None else None
        path = what if isinstance(what, str) else what.path
        return _read(self.send("POST", path, None, body, headers=headers).body, what)

    def update(self, path: str, changes: Mapping[str, object], *, if_match: str | None = None) -> _Answered:
        """Change the fields that are given and return the object; with an ETag only if nobody did meanwhile.

        Raises:
            Changed: when somebody did.
        """
        headers = {"If-Match": if_match} if if_match else {}
        answer = self.send("PATCH", path, None, msgspec.json.encode(changes), headers=headers)
        changed: _Answered = _decode(answer.body, _Answered)
        return changed

    def delete(self, path: str, *, if_match: str | None = None, **query: object) -> None:
        """Delete an object."""
        self.send("DELETE", path, query, headers={"If-Match": if_match} if if_match else {})

    def find(self, kind: type[_R], said: str, **filters: object) -> _R:
        """Return the object of that id or name; ``filters`` say which of several.

        Raises:
            NotClear: when nothing is called so, or several things are.
        """
        key = _uuid(said)
        if key is not None:
            return self.get(kind, key)
        named = list(self.list(kind, most=11, **{kind.named_by: said, **filters}))
        if len(named) == 1:
            return named[0]
        if not named:
            raise NotClear(f"there is no {kind.noun} called {said!r}")
        ids = ", ".join(str(getattr(one, "id", "")) for one in named[:10])
        raise NotClear(f"{len(named) if len(named) < 11 else 'more than ten'} {kind.noun}s are called {said!r}: {ids}")  # noqa: PLR2004 - as above

    # Calls on demand

    def invoke(
        self,
        meter: uuid.UUID,
        context: str,
        call: str,
        kwargs: Mapping[str, object],
        *,
        more: Mapping[str, object] | None = None,
    ) -> Command:
        """Have a call made on a meter now; return the command, which ``wait_command`` waits for.

        ``more`` are further fields, such as ``ttl_seconds``. However often this is tried, the call is made once.
        """
        asked = {"meter_device": meter, "meter_execution_type": context, "task_call": call, "task_kwargs": kwargs}
        made = self.create("metering/amr-tasks/invoke", {**asked, **(more or {})}, idempotency_key=str(uuid.uuid4()))
        return self.get(Command, made["command"])

    def wait_command(self, command: uuid.UUID, seconds: float = 300) -> Command:
        """Return a command when it has ended, or as it stands after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            wait = max(0, min(WAIT_SECONDS, int(left)))
            answer = self.send("GET", f"{Command.path}/{command}", {"wait": wait}, seconds=self._seconds + wait)
            found: Command = _decode(answer.body, Command)
            if found.final or left <= 0:
                return found
            if wait == 0:
                time.sleep(min(0.2, max(0.0, left)))

    def follow_command(self, command: uuid.UUID, seconds: float = 300) -> Iterator[StateChange]:
        """Yield each state of a command as it comes into it, those before now first, until its end or so long.

        A stream that breaks off is taken up where it was.
        """
        return self._follow(f"{Command.path}/{command}/events", StateChange, seconds)

    def follow_batch(self, batch: uuid.UUID, seconds: float = 3600) -> Iterator[CommandBatch]:
        """Yield a batch of commands as it stands, again when that has changed, until its end or so long."""
        return self._follow(f"{CommandBatch.path}/{batch}/events", CommandBatch, seconds)

    def _follow(self, path: str, kind: type[_Ending], seconds: float) -> Iterator[_Ending]:
        until, last, broken = time.monotonic() + seconds, "", 0
        while True:
            try:
                for event in self.events(path, last, until):
                    last, broken = event.id, 0
                    told: _Ending = _decode(event.data.encode(), kind)
                    yield told
                    if told.final:
                        return
            except NotReachable:
                broken += 1
                if broken == TRIES:
                    raise
            if time.monotonic() >= until - _AGAIN_SECONDS:
                return
            time.sleep(_AGAIN_SECONDS)


class _Page(msgspec.Struct):
    results: list[msgspec.Raw]
    next: str | None = None
    count: int | None = None


def _read(body: bytes | msgspec.Raw, what: type[Record] | str) -> Any:  # noqa: ANN401 - what was asked for
    return _decode(body, Any if isinstance(what, str) else what) if body else None


def _decode(body: bytes | msgspec.Raw, kind: Any) -> Any:  # noqa: ANN401 - what is expected
    """Read an answer.

    Raises:
        NotReachable: when it is none of a hub's, or of a hub that this client does not know.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise NotReachable(f"what answers there is no hub that this client knows: {error}") from None


def _uuid(said: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(said)
    except ValueError:
        return None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


def _place(path: str, query: Mapping[str, object] | None) -> str:
    """Return what stands after the hub's address: the path as it is meant, and the question, without what is None."""
    bare = path.lstrip("/")
    place = f"/{bare}" if bare.startswith(("v1/", "health", "metrics", "schema")) else _PLACES + bare
    place = urllib.parse.quote(place, safe="/?&=%:@,;+-._~")
    asked = urllib.parse.urlencode({name: _text(value) for name, value in (query or {}).items() if value is not None})
    if not asked:
        return place
    return f"{place}{'&' if '?' in place else '?'}{asked}"


def _before(pieces: Iterable[bytes], until: float | None) -> Iterator[bytes]:
    """Yield what comes until then; a stream that lives says something now and then."""
    for piece in pieces:
        yield piece
        if until is not None and time.monotonic() >= until:
            return


def _events(pieces: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Take a stream of server-sent events apart; comments, which keep it alive, are nothing."""
    key, name, data = "", "message", list[str]()
    for line in _lines(pieces):
        if not line:
            if data:
                yield ServerEvent(key, name, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            key = value
        elif field == "data":
            data.append(value)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
