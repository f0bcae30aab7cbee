"""Whether a reading that arrived may become a reading, or has to wait staged, and for what.

The same judgement is passed when a reading arrives and when a staged one may be adopted, so both ways end alike.
A gateway's reading names its meter by the UUID from the plan: that UUID alone counts, whatever the meter is called
now, so a rename never moves a reading. The name counts only where there is no UUID: within the gateway's
organization, or, from push doors, within the caller's organization or (staff) wherever just one meter has it.
"""

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import TextClause, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub import array_texts
from hub.among import among
from hub.many import batched
from hub.models import DeviceGateway, MeterDevice, MeterDeviceType, NetworkInterface, ReadingSeries, config_series
from hub.versions import Arrival

UNKNOWN_METER = "unknown_meter"
NOT_THIS_GATEWAY = "not_this_gateway"
TIMESTAMP_OUT_OF_BOUNDS = "timestamp_out_of_bounds"
SERIES_NOT_ALLOWED = "series_not_allowed"
REASONS = (UNKNOWN_METER, NOT_THIS_GATEWAY, TIMESTAMP_OUT_OF_BOUNDS, SERIES_NOT_ALLOWED)
"""Why a reading is staged; the first that holds, in this order."""

OLDEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""No reading is older: such a timestamp is a meter's clock that was never set."""

FUTURE = dt.timedelta(days=2)
"""How far ahead of the hub's clock a timestamp may lie: meters and zones are wrong by hours, rarely by more."""

_CHUNK = 5000
"""Values per IN list: SQLite takes 32,766 parameters in a statement."""


@dataclasses.dataclass(slots=True)
class Claim:
    """A reading as it was claimed. ``gateway`` is None from a push door; ``batch`` is the row in ``batches``."""

    meter: str
    series: str
    timestamp: dt.datetime
    value: decimal.Decimal
    collected: dt.datetime
    device: uuid.UUID | None = None
    gateway: uuid.UUID | None = None
    organization: uuid.UUID | None = None
    unit: str = ""
    provenance: str = "meter"
    clock_offset: float | None = None
    batch: int | None = None


class Series(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A series of a meter: one object for each in a directory, of which each transaction makes thousands."""

    organization: uuid.UUID
    device: uuid.UUID
    series: uuid.UUID


@dataclasses.dataclass(frozen=True, slots=True)
class Meter:
    """What judging needs to know about a meter; ``gateway`` is the one that polls it now."""

    id: uuid.UUID
    name: str
    organization: uuid.UUID | None
    config: uuid.UUID | None
    gateway: uuid.UUID | None


class Directory:
    """What the database says about the meters of some claims, read in three queries by ``look_up``."""

    def __init__(self) -> None:
        self._meters: dict[uuid.UUID, Meter] = {}
        self._named: dict[str, list[Meter]] = {}
        self._history: set[tuple[uuid.UUID, uuid.UUID]] = set()
        self._series: dict[uuid.UUID, dict[str, tuple[uuid.UUID, uuid.UUID]]] = {}
        self._places: dict[tuple[object, ...], tuple[uuid.UUID, uuid.UUID, uuid.UUID] | str] = {}
        self._tables: dict[uuid.UUID, dict[bytes, dict[str, Series]]] = {}
        self._series_of: dict[uuid.UUID, dict[str, Series]] = {}
        self._asked = 0

    def judge(self, claim: Claim, now: dt.datetime) -> Arrival | str:
        """Return the claim as an arrival, or the reason why it has to wait."""
        found = self._place(claim)
        if not isinstance(found, tuple):
            # Of two reasons the timestamp's comes first, because no edit of the estate makes it go.
            if found == SERIES_NOT_ALLOWED and not OLDEST <= claim.timestamp <= now + FUTURE:
                return TIMESTAMP_OUT_OF_BOUNDS
            return found
        if not OLDEST <= claim.timestamp <= now + FUTURE:
            return TIMESTAMP_OUT_OF_BOUNDS
        return _arrival(claim, *found)

    def by_any_gateway(self, claim: Claim) -> Arrival | None:
        """Return the claim as the arrival that it would be if its meter had been that gateway's; None if not even so.

        Not to be stored: only to see whether it is there already, brought by the meter's own gateway.
        """
        meter = self._find(claim)
        place = self._place_of(meter, claim.series) if meter is not None else None
        return _arrival(claim, *place) if place is not None else None

    def _place(self, claim: Claim) -> tuple[uuid.UUID, uuid.UUID, uuid.UUID] | str:
        """Return organization, meter and series of a claim, whatever its timestamp (asked again and again)."""
        # The numbers of UUIDs hash much faster than UUIDs.
        key = (
            claim.device.int if claim.device else claim.meter,
            claim.series,
            claim.gateway.int if claim.gateway else None,
            claim.organization.int if claim.organization else None,
        )
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._find_place(claim)
        return place

    def _find_place(self, claim: Claim) -> tuple[uuid.UUID, uuid.UUID, uuid.UUID] | str:
        meter = self._find(claim)
        if meter is None:
            return UNKNOWN_METER
        if claim.gateway is not None and not self.has_polled(claim.gateway, meter):
            return NOT_THIS_GATEWAY
        return self._place_of(meter, claim.series) or SERIES_NOT_ALLOWED

    def _place_of(self, meter: Meter, name: str) -> tuple[uuid.UUID, uuid.UUID, uuid.UUID] | None:
        series = self._series.get(meter.config, {}).get(name) if meter.config is not None else None
        return (meter.organization or series[1], meter.id, series[0]) if series is not None else None

    def table(self, gateway: uuid.UUID, device: bytes) -> dict[str, Series]:
        """Return, by name, the series that this gateway's readings of a meter may have; none if it may bring none."""
        tables = self._tables.setdefault(gateway, {})
        table = tables.get(device)
        if table is None:
            meter = self._meters.get(uuid.UUID(bytes=device))
            allowed = meter is not None and self.has_polled(gateway, meter)
            table = tables[device] = self._all_series(meter) if meter is not None and allowed else {}
            self._asked += 1
        return table

    def _all_series(self, meter: Meter) -> dict[str, Series]:
        found = self._series_of.get(meter.id)
        if found is None:
            named = self._series.get(meter.config, {}) if meter.config is not None else {}
            found = self._series_of[meter.id] = {
                name: Series(meter.organization or owner, meter.id, series) for name, (series, owner) in named.items()
            }
        return found

    def meter(self, device: uuid.UUID) -> Meter | None:
        """Return the meter with this id."""
        return self._meters.get(device)

    def has_polled(self, gateway: uuid.UUID, meter: Meter) -> bool:
        """Whether the meter is, or ever was, that gateway's."""
        return meter.gateway == gateway or (meter.id, gateway) in self._history

    def _find(self, claim: Claim) -> Meter | None:
        if claim.device is not None:
            return self._meters.get(claim.device)
        named = self._named.get(claim.meter, [])
        if claim.gateway is not None or claim.organization is not None:
            named = [meter for meter in named if meter.organization == claim.organization]
        return named[0] if len(named) == 1 else None

    @property
    def size(self) -> int:
        """How many meters it knows, or was asked for by gateways if these are more (each may name any), and claims."""
        return max(len(self._meters), self._asked) + len(self._places)

    def take(self, found: "Directory") -> None:
        """Have what another has read of other meters by their ids, all at once: nobody is told half of it."""
        meters, history, of_configs = found._meters, found._history, found._series  # noqa: SLF001 - one of our kind
        self._meters |= meters
        self._history |= history
        for config, series in of_configs.items():
            self._series.setdefault(config, series)

    async def read_meters(self, session: AsyncSession, ids: set[uuid.UUID], names: set[str]) -> None:
        """Read the meters with these ids or names."""
        statement = (
            select(
                MeterDevice.id,
                MeterDevice.name,
                MeterDevice.organization,
                MeterDeviceType.config,
                NetworkInterface.gateway,
            )
            .outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
            .outerjoin(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
        )
        for row in await _asked(session, _PG_METERS, ids=ids) if ids and _is_postgresql(session) else ():
            meter = Meter(*row)
            self._meters[meter.id] = meter
            if meter.name in names:
                self._named.setdefault(meter.name, []).append(meter)
        matches = [among(session, MeterDevice.name, some) for some in batched(sorted(names), _CHUNK)]
        if not _is_postgresql(session):
            matches += [among(session, MeterDevice.id, some) for some in batched(sorted(ids), _CHUNK)]
        for match in matches:
            for row in await session.execute(statement.where(match)):
                meter = Meter(*row)
                if meter.id not in self._meters and meter.name in names:
                    self._named.setdefault(meter.name, []).append(meter)
                self._meters[meter.id] = meter

    async def read_history(self, session: AsyncSession) -> None:
        """Read which gateways the meters were ever assigned to."""
        if not self._meters:
            return
        if _is_postgresql(session):
            rows = await _asked(session, _PG_HISTORY, ids=self._meters)
            self._history.update((device, gateway) for device, gateway in rows)
            return
        for some in batched(sorted(self._meters), _CHUNK):
            found = await session.execute(
                select(DeviceGateway.device, DeviceGateway.gateway).where(among(session, DeviceGateway.device, some))
            )
            self._history.update((device, gateway) for device, gateway in found)

    async def read_series(self, session: AsyncSession) -> None:
        """Read the series that the meters' configs allow."""
        configs = {meter.config for meter in self._meters.values() if meter.config is not None}
        if configs and _is_postgresql(session):
            for config, name, series, organization in await _asked(session, _PG_SERIES, ids=configs):
                self._series.setdefault(config, {}).setdefault(name, (series, organization))
            return
        for some in batched(sorted(configs), _CHUNK):
            found = await session.execute(
                select(config_series.c.config, ReadingSeries.name, ReadingSeries.id, ReadingSeries.organization)
                .join(ReadingSeries, ReadingSeries.id == config_series.c.series)
                .where(among(session, config_series.c.config, some))
                .order_by(ReadingSeries.id)
            )
            for config, name, series, organization in found:
                self._series.setdefault(config, {}).setdefault(name, (series, organization))


# The same three, for each transaction of ingestion, as text: through the mapper a statement is put together and looked
# up among those compiled before, which takes longer than its rows.
_PG_METERS = text("""
    SELECT d.id, d.name, d.organization, t.config, n.gateway
    FROM meter_devices d
    LEFT JOIN meter_device_types t ON t.id = d.type
    LEFT JOIN network_interfaces n ON n.id = d.network_interface
    WHERE d.id = ANY(CAST(CAST(:ids AS text) AS uuid[]))
""")
_PG_HISTORY = text("""
    SELECT device, gateway FROM device_gateways
    WHERE device = ANY(CAST(CAST(:ids AS text) AS uuid[]))
""")
_PG_SERIES = text("""
    SELECT c.config, s.name, s.id, s.organization
    FROM config_series c JOIN meter_reading_series s ON s.id = c.series
    WHERE c.config = ANY(CAST(CAST(:ids AS text) AS uuid[]))
    ORDER BY s.id
""")


def _is_postgresql(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "postgresql"


async def _asked(session: AsyncSession, statement: TextClause, **ids: Iterable[uuid.UUID]) -> Sequence[Any]:
    """Return the rows of a statement with lists of ids, each told as one text."""
    connection = await session.connection()
    values = {name: array_texts.of_ids(some) for name, some in ids.items()}
    return (await connection.execute(statement, values)).all()


def _arrival(claim: Claim, organization: uuid.UUID, device: uuid.UUID, series: uuid.UUID) -> Arrival:
    return Arrival(
        organization,
        device,
        series,
        claim.timestamp,
        claim.value,
        claim.collected,
        claim.unit,
        claim.provenance,
        claim.clock_offset,
        claim.batch,
    )


async def look_up(
    session: AsyncSession,
    claims: Iterable[Claim],
    ids: Iterable[uuid.UUID] = (),
) -> Directory:
    """Read what is needed to judge the claims, and what gateways bring of the meters with these ids."""
    ids = set(ids)
    by_gateways = bool(ids)
    names: set[str] = set()
    seen: set[tuple[int | str, int | None]] = set()
    for claim in claims:
        key = (claim.device.int if claim.device else claim.meter, claim.gateway.int if claim.gateway else None)
        if key in seen:
            continue
        seen.add(key)
        if claim.device is not None:
            ids.add(claim.device)
        else:
            names.add(claim.meter)
        by_gateways = by_gateways or claim.gateway is not None
    directory = Directory()
    await directory.read_meters(session, ids, names)
    if by_gateways:
        await directory.read_history(session)
    await directory.read_series(session)
    return directory


async def look_up_meters(session: AsyncSession, devices: set[uuid.UUID]) -> Directory:
    """Read the meters with these ids, and which gateways' they are or were."""
    directory = Directory()
    await directory.read_meters(session, devices, set())
    await directory.read_history(session)
    return directory
