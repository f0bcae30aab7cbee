"""The hub's processes, wired: ``run`` (all in one, on SQLite), ``serve`` (REST) and ``relay`` (MQTT) on PostgreSQL.

Each is one task group of named tasks that ends on SIGTERM or SIGINT: requests are answered, and the relay stores and
receipts what it has taken, for some seconds at most; a second signal ends it at once. The first line on standard output
is one JSON object with the URLs that answer; everything else goes to the log. A PostgreSQL that is away when they start
is waited for, however long it takes (the log and ``/health`` say so); one that refuses us ends them with the cause.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import structlog
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.broker import embedded_broker
from hub.clocks import Clock
from hub.database import DatabaseError, create_engine, migrate, schema_of, writing
from hub.door import door
from hub.keys import open_key
from hub.notices import Listener, Notice, notices_of
from hub.relay import run_relay
from hub.secrets_ring import Ring, note_ring, ring_file
from hub.session_keys import SessionKeys, session_file
from hub.settings import Settings, StartError
from hub.sole_use import sole_use
from hub.state import Hub
from protocol.envelopes import SigningKey

_SHUTDOWN_SECONDS = 2
_BACKLOG = 1024
_DATABASE_PAUSES = (0.5, 15.0)
"""Shortest and longest pause (s) before a database that was away at start is looked at again."""

_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """A server that leaves signals to the process, which has more to end than this."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def run(settings: Settings, clock: Clock) -> None:
    """REST, relay and, unless there is a broker, the embedded one, on SQLite in the data directory."""
    async with AsyncExitStack() as stack:
        data = _data(settings)
        stack.enter_context(sole_use(data))
        await migrate(settings.database)
        if settings.broker is None:
            broker = await stack.enter_async_context(embedded_broker(settings.mqtt_port, pid_file=data / "broker.pid"))
            settings = dataclasses.replace(settings, broker=broker.url)
        engine = await stack.enter_async_context(_engine(settings))
        key = open_key(_key_file(settings))
        sessions = SessionKeys(key, session_file(_key_file(settings)))
        hub = Hub(settings, engine, clock, asyncio.Event(), session_keys=sessions)
        await _together(hub, opened=_rest_listener(stack, settings), relay=lambda: _relay(hub, key))


async def serve(settings: Settings, clock: Clock) -> None:
    """REST alone; as many of these as needed share one PostgreSQL."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_engine(settings))
        hub = Hub(settings, engine, clock, session_keys=_session_keys(settings))
        await _together(hub, opened=_rest_listener(stack, settings))


async def relay(settings: Settings, clock: Clock) -> None:
    """MQTT alone; as many of these as needed share one PostgreSQL and one broker or cluster."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_engine(settings))
        hub = Hub(settings, engine, clock, asyncio.Event(), relays_only=True)
        key = open_key(_key_file(settings))
        await _together(hub, opened=_door_listener(stack, settings), relay=lambda: _relay(hub, key))


async def _relay(hub: Hub, key: SigningKey) -> None:
    """Say what secrets are to be sealed for, where nobody has yet, and relay."""
    ring = Ring(key, ring_file(_key_file(hub.settings)))
    async with writing(hub.engine) as session:
        await note_ring(session, ring)
    await run_relay(
        hub.settings, hub.engine, hub.clock, key, ready=_ready(hub), stopping=hub.stopping, opens=ring.unseal
    )


async def _together(
    hub: Hub,
    *,
    opened: socket.socket | None = None,
    relay: Callable[[], Coroutine[None, None, None]] | None = None,
) -> None:
    """Run the parts until a signal comes or one of them fails.

    REST, or the door of a relay, answers at once, so that health says what is waited for; the relay begins when the
    database can be used.
    """
    loop = asyncio.get_running_loop()
    stop, hasten = asyncio.Event(), asyncio.Event()

    def asked_to_end() -> None:
        (hasten if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end)
    server = _server(hub) if opened is not None else None
    async with asyncio.TaskGroup() as group:
        serving = None
        if server is not None and opened is not None:
            serving = group.create_task(server.serve(sockets=[opened]), name="http")
        working = group.create_task(_work(hub, relay, stop), name="work")
        listener = Listener(hub.engine, hub.settings.listen_database or hub.settings.database)
        listening = group.create_task(_hear_others(hub, listener), name="notices")
        announcing = group.create_task(_announce(hub, server, opened), name="announcement")
        await stop.wait()
        _log.info("stopping")
        # Else it has taken nothing that it could finish.
        relaying = hub.relay_ready is not None and hub.relay_ready.is_set()
        hub.stopping.set()
        hastening = group.create_task(_hasten(hasten, server, working), name="haste")
        # Who waits for a command's state sees that nothing more comes.
        notices_of(hub.engine).hear(Notice.STATES)
        if server is not None and serving is not None:
            while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn ends in order only what has begun
                await asyncio.sleep(0.01)
            server.should_exit = True
            await serving
        announcing.cancel()
        listening.cancel()
        if not relaying:
            working.cancel()
        await asyncio.wait({working})
        hastening.cancel()
    refusal = None if working.cancelled() else working.result()
    if refusal is not None:
        raise refusal


async def _hasten(asked: asyncio.Event, server: uvicorn.Server | None, working: asyncio.Task[Any]) -> None:
    """End at once when that is asked a second time: requests as they are, the relay with what it has unstored."""
    await asked.wait()
    if server is not None:
        server.force_exit = True
    working.cancel()


async def _work(
    hub: Hub, relay: Callable[[], Coroutine[None, None, None]] | None, stop: asyncio.Event
) -> StartError | DatabaseError | None:
    """Wait until the database can be used, say so, and relay, where this process does.

    A database that refuses us, or has another schema, stops the process: its cause is returned when REST has ended.
    """
    pause = _DATABASE_PAUSES[0]
    while True:
        try:
            schema = await schema_of(hub.engine)
        except DatabaseError as error:
            if not error.passes:
                stop.set()
                return error
            _log.warning("database_awaited", cause=str(error), pause_seconds=pause)
            # Jitter, so that processes which wait for one database do not come together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, _DATABASE_PAUSES[1])
            continue
        if schema.problem:
            stop.set()
            return StartError(schema.problem)
        if schema.is_ahead:
            _log.warning("schema_ahead", schema=schema.name, head=schema.head)
        break
    hub.usable.set()
    if relay is not None:
        await relay()
    return None


async def _hear_others(hub: Hub, listener: Listener) -> None:
    """Hear what other processes tell, from when the database can be used."""
    await hub.usable.wait()
    await listener.keep_on()


async def _announce(hub: Hub, server: uvicorn.Server | None, opened: socket.socket | None) -> None:
    """Print the first line once everything that this process offers answers."""
    await hub.usable.wait()
    urls: dict[str, str] = {}
    if server is not None and opened is not None:
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.01)
        host, port = opened.getsockname()[:2]
        url = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
        urls |= {"metrics": f"{url}/metrics", "health": f"{url}/health"} if hub.relays_only else {"rest": url}
    if hub.relay_ready is not None:
        await hub.relay_ready.wait()
        urls["mqtt"] = without_secrets(hub.settings.broker or "")
    sys.stdout.write(json.dumps(urls) + "\n")
    sys.stdout.flush()
    _log.info("started", **urls)


def without_secrets(url: str) -> str:
    """Return a broker's URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _server(hub: Hub) -> uvicorn.Server:
    application: Any
    if hub.relays_only:
        application = door(hub)
    else:
        # Only here: a relay has no use for the resources, and starts sooner and smaller without them.
        from hub.app import create_app  # noqa: PLC0415 - as above

        application = create_app(hub)
    return _Server(
        uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off" if hub.relays_only else "auto",
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
    )


def _rest_listener(stack: AsyncExitStack, settings: Settings) -> socket.socket:
    return _listen(stack, settings.host, settings.port, "REST", "--port")


def _door_listener(stack: AsyncExitStack, settings: Settings) -> socket.socket | None:
    """Listen for who asks a relay how it is; None when nobody is to."""
    if settings.metrics_port is None:
        return None
    return _listen(stack, settings.metrics_host, settings.metrics_port, "the relay's door", "--metrics-port")


def _listen(stack: AsyncExitStack, host: str, port: int, what: str, option: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only for sockets that know their protocol: without it, each answer on a connection
    # that is kept open waits 40 ms for the client's delayed acknowledgement.
    listener = stack.enter_context(contextlib.closing(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise StartError(
            f"{what} cannot listen on {host}:{port}: {error.strerror}; choose another with {option}"
        ) from error
    listener.listen(_BACKLOG)
    return listener


@asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(settings.database, settings.database_connections)
    try:
        yield engine
    finally:
        await engine.dispose()


def _data(settings: Settings) -> Path:
    if settings.data is None:
        raise StartError("this needs a data directory: give one with --data")
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the data directory {settings.data} cannot be made: {error.strerror}") from error
    return settings.data


def _key_file(settings: Settings) -> Path:
    if settings.hub_key_file is not None:
        return settings.hub_key_file
    return _data(settings) / "hub.key"


def _session_keys(settings: Settings) -> SessionKeys | None:
    """Return the keys of users' sessions; None for a process that was given neither a key nor a place for one."""
    if settings.hub_key_file is None and settings.data is None:
        return None
    return SessionKeys(open_key(_key_file(settings)), session_file(_key_file(settings)))


def _ready(hub: Hub) -> asyncio.Event:
    if hub.relay_ready is None:
        raise StartError("this process has no relay")
    return hub.relay_ready
