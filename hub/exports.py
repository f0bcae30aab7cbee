"""Export of readings (additive, ``GET /v1/metering/readings/export``): all that a filter finds, streamed as a file.

Rules.
- It walks along an index in slices, each a short look of its own: no transaction is open for long, and memory is that
  of one slice. Readings that come meanwhile may be in the file or not; those that were there are in it once.
- What is wrong with the request, or the database, is said before the file begins. An error after that cuts the
  connection before its end (a chunked answer without its last chunk): a client sees that the file is not whole.
- Values are decimals as they are stored, times are UTC. In CSV a text that a spreadsheet would take for a formula has
  an apostrophe before it; a value is a number and has none.
"""

import asyncio
import csv
import datetime as dt
import io
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from litestar import Router, get
from litestar.openapi import ResponseSpec
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import Row as Selected
from sqlalchemy import Select, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from hub.access import access_of
from hub.cursors import Keyset, keyset_of
from hub.database import UNREACHABLE, reading
from hub.models import MeterDevice, Reading, ReadingSeries
from hub.paging import query_of
from hub.problems import TooOften, wrong
from hub.readings import RESOURCE, walk
from hub.state import Hub, HubRequest, hub_of
from hub.validation import names_of

FIRST_ROWS = 200
"""Readings in the first slice: the file begins at once."""

ROWS = 5000
"""Readings in each further slice."""

_KNOWN = 20_000
"""Names of meters and series that are remembered from slice to slice."""

_RETRY_SECONDS = 10
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl"}

_log = structlog.get_logger(__name__)


class ExportedReading(msgspec.Struct, kw_only=True):
    """A reading in the file; in CSV its fields are the columns, ``flags`` with spaces between them."""

    meter_device: uuid.UUID
    meter: str
    series: uuid.UUID
    series_name: str
    timestamp: dt.datetime
    value: str
    unit: str
    collected: dt.datetime
    provenance: str
    version_count: int
    flags: list[str]


_FIELDS = ExportedReading.__struct_fields__
_COLUMNS = (
    Reading.id,
    Reading.meter_device,
    Reading.series,
    Reading.timestamp,
    Reading.value,
    Reading.unit,
    Reading.collected,
    Reading.provenance,
    Reading.version_count,
    Reading.flags,
)
_Rows = Sequence[Selected[Any]]


class _Names:
    """What meters and series are called, looked up once as long as there are not too many."""

    def __init__(self) -> None:
        self._meters: dict[uuid.UUID, str] = {}
        self._series: dict[uuid.UUID, tuple[str, str]] = {}

    async def learn(self, session: AsyncSession, rows: _Rows) -> None:
        """Look up what is not known of these rows."""
        if len(self._meters) + len(self._series) > _KNOWN:
            self._meters.clear()
            self._series.clear()
        meters = {row.meter_device for row in rows} - self._meters.keys()
        series = {row.series for row in rows} - self._series.keys()
        names = await session.execute(select(MeterDevice.id, MeterDevice.name).where(MeterDevice.id.in_(meters)))
        self._meters |= {row.id: row.name for row in names}
        known = select(ReadingSeries.id, ReadingSeries.name, ReadingSeries.unit).where(ReadingSeries.id.in_(series))
        self._series |= {row.id: (row.name, row.unit) for row in await session.execute(known)}

    def readings(self, rows: _Rows) -> Iterable[ExportedReading]:
        """Make the readings of rows; what was deleted since they were read has no name."""
        for row in rows:
            name, unit = self._series.get(row.series, ("", ""))
            yield ExportedReading(
                meter_device=row.meter_device,
                meter=self._meters.get(row.meter_device, ""),
                series=row.series,
                series_name=name,
                timestamp=row.timestamp,
                value=format(row.value, "f"),
                unit=row.unit or unit,
                collected=row.collected,
                provenance=row.provenance,
                version_count=row.version_count,
                flags=names_of(row.flags) if row.flags else [],
            )


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _instant(instant: dt.datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _csv_head() -> bytes:
    return f"{','.join(_FIELDS)}\r\n".encode()


def _csv_lines(readings: Iterable[ExportedReading]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(
        (
            one.meter_device,
            _safe(one.meter),
            one.series,
            _safe(one.series_name),
            _instant(one.timestamp),
            one.value,
            _safe(one.unit),
            _instant(one.collected),
            _safe(one.provenance),
            one.version_count,
            " ".join(one.flags),
        )
        for one in readings
    )
    return text.getvalue().encode()


def _json_lines(readings: Iterable[ExportedReading]) -> bytes:
    return msgspec.json.Encoder().encode_lines(list(readings))


FORMATS: Mapping[str, tuple[Callable[[], bytes], Callable[[Iterable[ExportedReading]], bytes]]] = {
    "csv": (_csv_head, _csv_lines),
    "jsonl": (bytes, _json_lines),
}
"""How a file begins, and its lines."""


def _format_of(request: HubRequest, query: Mapping[str, str]) -> str:
    wanted = query.get("format", "")
    if wanted:
        if wanted not in FORMATS:
            raise wrong("format", f"{wanted!r} is none of {', '.join(FORMATS)}")
        return wanted
    accepted = request.headers.get("accept", "")
    return "jsonl" if "application/jsonl" in accepted or "application/x-ndjson" in accepted else "csv"


def _takes_gzip(request: HubRequest) -> bool:
    for one in request.headers.get("accept-encoding", "").split(","):
        name, _, weight = one.strip().lower().partition(";")
        if name in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


class _Packer:
    """Compresses a stream, or leaves it as it is."""

    def __init__(self, *, gzip: bool) -> None:
        # Level 1: a level more costs half as much again, and saves a tenth.
        self._zlib = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16) if gzip else None

    def pack(self, data: bytes) -> bytes:
        """Return what is to be sent now; each slice can be read as soon as it is there."""
        return data if self._zlib is None else self._zlib.compress(data) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """Return what ends the stream."""
        return b"" if self._zlib is None else self._zlib.flush()


class _Export:
    """One export under way."""

    def __init__(
        self, hub: Hub, statement: Select[*tuple[Any, ...]], keyset: Keyset, style: str, *, gzip: bool
    ) -> None:
        self._hub = hub
        self._statement = statement.order_by(*keyset.order)
        self._keyset = keyset
        self._head, self._lines = FORMATS[style]
        self._packer = _Packer(gzip=gzip)
        self._names = _Names()
        self._place: list[Any] | None = None

    async def slice(self, count: int) -> tuple[bytes, bool]:
        """Return the next slice as it is sent, and whether there may be more."""
        statement = self._statement.limit(count)
        if self._place is not None:
            statement = statement.where(self._keyset.after(self._place))
        async with reading(self._hub.engine) as session:
            rows = (await session.execute(statement)).all()
            await self._names.learn(session, rows)
        begun = self._place is not None
        if rows:
            self._place = self._keyset.place(rows[-1])
        # Beside the loop: others are answered meanwhile.
        return await asyncio.to_thread(self._pack, rows, head=not begun), len(rows) == count

    def _pack(self, rows: _Rows, *, head: bool) -> bytes:
        return self._packer.pack((self._head() if head else b"") + self._lines(self._names.readings(rows)))

    async def stream(self, first: bytes, *, more: bool) -> AsyncIterator[bytes]:
        """Yield the first slice and all further ones."""
        with self._hub.exports.one_more():
            yield first
            try:
                while more:
                    if self._hub.stopping.is_set():
                        raise ConnectionAbortedError("the process ends")
                    data, more = await self.slice(ROWS)
                    yield data
            except (SQLAlchemyError, *UNREACHABLE) as error:
                _log.error("export_failed", cause=f"{type(error).__name__}: {error}".partition("\n")[0][:500])
                raise
            yield self._packer.end()


@get(
    "/export",
    summary="Export: readings",
    description=f"All readings that the filters find, as a file. Filters: {', '.join(RESOURCE.filters)}; "
    "format=csv or jsonl, or by the header Accept.",
    responses={HTTP_200_OK: ResponseSpec(str, media_type="text/csv", description="The readings.")},
)
async def export_readings(request: HubRequest) -> Stream:
    """Stream readings.

    Raises:
        TooOften: when too many exports are under way.
    """
    hub = hub_of(request)
    query = query_of(request, [*RESOURCE.filters, "format"])
    style = _format_of(request, query)
    keyset = keyset_of(walk(query))
    if keyset is None:
        raise TypeError("readings are walked along columns that are never null")
    conditions = [make(name, query[name]) for name, make in RESOURCE.filters.items() if name in query]
    statement: Select[*tuple[Any, ...]] = select(*_COLUMNS).where(*RESOURCE.only(access_of(request)), *conditions)
    if hub.exports.now >= hub.exports.most:
        raise TooOften(f"{hub.exports.most} exports are under way, which is all there may be", _RETRY_SECONDS)
    gzip = _takes_gzip(request)
    with hub.exports.one_more():
        export = _Export(hub, statement, keyset, style, gzip=gzip)
        first, more = await export.slice(FIRST_ROWS)
    headers = {"Content-Disposition": f'attachment; filename="readings.{style}"', "Vary": "Accept, Accept-Encoding"}
    if gzip:
        headers["Content-Encoding"] = "gzip"
    return Stream(export.stream(first, more=more), media_type=_TYPES[style], headers=headers)


router = Router("/v1/metering/readings", route_handlers=[export_readings], tags=["reading"])
