"""Virtual meters for use in a process: build them, put them on a wire. What the command and tests start from.

Rules: wiring only. ``virtual_bus`` builds meters and the line that they share, ``serve_pty`` and ``serve_tcp`` put it
on a wire for as long as their context lasts; what goes wrong while serving is raised where the context ends.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import re
import zoneinfo
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.simulator.electricity import ElectricityMeter, ElectricPersona
from agent.simulator.faults import read_faults
from agent.simulator.meters import VirtualMeter, read_meter
from agent.simulator.personas import Content, Persona
from agent.simulator.recorded import RecordedMeter, RecordedPersona
from agent.simulator.shared_line import VirtualBus
from agent.simulator.wires import PtyWire, TcpWire
from protocol.iec62056 import RATES

__all__ = ["VirtualBus", "serve_pty", "serve_tcp", "utc_now", "virtual_bus"]

_ACCEPTING = 4
"""Turns of the loop until a connection that it has begun to accept is there, and can be closed."""


def utc_now() -> dt.datetime:
    """The machine's UTC; a demo or test passes the clock that it has set."""
    return dt.datetime.now(dt.UTC)


def virtual_bus(
    *specs: str,
    seed: int = 1,
    now: Callable[[], dt.datetime] = utc_now,
    timezone: str = "Europe/Berlin",
    interval: int = 60,
    history_days: float = 2,
    drift: float = 0,
    locked: bool = False,
    codes: Mapping[int, str] | None = None,
    language: str | None = None,
    offered_rate: int | None = None,
    truth: Path | None = None,
    faults: Sequence[str] = (),
    throttle: bool = False,
    opening_rate: int = 300,
    fixed_rate: bool = False,
    strict_rate: bool = False,
    log: Path | None = None,
    recorded: Sequence[RecordedPersona] = (),
) -> VirtualBus:
    """Build meters from ``ADDRESS:SERIAL:MODEL`` texts (models EK280, TC220, ELECTRIC-C) and the bus that they share.

    A text may say more of its meter: ``1:4711:EK280,drift=90,locked,rows=48,fault=battery``.

    Args:
        specs: the meters.
        seed: what the archives and the faults follow from, with the serial number.
        now: the clock, aware UTC; the meters' clocks are ``drift`` seconds ahead of it.
        timezone: IANA zone that the meters' clocks show.
        interval: measuring period in minutes, a divisor of 60.
        history_days: how far back the archives reach at the start.
        drift: seconds.
        locked: reading needs an open lock.
        codes: lock -> code; else the factory codes (LIS-200 fact sheet 2.4).
        language: ``german`` or ``english`` column names; None leaves it to the seed.
        offered_rate: Bd that the identification announces; None: that of the model.
        truth: file for the truth (JSON lines).
        faults: see VirtualBus, as for the rest.
        throttle: see VirtualBus.
        opening_rate: see VirtualBus.
        fixed_rate: see VirtualBus.
        strict_rate: see VirtualBus.
        log: see VirtualBus.
        recorded: meters made of recorded conversations, beside the others.

    Raises:
        ValueError: for an unknown model, fault, rate or zone, or a text that cannot be read.
    """
    described = [(*read_meter(spec.partition(",")[0]), _state(spec, drift, locked)) for spec in specs]
    addresses = [address for address, *_ in described] + [persona.address for persona in recorded]
    _refuse_twins([address.lstrip("0") for address in addresses])
    read_faults([*faults, *(fault for *_, own in described for fault in own.faults)], "")  # before any file is opened
    meters = [
        VirtualMeter(
            address,
            serial,
            _short(persona, own.rows),
            seed=seed,
            now=now,
            zone=_zone(timezone),
            interval=interval,
            history_days=history_days,
            drift=own.drift,
            locked=own.locked,
            codes=codes,
            language=language,
            rate_id=None if offered_rate is None else _rate_id(offered_rate),
            truth=truth,
        )
        for address, serial, persona, own in described
        if not isinstance(persona, ElectricPersona)
    ]
    electric = [
        ElectricityMeter(
            address,
            serial,
            persona,
            seed=seed,
            now=now,
            zone=_zone(timezone),
            drift=own.drift,
            locked=own.locked,
            codes=codes,
            truth=truth,
        )
        for address, serial, persona, own in described
        if isinstance(persona, ElectricPersona)
    ]
    return VirtualBus(
        meters,
        others=[*electric, *(RecordedMeter(persona, now=now) for persona in recorded)],
        faults=faults,
        own_faults={address: own.faults for address, *_, own in described},
        throttle=throttle,
        opening_rate=opening_rate,
        fixed_rate=fixed_rate,
        strict_rate=strict_rate,
        log=log,
        seed=seed,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _State:
    """How one meter is set up: its clock ahead by ``drift`` seconds, whether it guards reading, its own faults.

    ``rows``: how many its archives of measuring periods hold; None: as many as the model's.
    """

    drift: float
    locked: bool
    rows: int | None = None
    faults: tuple[str, ...] = ()


def _state(spec: str, drift: float, locked: bool) -> _State:  # noqa: FBT001 - private, both named in specs
    """What a text says of its own meter behind the first comma, else what holds for all."""
    faults: list[str] = []
    rows: int | None = None
    for word in spec.split(",")[1:]:
        name, _, value = word.partition("=")
        number = re.fullmatch(r"[+-]?\d+(\.\d+)?", value)
        if name == "locked" and not value:
            locked = True
        elif name == "drift" and number is not None:
            drift = float(value)
        elif name == "rows" and re.fullmatch(r"[1-9]\d{0,4}", value, re.ASCII):
            rows = int(value)
        elif name == "fault" and value:
            faults.append(value)
        else:
            raise ValueError(f"{spec!r}: {word!r} is none of drift=SECONDS, locked, rows=NUMBER and fault=NAME")
    return _State(drift, locked, rows, tuple(faults))


def _short(persona: Persona, rows: int | None) -> Persona:
    """The model with so short archives of measuring periods."""
    if rows is None:
        return persona
    archives = (
        dataclasses.replace(archive, depth=rows) if archive.content is Content.INTERVALS else archive
        for archive in persona.archives
    )
    return dataclasses.replace(persona, archives=tuple(archives))


def _refuse_twins(addresses: Sequence[str]) -> None:
    """Two meters with one address on a line are a mistake of the caller (leading zeros do not count)."""
    if not addresses:
        raise ValueError("a line needs at least one meter")
    twins = {address for address in addresses if addresses.count(address) > 1}
    if twins:
        raise ValueError(f"two meters on the line have the address {min(twins)!r} (leading zeros do not count)")


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone; use a name such as Europe/Berlin") from error


def _rate_id(rate: int) -> str:
    found = next((rate_id for rate_id, known in RATES.items() if known == rate), None)
    if found is None:
        raise ValueError(f"{rate} Bd cannot be offered; known are {', '.join(map(str, RATES.values()))}")
    return found


@asynccontextmanager
async def serve_pty(bus: VirtualBus, *, link: Path | None = None) -> AsyncIterator[str]:
    """Put the bus on a new pseudo-terminal; yields ``/dev/pts/N``, and makes ``link`` a symlink to it."""
    wire = PtyWire()
    tasks = [_start(bus, bus.serve(wire), "line"), _start(bus, bus.keep_time(), "clock")]
    try:
        with _linked(wire.path, link):
            yield wire.path
    finally:
        await _end(tasks)
        wire.close()
        bus.close()


@contextlib.contextmanager
def _linked(path: str, link: Path | None) -> Iterator[None]:
    """Keep ``link`` as a symlink to ``path``; another process that has taken it over meanwhile keeps it."""
    if link is None:
        yield
        return
    fresh = link.with_name(f"{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path)
    fresh.replace(link)  # at once, so that nobody ever finds no link
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if str(link.readlink()) == path:
                link.unlink()


@asynccontextmanager
async def serve_tcp(bus: VirtualBus, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Put the bus behind a TCP port (0: any); yields ``socket://host:port``. Clients are served one after another."""
    tasks: list[asyncio.Task[None]] = []
    wires: set[TcpWire] = set()
    line = asyncio.Lock()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task that is cancelled before its first step closes nothing, so the wire is made and kept here.
        wire = TcpWire(reader, writer)
        wires.add(wire)
        tasks.append(_start(bus, _serve_client(bus, line, wire, wires), "line"))

    server = await asyncio.start_server(connected, host, port)
    tasks.append(_start(bus, bus.keep_time(), "clock"))
    try:
        yield f"socket://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        # A server that is closed while it accepts a connection forgets to close that one.
        for listening in server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(_ACCEPTING):
            await asyncio.sleep(0)
        server.close()
        try:
            await _end(tasks)
        finally:
            for wire in wires:
                await wire.aclose()
            await server.wait_closed()
            bus.close()


async def _serve_client(bus: VirtualBus, line: asyncio.Lock, wire: TcpWire, wires: set[TcpWire]) -> None:
    if bus.mutes():
        with contextlib.suppress(EOFError):
            while True:
                await wire.read(None)
    else:
        async with line:
            await bus.serve(wire)
    await wire.aclose()
    wires.discard(wire)


def _start(bus: VirtualBus, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    task = asyncio.create_task(work, name=f"simulator {name}")

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            bus.ended.set()

    task.add_done_callback(ended)
    return task


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them; what went wrong in one of them is raised here."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
