"""One receiver at work: what it takes apart becomes rows of the outbox, what it cannot becomes a report.

Rules:
- Readings wait at most ``GATHER`` seconds or ``MOST_WAITING`` rows, then they are stored in one transaction together
  with what the receiver must remember. While the disk takes nothing, nothing more is heard: a stream waits in the
  kernel, what a datagram socket loses there is counted.
- Work is paid for: all receivers together take at most ``SHARE`` of the process's time, so that a flood delays itself
  and not the polling (``Pace``).
- A value without a time of its own gets the gateway's, provenance ``gateway``; while the gateway's clock is not
  believed such a value is left out and counted, because nobody could put its time right later.
- Undecodable payloads are reported with their first bytes, ``MOST_REPORTS`` in an hour; the others are counted, and
  the next report says how many they were.
"""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from zoneinfo import ZoneInfo

import structlog

from agent import metrics
from agent.clocks import Clock
from agent.storage_faults import StoreFullError
from agent.store import Store
from protocol.iec62056.data_lines import same_register
from protocol.plans import PushMeter, Receiver
from protocol.readings import FROM_GATEWAY, FROM_PUSH, NewMeterReading, utc_milliseconds
from protocol.reports import MAX_PUSHED_BYTES, UndecodablePush
from protocol.wire import ContractError, encode
from receivers.catalogue import check_receiver, find_receiver
from receivers.receiver import Arrival, Decoder, KnownMeter, Meters, Pushed, Undecodable

log = structlog.get_logger(__name__)

GATHER = 0.25
"""Real seconds that a reading waits for others before all are stored."""
MOST_WAITING = 500
SHARE = 0.2
"""Of the process's time, what all receivers together may take."""
_LEAST_DEBT = 0.005
MOST_REPORTS = 20
"""Reports of undecodable payloads of one receiver in an hour."""
_HOUR = 3600.0
_FULL_WAIT = 1.0
_MOST_NAMES = 4096
_MOST_NAME = 50
_KEPT = "receiver/"


class Pace:
    """What work costs: whoever has worked a while waits four times as long, all receivers together."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._free = 0.0

    def pay(self, seconds: float) -> None:
        """Note that work has taken so long."""
        self._free = max(self._free, time.monotonic()) + seconds / self._share

    async def rest(self) -> None:
        """Wait until the work is paid for; others run meanwhile in any case."""
        debt = self._free - time.monotonic()
        await asyncio.sleep(debt if debt > _LEAST_DEBT else 0)


@dataclasses.dataclass(slots=True)
class ReceiverFigures:
    """What one receiver did since it was begun, by the names of the metrics page."""

    name: str
    bytes: int = 0
    readings: int = 0
    superfluous: int = 0
    undecodable: int = 0
    missed: int = 0
    undated: int = 0
    silent_seconds: float = 0.0
    fault: str = ""


class Reception:
    """One receiver of the plan. Implements ``agent.receiver_links.Sink``."""

    def __init__(
        self,
        receiver: Receiver,
        store: Store,
        clock: Clock,
        pace: Pace,
        *,
        believed: Callable[[], bool],
        keys: Mapping[uuid.UUID, Mapping[str, bytes]],
    ) -> None:
        """Open it; ``keys`` are those of its meters, by device and kind.

        Raises:
            ReceiverError: when this version cannot have it so; the plan was judged before.
        """
        self.plan = receiver
        self._store, self._clock, self._pace, self._believed = store, clock, pace, believed
        kind = find_receiver(receiver.receiver)
        kwargs = check_receiver(receiver.receiver, receiver.endpoint, receiver.kwargs)
        self.silence = kind.silence
        self.rate = kind.rate(kwargs)
        self._key = f"{_KEPT}{receiver.id.hex}"
        self._kept: bytes = store.get(self._key) or b""
        self._meters = Meters(
            [
                KnownMeter(one.identity, one.name, ZoneInfo(one.timezone), keys.get(one.device, {}))
                for one in receiver.meters
            ]
        )
        self._planned = {one.name: one for one in receiver.meters}
        self._intake = kind.open(kwargs, self._meters, self._kept)
        self._names: dict[tuple[str, str], tuple[PushMeter | None, str, str]] = {}
        self._waiting: list[bytes] = []
        self._reports: list[bytes] = []
        self._due = asyncio.Event()
        self._allowed, self._refilled = float(MOST_REPORTS), clock.monotonic()
        self._unreported = 0
        self._last: tuple[Undecodable, str] | None = None
        self._figures = ReceiverFigures(receiver.name)
        self._heard = clock.monotonic()

    # --- agent.receiver_links.Sink

    def begin(self) -> Decoder:
        """A decoder for one connection, port or datagram."""
        return self._intake.connection()

    async def hear(self, decoder: Decoder, data: bytes, source: str) -> bool:
        """Take bytes; returns when more may come, and whether they ended a payload that could be read."""
        begun = time.perf_counter()
        self._figures.bytes += len(data)
        self._heard = self._clock.monotonic()
        superfluous = self._intake.superfluous
        arrivals = decoder.receive(data, self._clock.now())
        useful = self._intake.superfluous > superfluous or any(isinstance(one, Pushed) for one in arrivals)
        self._take(arrivals, source)
        self._pace.pay(time.perf_counter() - begun)
        await self._pace.rest()
        while len(self._waiting) >= MOST_WAITING or (self._store.fault and self._waiting):
            # Whoever cannot store must not take more.
            if not self._stored():
                await asyncio.sleep(_FULL_WAIT)
        return useful

    def cease(self, decoder: Decoder, source: str) -> None:
        """Nothing more comes from there."""
        self._take(decoder.end(self._clock.now()), source)

    def missed(self, count: int) -> None:
        """So many payloads were lost before anybody could take them."""
        if not self._figures.missed:
            log.warning("pushes_missed", receiver=self.plan.name, count=count)
        self._figures.missed += count

    def works(self) -> None:
        """The endpoint is open."""
        if self._figures.fault:
            log.info("receiver_back", receiver=self.plan.name, endpoint=self.plan.endpoint)
        self._figures.fault = ""

    # --- for agent.receiving

    def fails(self, cause: str) -> None:
        """The endpoint is not open, and why."""
        if cause != self._figures.fault:
            log.warning("receiver_away", receiver=self.plan.name, cause=cause)
        self._figures.fault = cause

    def figures(self) -> ReceiverFigures:
        """What it did since it was begun."""
        self._figures.superfluous = self._intake.superfluous
        self._figures.silent_seconds = round(self._clock.monotonic() - self._heard, 1)
        return dataclasses.replace(self._figures)

    def keep_house(self) -> None:
        """Report what was only counted as soon as the hour allows it."""
        if self._last is not None and self._may_report():
            self._report(*self._last)
            self._later()

    async def storing(self) -> None:
        """Store what waits, for ever; what the disk does not take now it takes later."""
        while True:
            await self._due.wait()
            await asyncio.sleep(GATHER)
            self._due.clear()
            begun = time.perf_counter()
            stored = self._stored()
            self._pace.pay(time.perf_counter() - begun)
            if not stored:
                self._due.set()
                await asyncio.sleep(_FULL_WAIT)

    def end(self) -> None:
        """Store what waits; what cannot be stored now is lost with the process, as it is with the power."""
        self._stored()

    # --- rows

    def _take(self, arrivals: Sequence[Arrival], source: str) -> None:
        for arrival in arrivals:
            if isinstance(arrival, Undecodable):
                self._refuse(arrival, source)
                continue
            try:
                reading = self._reading(arrival)
            except ContractError as error:
                text = f"{arrival.series}={arrival.value} {arrival.unit}"
                self._refuse(Undecodable(text.encode(), str(error), arrival.came, arrival.meter), source)
                continue
            if reading is not None:
                self._waiting.append(encode(reading))
        if arrivals:
            self._later()

    def _reading(self, pushed: Pushed) -> NewMeterReading | None:
        believed = self._believed()
        if pushed.timestamp is None and not believed:
            if not self._figures.undated:
                log.warning("pushes_undated", receiver=self.plan.name)
            self._figures.undated += 1
            return None
        meter, name, series = self._named(pushed.meter, pushed.series)
        collected = pushed.collected or pushed.came
        return NewMeterReading(
            meter=name,
            series=series,
            timestamp=utc_milliseconds(pushed.came) if pushed.timestamp is None else pushed.timestamp,
            value=pushed.value,
            unit=pushed.unit,
            device=None if meter is None else meter.device,
            collected=collected if believed else None,
            provenance=FROM_GATEWAY if pushed.timestamp is None else FROM_PUSH,
            clock_offset=pushed.clock_offset if believed else None,
        )

    def _named(self, identity: str, series: str) -> tuple[PushMeter | None, str, str]:
        """The meter of the plan, its name and the name of the series; a stranger's are its own."""
        found = self._names.get((identity, series))
        if found is None:
            known = self._meters.find(identity)
            meter = None if known is None else self._planned[known.name]
            # A stranger without a name is called by where it was heard: people see it so in the staging.
            name = meter.name if meter is not None else (identity.strip() or self.plan.name)[:_MOST_NAME]
            found = (meter, name, _mapped(meter, series))
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            self._names[identity, series] = found
        return found

    def _later(self) -> None:
        if self._waiting or self._reports:
            self._due.set()

    def _stored(self) -> bool:
        """Store what waits; False when nothing can be written now."""
        kept = self._intake.kept()
        if not self._waiting and not self._reports and kept == self._kept:
            return True
        try:
            with self._store.transaction():
                self._store.readings.append(self._waiting)
                self._store.reports.append(self._reports)
                if kept != self._kept:
                    self._store.put(self._key, kept)
        except StoreFullError:
            return False
        metrics.count("readings_total", len(self._waiting))
        self._figures.readings += len(self._waiting)
        self._kept = kept
        self._waiting.clear()
        self._reports.clear()
        return True

    # --- what is no reading

    def _refuse(self, undecodable: Undecodable, source: str) -> None:
        self._figures.undecodable += 1
        self._unreported += 1
        if self._may_report():
            self._report(undecodable, source)
        else:
            self._last = (undecodable, source)

    def _may_report(self) -> bool:
        now = self._clock.monotonic()
        self._allowed = min(MOST_REPORTS, self._allowed + (now - self._refilled) * MOST_REPORTS / _HOUR)
        self._refilled = now
        return self._allowed >= 1

    def _report(self, undecodable: Undecodable, source: str) -> None:
        self._allowed -= 1
        self._last = None
        report = UndecodablePush(
            id=uuid.uuid4(),
            receiver=self.plan.id,
            name=self.plan.name[:100],
            came=undecodable.came,
            cause=undecodable.cause.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            payload=undecodable.payload[:MAX_PUSHED_BYTES],
            size=len(undecodable.payload),
            source=source[:100],
            meter=undecodable.meter.replace("\0", "")[:100],
            count=self._unreported,
        )
        log.warning(
            "push_undecodable",
            receiver=self.plan.name,
            source=source,
            cause=undecodable.cause,
            count=self._unreported,
        )
        self._unreported = 0
        self._reports.append(encode(report))


def _mapped(meter: PushMeter | None, series: str) -> str:
    """The name that the device's config gives a series, else the meter's own."""
    if meter is None:
        return series
    exact = (mapping.series for mapping in meter.mappings if mapping.source == series)
    same = (mapping.series for mapping in meter.mappings if same_register(mapping.source, series))
    return next(exact, None) or next(same, series)
