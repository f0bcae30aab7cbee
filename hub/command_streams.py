"""What becomes of commands as server-sent events: of one command, or of all that there are for who asks.

Each change of a state is an event whose id is its number. Who comes again with ``Last-Event-ID`` is told what came
after it, each once. A stream of one command begins with all that is known and ends after its end; one of all commands
begins now, and ends when its reader goes or its time is over. Silence is broken by comments.

Streams are bounded, in all and for each caller; what they wait for is looked at once for all (``hub.command_watch``).
"""

import dataclasses
import datetime as dt
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from litestar import Response, Router, get
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath
from litestar.response import Stream
from litestar.status_codes import HTTP_204_NO_CONTENT
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.access import Access, access_of
from hub.command_events import bounds
from hub.command_watch import AT_ONCE, Event, Feed, events_between, watch_of
from hub.commands import RESOURCE
from hub.database import UNREACHABLE, reading
from hub.dispatch import STATES
from hub.models import Command as Row
from hub.models import CommandEvent
from hub.paging import parse_number, parse_uuid, query_of
from hub.problems import Conflict, TooOften, wrong
from hub.resources import find
from hub.state import Hub, HubRequest, hub_of
from protocol.commands import FINAL_STATES

EVENT_STREAM = "text/event-stream"
HEADER = "Last-Event-ID"
HEARTBEAT_SECONDS = 15.0
"""Real seconds of silence after which a comment shows that the stream lives."""

RETRY_MILLISECONDS = 2000
"""When a reader that was cut off is to come again."""

WAITING = b": waiting\n\n"
"""The comment."""

_LARGEST = 2**63 - 1
_BUSY_SECONDS = 5.0
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_log = structlog.get_logger(__name__)


class StateChange(msgspec.Struct, kw_only=True):
    """The data of an event: a command has come into a state."""

    command: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID | None
    batch: uuid.UUID | None
    state: str
    final: bool
    cause: str
    at: dt.datetime


@dataclasses.dataclass
class Followed(Operation):
    """What the OpenAPI document says of a stream: where it begins, and how it tells that there is no more."""

    def __post_init__(self) -> None:
        """Add request header and answer."""
        number = Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=_LARGEST)
        told = "The id of the event that you had last; what came after it is told."
        self.parameters = [
            *(self.parameters or []),
            Parameter(HEADER, "header", number, description=told, required=False),
        ]
        events = {EVENT_STREAM: OpenAPIMediaType(Schema(type=OpenAPIType.STRING))}
        self.responses = {
            "200": OpenAPIResponse("Server-sent events.", content=events),
            "204": OpenAPIResponse("You had everything: do not come again."),
        }


class Place:
    """One of the streams that may be open; given back by ``leave``, or with the stream."""

    def __init__(self, caller: uuid.UUID | None, places: "weakref.WeakSet[Place]") -> None:
        self.caller = caller
        self._places = places

    def leave(self) -> None:
        """Give it back."""
        self._places.discard(self)


_places: weakref.WeakKeyDictionary[AsyncEngine, weakref.WeakSet[Place]] = weakref.WeakKeyDictionary()


def take_place(hub: Hub, access: Access) -> Place:
    """Take a place for a stream.

    Raises:
        TooOften: when there is none, in all or for this caller.
    """
    places = _places.setdefault(hub.engine, weakref.WeakSet())
    caller = access.token or access.user
    own = sum(place.caller == caller for place in places)
    if own >= hub.settings.streams_each:
        raise TooOften(f"{own} streams are open for you already; end one of them first", _BUSY_SECONDS)
    if len(places) >= hub.settings.streams:
        raise TooOften(f"{len(places)} streams are open already; try again later", _BUSY_SECONDS)
    place = Place(caller, places)
    places.add(place)
    return place


def last_event_of(request: HubRequest) -> int | None:
    """Return the number of the event that the reader had last.

    Raises:
        Wrong: when the header is no number.
    """
    text = request.headers.get(HEADER)
    if text is None or text == "":
        return None
    return parse_number(HEADER, text, 0, _LARGEST)


async def check_known(session: AsyncSession, last: int | None) -> None:
    """Accept a number from which on everything is still known.

    Raises:
        Conflict: when events after it have been forgotten, or it was never given by this database.
    """
    if last is None:
        return
    oldest, newest = await bounds(session)
    if last > newest:
        raise Conflict(f"there has been no event {last} yet: the database was put back; begin without {HEADER}")
    if last + 1 < oldest:
        raise Conflict(f"what came after event {last} is not known any more; begin without {HEADER}")


def frame(number: int, name: str, data: msgspec.Struct) -> bytes:
    """Return an event as it is sent."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), msgspec.json.encode(data))


def respond(chunks: AsyncIterator[bytes]) -> Response[Any]:
    """Return the answer that is a stream."""
    return Stream(chunks, media_type=EVENT_STREAM, headers=_HEADERS)


def nothing_more() -> Response[Any]:
    """Return the answer that keeps a reader, who had everything, from coming again."""
    return Response(None, status_code=HTTP_204_NO_CONTENT)


async def stream(
    hub: Hub, place: Place, wants: Callable[[Event], bool], follow: Callable[[Feed, float], AsyncIterator[bytes]]
) -> AsyncIterator[bytes]:
    """Make the chunks of a stream by ``follow``, which is given a feed and the monotonic second of the end."""
    end = hub.clock.monotonic() + hub.settings.stream_seconds
    try:
        async with watch_of(hub).follow(hub, wants) as feed:
            yield b"retry: %d\n\n" % RETRY_MILLISECONDS
            async for chunk in follow(feed, end):
                yield chunk
    except (SQLAlchemyError, *UNREACHABLE) as error:
        # The answer has begun: its reader sees it end, and comes again.
        cause = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
        _log.warning("database_failed", doing="telling of commands", cause=cause)
    finally:
        place.leave()


def time_left(hub: Hub, feed: Feed, end: float) -> float:
    """Return for how many real seconds a stream may go on; none when its process ends."""
    return 0.0 if feed.over else end - hub.clock.monotonic()


class Teller:
    """Tells events one by one, those in the database and those that come.

    ``only`` and the feed's ``wants`` mean the same. ``closes``: nothing is told after such an event.
    """

    def __init__(
        self,
        hub: Hub,
        only: Sequence[sa.ColumnElement[bool]],
        *,
        after: int | None,
        closes: Callable[[Event], bool] = lambda _event: False,
        known: Row | None = None,
    ) -> None:
        self._hub, self._only, self._closes = hub, only, closes
        self._told = after
        self._known = known
        self._closed = False

    async def follow(self, feed: Feed, end: float) -> AsyncIterator[bytes]:
        """Yield the chunks."""
        if self._told is None:
            self._told = feed.since
        async for chunk in self._stored(feed):
            yield chunk
        if self._known is not None:
            # Of what nothing is told any more, at least where it stands.
            yield frame(feed.since, "state", _standing(self._known))
            self._closed = self._known.state in FINAL_STATES
        while not self._closed and (left := time_left(self._hub, feed, end)) > 0:
            events = await feed.next(min(HEARTBEAT_SECONDS, left))
            for event in events:
                if not self._closed:
                    yield self._tell(event)
            if feed.lost:
                feed.begin_anew()
                async for chunk in self._stored(feed):
                    yield chunk
            elif not events:
                yield WAITING

    async def _stored(self, feed: Feed) -> AsyncIterator[bytes]:
        """Tell what is in the database up to where the feed begins."""
        told = self._told or 0
        while told < feed.since and not self._closed:
            async with reading(self._hub.engine) as session:
                events = await events_between(session, told, feed.since, *self._only)
            for event in events:
                yield self._tell(event)
                if self._closes(event):
                    return
            told = events[-1].number if len(events) == AT_ONCE else feed.since
        self._told = told

    def _tell(self, event: Event) -> bytes:
        self._told, self._known = event.number, None
        self._closed = self._closes(event)
        change = StateChange(
            command=event.command,
            gateway=event.gateway,
            meter_device=event.meter_device,
            batch=event.batch,
            state=event.state,
            final=event.final,
            cause=event.cause,
            at=event.at,
        )
        return frame(event.number, "state", change)


def _standing(row: Row) -> StateChange:
    return StateChange(
        command=row.id,
        gateway=row.gateway,
        meter_device=row.meter_device,
        batch=row.batch,
        state=row.state,
        final=row.state in FINAL_STATES,
        cause=row.cause,
        at=row.updated_at,
    )


@get(
    "/{row_id:uuid}/events",
    media_type=EVENT_STREAM,
    operation_class=Followed,
    summary="Follow a command",
    description="Server-sent events, one for each state; ends after the last. Last-Event-ID resumes.",
)
async def follow_command(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[Any]:
    """Tell what becomes of one command, from its beginning or from where the reader was."""
    hub, access = hub_of(request), access_of(request)
    query_of(request, [])
    last = last_event_of(request)
    only = CommandEvent.command == row_id
    async with reading(hub.engine) as session:
        row = await find(session, RESOURCE, row_id, access)
        await check_known(session, last)
        if last is not None and row.state in FINAL_STATES and not await events_between(session, last, None, only):
            return nothing_more()
    known = row if last is None else None
    teller = Teller(hub, [only], after=last or 0, closes=lambda event: event.final, known=known)
    place = take_place(hub, access)
    return respond(stream(hub, place, lambda event: event.command == row_id, teller.follow))


_FILTERS = ("gateway", "meter_device", "batch")


@get(
    "/events",
    media_type=EVENT_STREAM,
    operation_class=Followed,
    summary="Follow all commands",
    description="Server-sent events, one for each state of each command, from now on. Last-Event-ID resumes. "
    "Filters: gateway, meter_device, batch, state.",
)
async def follow_commands(request: HubRequest) -> Response[Any]:
    """Tell what becomes of all commands that there are for who asks, or of some."""
    hub, access = hub_of(request), access_of(request)
    query = query_of(request, [*_FILTERS, "state"])
    wanted: dict[str, Any] = {name: parse_uuid(name, query[name]) for name in _FILTERS if name in query}
    if "state" in query:
        if query["state"] not in STATES:
            raise wrong("state", f"{query['state']!r} is none of {', '.join(sorted(STATES))}")
        wanted["state"] = query["state"]
    if access.organization is not None:
        wanted["organization"] = access.organization
    last = last_event_of(request)
    async with reading(hub.engine) as session:
        await check_known(session, last)
    only = [getattr(CommandEvent, name) == value for name, value in wanted.items()]
    teller = Teller(hub, only, after=last)
    place = take_place(hub, access)

    def wants(event: Event) -> bool:
        return all(getattr(event, name) == value for name, value in wanted.items())

    return respond(stream(hub, place, wants, teller.follow))


router = Router(RESOURCE.path, route_handlers=[follow_commands, follow_command], tags=[RESOURCE.noun])
