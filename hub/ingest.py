"""What gateways deliver, from bytes to committed rows: many batches in one transaction, receipts after its commit.

Rules:
- Nothing is receipted that is not committed. A batch is never judged by its name: its rows are stored by what they say.
- One strange row costs one row: rows that cannot be read go into quarantine by themselves, readings that cannot be
  readings yet are staged with the reason. Batches that cannot be read go into quarantine as they came and are receipted
  as quarantined, by the name in the user properties: only if the gateway has signed them, because these names are not
  signed, and a stranger's would have the gateway forget rows that are nowhere else. A payload stands for one name.
- A forged envelope, or one by another key than the gateway's pinned one, is dropped without a receipt and logged; so is
  everything of a gateway that the hub does not know: its agent keeps it until the gateway is created.
- Locks are taken in one order by all relays: gateways to pin, batches, readings, staged, quarantine, reports.
"""

import dataclasses
import datetime as dt
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import versions
from hub.arrived_batches import Arrived, count_batches, note_batches
from hub.database import reading, writing
from hub.judging import Claim, Directory, look_up
from hub.known_estate import Estate, KnownEstate, known_estate_of
from hub.known_gateways import WRONG_KEY, KnownGateway, pin_key, read_gateways, warn_of_wrong_key
from hub.plain_readings import Plain, meters_of, read_plain
from hub.quarantine import ROW, Unreadable, admitted, quarantine
from hub.ready_readings import Ready, make_ready
from hub.reports import Told, store_reports
from hub.staging import find_repeated, stage
from protocol import readings, reports
from protocol.envelopes import ForgedError, open_envelope
from protocol.readings import BatchName
from protocol.topics import Channel, Topic, parse_topic
from protocol.wire import MAX_MESSAGE_BYTES, ContractError, decode

UNKNOWN_GATEWAY = "unknown_gateway"
FORGED = "forged"
TOO_LARGE = "too_large"
QUARANTINE_FULL = "quarantine_full"
QUARANTINED_ROWS = "quarantined_rows"
QUARANTINED_BATCHES = "quarantined_batches"
RENAMED = "renamed"
STAGED = "staged"

BELIEVED_SECONDS = 0.25
"""Who had to wait for somebody else's transaction for so long judges by what is so after it, not by what is kept."""

READY_ROWS = 500
"""Plain readings of a group from which it is made ready before its transaction, where a database has one writer."""

_log = structlog.get_logger(__name__)


# One of these is made for each message, and of the next two: frozen it takes three times as long.
@dataclasses.dataclass(slots=True)
class Delivery:
    """One message on the channel ``readings`` or ``report``, as it came, with its MQTT 5 user properties."""

    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...]
    received_at: dt.datetime


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a group of deliveries: the receipts that may be sent now, and counts by word for the metrics."""

    receipts: dict[tuple[str, str, str], list[BatchName]] = dataclasses.field(default_factory=dict)
    """Names by (gateway id, channel, outcome)."""
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: float = 0.0
    """Real seconds that its transaction took; waiting for SQLite's one writer is none of it."""

    def receipt(self, topic: Topic, name: BatchName, outcome: str) -> None:
        """Note that the batch may be receipted."""
        self.receipts.setdefault((topic.gateway, topic.channel.value, outcome), []).append(name)


@dataclasses.dataclass(slots=True)
class Opened:
    """A delivery that somebody has signed, or an unreadable one; taken apart as far as that needs no database."""

    delivery: Delivery
    topic: Topic
    key: bytes | None = None
    """Who signed it; None when there is no envelope."""
    batch: readings.Batch | None = None
    plain: Plain | None = None
    """All rows of the batch, when there is nothing special about any."""
    cause: str = ""
    """Why there is no batch."""


class _Admitted(msgspec.Struct):
    """A delivery on its way: taken apart as far as it can be read."""

    delivery: Delivery
    topic: Topic
    gateway: uuid.UUID
    organization: uuid.UUID
    batch: readings.Batch | None = None
    plain: Plain | None = None
    claims: list[Claim] = []
    told: list[reports.Report] = []
    report_rows: list[bytes] = []
    unreadable: list[Unreadable] = []
    arrived: Arrived | None = None
    counts: dict[str, int] = {}
    """By word, how many of its rows were not stored as new ones."""

    def count(self, word: str) -> None:
        """Count a row."""
        self.counts[word] = self.rows(word) + 1

    def rows(self, word: str) -> int:
        """Return how many rows were counted."""
        return self.counts.get(word, 0)

    @property
    def batch_id(self) -> int | None:
        """The batch's row, once it has one."""
        return self.arrived.id if self.arrived is not None else None


async def store_deliveries(
    engine: AsyncEngine, deliveries: Sequence[Delivery], now: dt.datetime, quarantine_rows: int
) -> Outcome:
    """Open and store a group of deliveries in one transaction; when this returns it is committed."""
    counts: Counter[str] = Counter()
    opened = [one for delivery in deliveries if (one := open_delivery(delivery, counts)) is not None]
    outcome = await store_opened(engine, opened, now, quarantine_rows)
    outcome.counts += counts
    return outcome


async def store_opened(
    engine: AsyncEngine, opened: Sequence[Opened], now: dt.datetime, quarantine_rows: int
) -> Outcome:
    """Store a group in one transaction; when this returns it is committed."""
    outcome = Outcome()
    if not opened:
        return outcome
    known = known_estate_of(engine)
    ready = await _make_ready(engine, known, opened, now) if engine.dialect.name == "sqlite" else None
    async with writing(engine) as session:
        begun = time.monotonic()
        estate = await known.now(session)
        stored = await _store(session, estate, opened, outcome, now, quarantine_rows, ready)
    outcome.seconds = time.monotonic() - begun
    for one in stored:
        _receipt(one, outcome)
    return outcome


async def store_again(session: AsyncSession, delivery: Delivery, now: dt.datetime, quarantine_rows: int) -> bool:
    """Store a delivery that was kept unread, in the caller's transaction; return whether it could be read."""
    outcome = Outcome()
    opened = open_delivery(delivery, outcome.counts)
    if opened is None:
        return False
    return any(
        one.batch is not None for one in await _store(session, Estate(), [opened], outcome, now, quarantine_rows)
    )


async def store_row_again(session: AsyncSession, topic: str, row: bytes, now: dt.datetime) -> str:
    """Store a single row that was set aside, its batch being stored already, in the caller's transaction.

    Returns:
        Why it still cannot be stored, if so.
    """
    parsed = parse_topic(topic)
    gateway = (await read_gateways(session, [parsed.gateway])).get(parsed.gateway)
    if gateway is None:
        return f"there is no gateway {parsed.gateway!r}"
    one = _Admitted(Delivery(topic, row, (), now), parsed, gateway.id, gateway.organization)
    _read_row(one, row)
    await _store_readings(session, Estate(), [one], now, Outcome())
    await _store_reports(session, [one], now, Outcome())
    return one.unreadable[0].reason if one.unreadable else ""


async def _make_ready(
    engine: AsyncEngine, known: KnownEstate, opened: Sequence[Opened], now: dt.datetime
) -> Ready | None:
    """Make the plain readings of a group ready before its transaction; None where that is not worth it."""
    plain = [(one.topic.gateway, one.plain) for one in opened if one.plain is not None]
    if sum(len(one.timestamps) for _, one in plain) < READY_ROWS:
        return None
    async with reading(engine) as session:
        estate = await known.now(session)
        gateways = await estate.gateways(session, (gateway for gateway, _ in plain))
        batches = [(gateways[gateway].id, one) for gateway, one in plain if gateway in gateways]
        directory = await estate.meters(session, meters_of(one for _, one in batches))
    return await make_ready(directory, batches, now, beside=True)


async def _store(
    session: AsyncSession,
    estate: Estate,
    opened: Sequence[Opened],
    outcome: Outcome,
    now: dt.datetime,
    quarantine_rows: int,
    ready: Ready | None = None,
) -> list[_Admitted]:
    """Store what is admitted; return what may be receipted after the commit."""
    begun = time.monotonic()
    found = await _admit(session, estate, opened, outcome)
    found = await _keep_if_room(session, found, outcome, quarantine_rows)
    arrived = [one.arrived for one in found if one.arrived is not None]
    await note_batches(session, arrived, now)
    # For a gateway that somebody edits, or a batch that another relay stores. On SQLite nobody else writes meanwhile.
    if time.monotonic() - begun > BELIEVED_SECONDS and session.get_bind().dialect.name == "postgresql":
        estate = Estate()
    for one in found:
        for claim in one.claims:
            claim.batch = one.batch_id
    await _store_readings(session, estate, found, now, outcome, ready)
    await _store_reports(session, found, now, outcome)
    # Once more: rows that cannot be read, and reports that belong to nothing known, are found only now. What is stored
    # of them may come again.
    found = await _keep_if_room(session, found, outcome, quarantine_rows)
    unreadable = [item for one in found for item in one.unreadable]
    for item in unreadable:
        _log.warning(
            "quarantined", gateway=item.gateway, channel=item.channel, size=len(item.payload), cause=item.reason
        )
    await quarantine(session, unreadable, now)
    await count_batches(
        session,
        [
            (one.arrived.id, one.rows(versions.DUPLICATE), one.rows(versions.REVISION), one.rows(STAGED))
            for one in found
            if one.counts and one.arrived is not None and one.arrived.new and one.arrived.id is not None
        ],
    )
    return found


def open_delivery(delivery: Delivery, counts: Counter[str]) -> Opened | None:
    """Do everything that needs no database; None, counted and logged, when it is not worth a look at the database."""
    try:
        topic = parse_topic(delivery.topic)
    except ContractError as error:
        _log.warning("delivery_dropped", topic=delivery.topic, cause=str(error))
        return None
    if len(delivery.payload) > MAX_MESSAGE_BYTES:
        counts[TOO_LARGE] += 1
        _log.warning("delivery_dropped", gateway=topic.gateway, cause=f"{len(delivery.payload)} bytes are too large")
        return None
    try:
        envelope = open_envelope(delivery.topic, delivery.payload)
    except ForgedError as error:
        counts[FORGED] += 1
        _log.warning("delivery_forged", gateway=topic.gateway, topic=delivery.topic, cause=str(error))
        return None
    except ContractError as error:
        return Opened(delivery, topic, cause=str(error))
    try:
        batch = readings.checked_batch(envelope.body)
    except ContractError as error:
        return Opened(delivery, topic, envelope.key, cause=str(error))
    plain = read_plain(envelope.body) if topic.channel is Channel.READINGS else None
    return Opened(delivery, topic, envelope.key, batch, plain)


async def _admit(session: AsyncSession, estate: Estate, opened: Sequence[Opened], outcome: Outcome) -> list[_Admitted]:
    """Return the deliveries of known gateways that are signed with their pinned key; a first key is pinned."""
    known = await estate.gateways(session, (one.topic.gateway for one in opened))
    admitted_ones: list[_Admitted] = []
    unknown: Counter[str] = Counter()
    for one in opened:
        gateway = known.get(one.topic.gateway)
        if gateway is None:
            unknown[one.topic.gateway] += 1
            continue
        if one.key is not None:
            if gateway.public_key is None:
                gateway = known[one.topic.gateway] = await pin_key(session, gateway, one.key)
            if gateway.public_key != one.key:
                outcome.counts[WRONG_KEY] += 1
                warn_of_wrong_key(gateway, one.key)
                continue
        admitted_ones.append(_read(one, gateway))
    for gateway_id, count in unknown.items():
        outcome.counts[UNKNOWN_GATEWAY] += count
        _log.warning(UNKNOWN_GATEWAY, gateway=gateway_id, deliveries=count, advice="create it; its agent keeps all")
    return admitted_ones


def _read(opened: Opened, gateway: KnownGateway) -> _Admitted:
    """Take a batch apart, row by row unless it is plain; what cannot be read is noted."""
    one = _Admitted(opened.delivery, opened.topic, gateway.id, gateway.organization, opened.batch, opened.plain)
    if opened.batch is None:
        _set_whole_aside(one, opened.cause, signed=opened.key is not None)
        return one
    one.arrived = Arrived(gateway.id, opened.topic.channel.value, opened.batch.name, opened.delivery.received_at)
    if opened.plain is None:
        _read_rows(one, range(len(opened.batch.rows)))
    return one


def _read_rows(one: _Admitted, positions: Iterable[int]) -> None:
    if one.batch is not None:
        for position in positions:
            _read_row(one, one.batch.rows[position])


def _read_row(one: _Admitted, row: bytes | msgspec.Raw) -> None:
    try:
        if one.topic.channel is Channel.READINGS:
            one.claims.append(_claim(decode(row, readings.NewMeterReading), one))
        else:
            one.told.append(reports.decode_report(row))
            one.report_rows.append(bytes(row))
    except ContractError as error:
        _set_aside(one, bytes(row), str(error))


def _set_whole_aside(one: _Admitted, reason: str, *, signed: bool) -> None:
    try:
        name = readings.name_from_properties(one.delivery.properties) if signed else None
    except ContractError:
        name = None
    payload = one.delivery.payload
    one.unreadable.append(
        Unreadable(one.topic.gateway, one.topic.channel.value, one.delivery.topic, payload, reason, name, signed)
    )


def _set_aside(one: _Admitted, row: bytes, reason: str) -> None:
    name = one.batch.name if one.batch else None
    channel = f"{one.topic.channel.value}{ROW}"
    one.unreadable.append(Unreadable(one.topic.gateway, channel, one.delivery.topic, row, reason, name))


def _claim(reading: readings.NewMeterReading, one: _Admitted) -> Claim:
    timestamp, collected = reading.timestamp, reading.collected
    try:
        timestamp = timestamp.astimezone(dt.UTC)
        # Without a time of collection something must stand there that is the same in every delivery.
        collected = collected.astimezone(dt.UTC) if collected is not None else timestamp
    except OverflowError as error:
        raise ContractError(f"the timestamp {timestamp} has no UTC: {error}") from error
    return Claim(
        meter=reading.meter,
        series=reading.series,
        timestamp=timestamp,
        value=reading.value,
        collected=collected,
        device=reading.device,
        gateway=one.gateway,
        organization=one.organization,
        unit=reading.unit,
        provenance=reading.provenance,
        clock_offset=reading.clock_offset,
        batch=one.batch_id,
    )


async def _keep_if_room(
    session: AsyncSession, opened: list[_Admitted], outcome: Outcome, quarantine_rows: int
) -> list[_Admitted]:
    """Leave out, unstored and without a receipt, deliveries with something unreadable that has no room any more.

    So are payloads that are kept already, under another name.
    """
    unreadable = [item for one in opened for item in one.unreadable]
    if not unreadable:
        return opened
    room = await admitted(session, unreadable, quarantine_rows)
    kept = [one for one in opened if all(item.identity in room for item in one.unreadable)]
    if len(kept) < len(opened):
        outcome.counts[QUARANTINE_FULL] += len(opened) - len(kept)
        _log.error(QUARANTINE_FULL, limit=quarantine_rows, deliveries=len(opened) - len(kept))
    return [one for one in kept if not _renamed(one, room, outcome)]


def _renamed(one: _Admitted, room: Mapping[bytes, BatchName | None], outcome: Outcome) -> bool:
    """Whether a whole payload is kept under another name than it has now."""
    if one.batch is not None or room[one.unreadable[0].identity] == one.unreadable[0].name:
        return False
    outcome.counts[RENAMED] += 1
    _log.warning("delivery_dropped", gateway=one.topic.gateway, cause="it is in quarantine under another name")
    return True


async def _store_readings(
    session: AsyncSession,
    estate: Estate,
    opened: list[_Admitted],
    now: dt.datetime,
    outcome: Outcome,
    ready: Ready | None = None,
) -> None:
    batches = [(one.gateway, one.plain) for one in opened if one.plain is not None]
    sources = [(claim, one) for one in opened for claim in one.claims]
    devices = meters_of(one for _, one in batches)
    if sources:
        # They may name meters, which is not what is kept.
        ids = {uuid.UUID(bytes=device) for device in devices}
        directory = await look_up(session, (claim for claim, _ in sources), ids)
    else:
        directory = await estate.meters(session, devices)
    if ready is None or not ready.is_still_so(directory, batches):
        ready = await make_ready(directory, batches, now)
    await _store_plain(session, [one for one in opened if one.plain is not None], ready, outcome)
    # Those that were repeated in plain batches are claims only now.
    sources = [(claim, one) for one in opened for claim in one.claims]
    if sources:
        await _store_claims(session, sources, directory, now, outcome)


async def _store_plain(session: AsyncSession, plain: list[_Admitted], ready: Ready, outcome: Outcome) -> None:
    """Insert what is plain and new; the rest of it becomes claims."""
    columns = ready.columns
    of: list[tuple[_Admitted, int]] = []
    end = 0
    for one, taken in zip(plain, ready.taken, strict=True):
        if one.batch is None or one.plain is None:
            continue
        if taken:
            end += len(one.plain.timestamps)
            of.append((one, end))
        else:
            _read_rows(one, range(len(one.batch.rows)))
    there = await columns.insert(session, [one.batch_id for one, _ in of])
    stored = len(columns.places) - len(there)
    if stored:
        outcome.counts[versions.STORED] += stored
    if not there:
        return
    left = iter(there)
    next_left, begin = next(left, None), 0
    for one, end in of:
        again = []
        while next_left is not None and next_left < end:
            again.append(next_left - begin)
            next_left = next(left, None)
        _read_rows(one, again)
        begin = end


async def _store_claims(
    session: AsyncSession,
    sources: list[tuple[Claim, _Admitted]],
    directory: Directory,
    now: dt.datetime,
    outcome: Outcome,
) -> None:
    arrivals: list[versions.Arrival] = []
    of: list[_Admitted] = []
    waiting: list[tuple[Claim, str, _Admitted]] = []
    for claim, one in sources:
        judged = directory.judge(claim, now)
        if isinstance(judged, str):
            waiting.append((claim, judged, one))
        else:
            arrivals.append(judged)
            of.append(one)
    for word, one in zip(await versions.store(session, arrivals, now), of, strict=True):
        if word != versions.STORED:
            one.count(word)
        outcome.counts[word] += 1
    # A copied store has rows of meters that are another gateway's: what that one has brought need not wait.
    repeated = await find_repeated(session, directory, ((claim, reason) for claim, reason, _ in waiting))
    for (_, _, one), there in zip(waiting, repeated, strict=True):
        word = versions.DUPLICATE if there else STAGED
        one.count(word)
        outcome.counts[word] += 1
    left = [(claim, reason) for (claim, reason, _), there in zip(waiting, repeated, strict=True) if not there]
    await stage(session, left, now)


async def _store_reports(session: AsyncSession, opened: list[_Admitted], now: dt.datetime, outcome: Outcome) -> None:
    of_gateway: dict[uuid.UUID, list[tuple[_Admitted, int]]] = {}
    for one in opened:
        for position in range(len(one.told)):
            of_gateway.setdefault(one.gateway, []).append((one, position))
    if not of_gateway:
        return
    told = [
        Told(gateway, sources[0][0].organization, [one.told[position] for one, position in sources])
        for gateway, sources in sorted(of_gateway.items(), key=lambda item: item[0])
    ]
    left = await store_reports(session, told, now)
    for (gateway, index), reason in left.items():
        one, position = of_gateway[gateway][index]
        _set_aside(one, one.report_rows[position], reason)
        _log.warning("report_set_aside", gateway=one.topic.gateway, reason=reason)
    outcome.counts["reports"] += sum(len(sources) for sources in of_gateway.values()) - len(left)


def _receipt(one: _Admitted, outcome: Outcome) -> None:
    if one.batch is not None:
        outcome.counts["batches"] += 1
        outcome.counts[QUARANTINED_ROWS] += len(one.unreadable)
        outcome.receipt(one.topic, one.batch.name, reports.STORED)
        return
    outcome.counts[QUARANTINED_BATCHES] += 1
    for item in one.unreadable:
        if item.name is not None:
            outcome.receipt(one.topic, item.name, reports.QUARANTINED)
