"""One line with one or more virtual meters on it: who answers, when, and how fast.

Rules: every byte goes through ``protocol.iec62056`` (role METER); here are only waiting, pacing, sharing and faults.
Wire times are real seconds on the monotonic clock even when the meters' clock is set. Interface for tests:
``virtual_bus`` builds meters and bus, ``serve_pty`` and ``serve_tcp`` put it on a wire while the context lasts.

Theory of operation. A chunk that arrives is *heard* when its last bit has passed: at once, or with ``throttle`` after
10 bits per byte at the line's present rate. Every meter hears it; what follows is performed in order: waiting for the
reaction time, switching the rate, sending. If more than one meter answers (a general call), their bytes collide and
nobody is intelligible, as on RS-485.
"""

import asyncio
import contextlib
import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from agent.simulator.conversations import Action, Conversation, Say
from agent.simulator.faults import Piece, read_faults
from agent.simulator.meters import VirtualMeter, read_meter
from agent.simulator.wire_log import WireLog
from agent.simulator.wires import PtyWire, TcpWire, Wire
from protocol.iec62056 import RATES, Pause, State, SwitchRate

BITS_PER_BYTE = 10
"""Start, seven or eight data bits, parity or none, stop."""
PIECE = 8
"""Bytes that are written at most at once when the line is throttled."""
OPTION_SECONDS = 2.2
"""How long a meter waits for the option select. LIS-200 fact sheet 1.6."""
SILENCE_SECONDS = 60.0
"""After how much silence a meter is back at its start. LIS-200 fact sheet 1.6."""
_TICK = 0.1  # real seconds between looks at the meters' clocks


def utc_now() -> dt.datetime:
    """The machine's UTC; a demo or test passes the clock that it has set."""
    return dt.datetime.now(dt.UTC)


class VirtualBus:
    """The meters of one line.

    Args:
        meters: who is on the line; addressed by ``/?<address>!``, all of them by the general call.
        faults: named faults, e.g. ``["corrupt_bcc=0.1", "echo"]`` (``agent.simulator.faults``).
        throttle: bytes take their time, 10 bits each at the present rate, in both directions.
        opening_rate: Bd of the request.
        fixed_rate: the line never changes its rate.
        log: file for the wire log (JSON lines).
        seed: of the faults.
    """

    def __init__(
        self,
        meters: Sequence[VirtualMeter],
        *,
        faults: Sequence[str] = (),
        throttle: bool = False,
        opening_rate: int = 300,
        fixed_rate: bool = False,
        log: Path | None = None,
        seed: int = 1,
    ) -> None:
        self.meters = tuple(meters)
        self._throttle, self._rate, self._opening_rate = throttle, opening_rate, opening_rate
        self._conversations = []
        self._echoes = False
        for meter in self.meters:
            own = read_faults(faults, f"{seed}/{meter.serial}")
            self._echoes = any(fault.echoes for fault in own)
            if any(fault.other_serial for fault in own):
                meter.shown_serial = _other(meter.serial)
            self._conversations.append(Conversation(meter, own, opening_rate=opening_rate, fixed_rate=fixed_rate))
        self._log = WireLog(log) if log else None
        self.ended = asyncio.Event()
        """Set when serving has failed (the cause is raised where its context ends), or by whoever wants it to end."""
        self._free = 0.0  # when the last bit on the line has passed
        self._heard = 0.0  # when the last bit to us has passed

    def close(self) -> None:
        """Close truth and log."""
        for meter in self.meters:
            meter.close()
        if self._log:
            self._log.close()
            self._log = None

    @property
    def rate(self) -> int:
        """Bd at which the line stands."""
        return self._rate

    async def keep_time(self) -> None:
        """Let rows arise as the meters' clocks pass; runs until it is cancelled."""
        while True:
            for meter in self.meters:
                meter.advance()
            await asyncio.sleep(_TICK)

    async def serve(self, wire: Wire) -> None:
        """Answer on a wire until it is closed."""
        with contextlib.suppress(EOFError):
            while True:
                await self._step(wire)

    async def _step(self, wire: Wire) -> None:
        try:
            at, data = await wire.read(self._patience())
        except TimeoutError:
            for conversation in self._conversations:
                await self._perform(wire, conversation, conversation.give_up())
            return
        start = max(at, self._free) if self._throttle else at
        self._free = self._heard = start + self._seconds(len(data))
        await _until(self._heard)
        if self._echoes:
            await wire.write(data)
        heard = [(conversation, conversation.hear(data, self._heard)) for conversation in self._conversations]
        self._note_heard(at, start, data)
        speaking = [(conversation, actions) for conversation, actions in heard if _says(actions)]
        if len(speaking) > 1:
            await self._collide(wire, [actions for _, actions in speaking])
            heard = [(conversation, actions) for conversation, actions in heard if not _says(actions)]
        for conversation, actions in heard:
            await self._perform(wire, conversation, actions)

    def _patience(self) -> float | None:
        """Seconds of silence after which meters return to their start; None while all are there."""
        states = {conversation.state for conversation in self._conversations}
        if State.IDENTIFIED in states:
            return OPTION_SECONDS
        return None if states <= {State.IDLE} else SILENCE_SECONDS

    def _seconds(self, count: int) -> float:
        """How long ``count`` bytes are on the line."""
        return count * BITS_PER_BYTE / self._rate if self._throttle else 0.0

    async def _perform(self, wire: Wire, conversation: Conversation, actions: Sequence[Action]) -> None:
        earliest = self._heard
        for action in actions:
            match action:
                case Pause(seconds):
                    earliest = self._heard + seconds
                case SwitchRate(baud):
                    self._rate = baud
                case Say(pieces):
                    await _until(earliest)
                    await self._transmit(wire, pieces, conversation.meter.serial)

    async def _transmit(self, wire: Wire, pieces: Sequence[Piece], serial: str | None) -> None:
        """Send pieces, each byte at the end of its time."""
        loop = asyncio.get_running_loop()
        start = due = max(loop.time(), self._free)
        sent = b""
        for piece in pieces:
            due += piece.delay
            for index in range(0, len(piece.data), PIECE if self._throttle else len(piece.data)):
                part = piece.data[index : index + PIECE] if self._throttle else piece.data
                due += self._seconds(len(part))
                await _until(due)
                await wire.write(part)
                sent += part
            if piece.close:
                wire.hang_up()
                break
        self._free = due if self._throttle else loop.time()
        if self._log and sent:
            self._log.passed("tx", sent, serial, loop.time(), start, self._free)

    async def _collide(self, wire: Wire, answers: Sequence[Sequence[Action]]) -> None:
        """Two meters speak at once: a 0 wins over a 1 on every bit, and what comes out is nobody's."""
        pauses = [action.seconds for actions in answers for action in actions if isinstance(action, Pause)]
        await _until(self._heard + max(pauses, default=0.0))
        spoken = [
            b"".join(piece.data for action in actions if isinstance(action, Say) for piece in action.pieces)
            for actions in answers
        ]
        mixed = bytearray()
        for column in zip_longest(*spoken, fillvalue=0xFF):
            byte = 0xFF
            for each in column:
                byte &= each
            mixed.append(byte)
        # Two meters never begin at the same bit, so even what they say alike does not come through.
        await self._transmit(wire, [Piece(bytes(byte >> 1 for byte in mixed))], None)

    def _note_heard(self, at: float, start: float, data: bytes) -> None:
        if self._log:
            engaged = [conversation.meter.serial for conversation in self._conversations if conversation.engaged]
            serial = engaged[0] if len(engaged) == 1 else None
            self._log.passed("rx", data, serial, at, start, self._heard)


def _says(actions: Sequence[Action]) -> bool:
    return any(isinstance(action, Say) for action in actions)


def _other(serial: str) -> str:
    """A serial number that is not this one."""
    return serial[:-1] + ("1" if serial[-1:] == "0" else "0")


async def _until(second: float) -> None:
    """Wait until the loop's clock shows ``second``; lets others run in any case."""
    await asyncio.sleep(max(0.0, second - asyncio.get_running_loop().time()))


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
    log: Path | None = None,
) -> VirtualBus:
    """Build meters from ``ADDRESS:SERIAL:MODEL`` texts (models EK280, TC220, DL220) and the bus that they share.

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
        log: see VirtualBus.

    Raises:
        ValueError: for an unknown model, fault, rate or zone, or a text that cannot be read.
    """
    described = [read_meter(spec) for spec in specs]
    _refuse_twins([address.lstrip("0") for address, _, _ in described])
    read_faults(faults, "")  # before any file is opened
    meters = [
        VirtualMeter(
            address,
            serial,
            persona,
            seed=seed,
            now=now,
            zone=_zone(timezone),
            interval=interval,
            history_days=history_days,
            drift=drift,
            locked=locked,
            codes=codes,
            language=language,
            rate_id=None if offered_rate is None else _rate_id(offered_rate),
            truth=truth,
        )
        for address, serial, persona in described
    ]
    return VirtualBus(
        meters,
        faults=faults,
        throttle=throttle,
        opening_rate=opening_rate,
        fixed_rate=fixed_rate,
        log=log,
        seed=seed,
    )


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
    line = asyncio.Lock()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(_start(bus, _serve_client(bus, line, reader, writer), "line"))

    server = await asyncio.start_server(connected, host, port)
    tasks.append(_start(bus, bus.keep_time(), "clock"))
    try:
        yield f"socket://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await _end(tasks)
        await server.wait_closed()
        bus.close()


async def _serve_client(
    bus: VirtualBus, line: asyncio.Lock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    wire = TcpWire(reader, writer)
    try:
        async with line:
            await bus.serve(wire)
    finally:
        await wire.aclose()


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
