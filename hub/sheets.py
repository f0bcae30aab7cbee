"""Sheets (additive, ``/v1/sheets/...``): meters, their assignments and their keys as CSV, out and in again.

``GET`` exports a sheet, ``POST`` imports one; what was exported and is imported again changes nothing. An import is
one transaction: either all rows are in or, when one is refused, none (``on_error=skip``: all others). With ``dry_run``
the same transaction is rolled back at its end, so it tells what would happen, plans that would be too large included.

Rules. The file is read and judged by itself before the transaction begins; in it, rows go in chunks of ``CHUNK`` with
a fixed number of statements each, and each plan is made once, at the end. What of it holds the database's one writer
(SQLite) is told in docs/sheets.md.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

from litestar import Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import adoption, plans, sheet_assignments, sheet_keys, sheet_meters
from hub.access import access_of
from hub.database import reading
from hub.meter_devices import RESOURCE as METERS
from hub.models import Gateway
from hub.paging import query_of
from hub.problems import Unreadable, Wrong, WrongField, wrong
from hub.resources import in_transaction
from hub.scopes import Access
from hub.sheet_files import BOM, MOST_BYTES, SEPARATORS, Line, read_sheet, render
from hub.sheet_rows import CHUNK, OWNER, Importing, Owners, SheetReport, SheetRow, owners_of, refuse_doubles, report_of
from hub.state import Hub, HubRequest, hub_of

PATH = "/v1/sheets"
STOP, SKIP = "stop", "skip"
CSV = "text/csv; charset=utf-8"
TOLD = 1000
"""Cells that the answer to a refused import names."""

_GATEWAYS = 20
"""Gateways whose plans are made together, so that memory does not grow with the estate."""

_TAKEN = {"", "text/csv", "text/plain", "text/tab-separated-values", "application/csv", "application/octet-stream"}
_FORM = "application/x-www-form-urlencoded"


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A sheet: its columns beside the organization's, and how its rows are read, written and exported."""

    name: str
    noun: str
    columns: tuple[str, ...]
    needed: tuple[str, ...]
    read_row: Callable[[Line], SheetRow]
    write_rows: Callable[[Importing, Sequence[SheetRow]], Awaitable[None]]
    export_rows: Callable[[AsyncSession, Owners, Access], AsyncIterator[list[list[str]]]]
    check_columns: Callable[[Collection[str]], None]


KINDS = tuple(
    Kind(
        module.NAME,
        noun,
        module.COLUMNS,
        module.NEEDED,
        module.read_row,
        module.write_rows,
        module.export_rows,
        module.check_columns,
    )
    for module, noun in (
        (sheet_meters, "meter devices"),
        (sheet_assignments, "assignments of meters to task groups, tasks and receivers"),
        (sheet_keys, "security keys of meters"),
    )
)


class _PutBackError(Exception):
    """What was written is rolled back; ``rows`` say what would have become of them."""


async def _owners(request: HubRequest, query: dict[str, str]) -> Owners:
    async with reading(hub_of(request).engine) as session:
        return await owners_of(session, access_of(request), query.get(OWNER))


async def export_sheet(request: HubRequest, kind: Kind) -> Stream:
    """Answer a sheet as CSV, a chunk at a time.

    Raises:
        Wrong: when the query asks for what there is not.
    """
    query = query_of(request, (OWNER, "separator", "bom"))
    word = query.get("separator", "comma")
    if word not in SEPARATORS:
        raise wrong("separator", f"{word!r} is none of {', '.join(SEPARATORS)}")
    marked = _flag(query, "bom")
    owners = await _owners(request, query)
    header = [*([OWNER] if owners.told else []), *kind.columns]

    async def rendered() -> AsyncIterator[bytes]:
        yield (BOM if marked else b"") + render([header], SEPARATORS[word])
        async with reading(hub_of(request).engine) as session:
            async for rows in kind.export_rows(session, owners, access_of(request)):
                yield render(rows, SEPARATORS[word])

    disposition = {"Content-Disposition": f'attachment; filename="{kind.name}.csv"'}
    return Stream(rendered(), media_type=CSV, headers=disposition)


async def import_sheet(request: HubRequest, kind: Kind) -> SheetReport:
    """Import a sheet, or tell what that would do.

    Raises:
        TooLarge: when the file is larger than what is taken.
        Unreadable: when it is not CSV in UTF-8.
        Wrong: when rows are refused and nothing was imported, naming line and column (``12.timezone``).
        Conflict: when a gateway's plan would be too large, naming it; nothing was imported.
    """
    query = query_of(request, ("dry_run", "on_error", OWNER))
    dry_run, on_error = _flag(query, "dry_run"), query.get("on_error", STOP)
    if on_error not in {STOP, SKIP}:
        raise wrong("on_error", f"{on_error!r} is neither {STOP} nor {SKIP}")
    _check_type(request.headers.get("content-type", ""))
    owners = await _owners(request, query)
    rows = await read_rows(await request.body(), kind, owners)
    hub = hub_of(request)

    async def work(session: AsyncSession) -> None:
        await write(session, hub, kind, owners, rows)
        if dry_run or (on_error == STOP and any(row.refused for row in rows)):
            raise _PutBackError

    imported = True
    try:
        await in_transaction(request, work, METERS)
        await adoption.sweep(hub.engine, hub.clock.now())
    except _PutBackError:
        imported = False
    if not imported and not dry_run:
        raise _refused(rows)
    return report_of(kind.name, rows, dry_run=dry_run, imported=imported)


async def read_rows(data: bytes, kind: Kind, owners: Owners) -> list[SheetRow]:
    """Read a file into rows; what is wrong with a row by itself is noted in it.

    Raises:
        ProblemError: when it cannot be read, or not all of it.
    """
    known = (OWNER, *kind.columns)
    sheet = read_sheet(data, known, ((OWNER,) if owners.told else ()) + kind.needed)
    kind.check_columns(sheet.columns)
    rows: list[SheetRow] = []
    for line in sheet.lines:
        rows.append(kind.read_row(line))
        if not len(rows) % CHUNK:
            await asyncio.sleep(0)
    refuse_doubles(rows)
    return rows


async def write(session: AsyncSession, hub: Hub, kind: Kind, owners: Owners, rows: Sequence[SheetRow]) -> None:
    """Judge and write all rows in the caller's transaction, then make the plans that they change."""
    for row in rows:
        row.begin()
    importing = Importing(session, hub, owners, hub.clock.now())
    await kind.write_rows(importing, rows)
    # In the order of ids, as everybody else locks gateways.
    ordered = (await session.scalars(select(Gateway.id).order_by(Gateway.gateway_id))).all()
    concerned = [gateway for gateway in ordered if gateway in importing.gateways]
    for start in range(0, len(concerned), _GATEWAYS):
        await plans.raise_changed(session, concerned[start : start + _GATEWAYS], importing.now)


def _refused(rows: Sequence[SheetRow]) -> Wrong:
    refused = [row for row in rows if row.refused]
    errors = [
        WrongField(f"{row.line}.{problem.column}" if problem.column else str(row.line), problem.text)
        for row in refused
        for problem in row.problems
    ]
    error = Wrong(*errors[:TOLD])
    first = f"line {errors[0].field.replace('.', ', ', 1)}: {errors[0].text}"
    error.detail = f"nothing was imported: {len(refused)} of {len(rows)} rows are refused; {first}"
    return error


def _flag(query: dict[str, str], name: str) -> bool:
    if query.get(name, "false") not in {"true", "false"}:
        raise wrong(name, f"{query[name]!r} is neither true nor false")
    return query.get(name) == "true"


def _check_type(header: str) -> None:
    """Take what people send a file as; refuse what has something else around it.

    Raises:
        Unreadable: saying how to send it.
    """
    kind, _, parameters = header.lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').partition(";")[0]
    if kind.strip() not in {*_TAKEN, _FORM} or charset not in {"", "utf-8", "utf8", "us-ascii"}:
        raise Unreadable(
            f"the body is {header[:100]}; send the file itself as text/csv in UTF-8, such as "
            "curl --data-binary @FILE -H 'Content-Type: text/csv'"
        )


@dataclasses.dataclass
class _Csv(Operation):
    """The description of an operation whose body is a file."""

    def __post_init__(self) -> None:
        """Say what is sent, which no parameter of the handler does."""
        text = Schema(type=OpenAPIType.STRING)
        self.request_body = RequestBody(content={"text/csv": OpenAPIMediaType(schema=text)}, required=True)


def _routes(kind: Kind) -> list[Any]:
    @get(
        f"/{kind.name}",
        summary=f"Export as CSV: {kind.noun}",
        description=f"Query: {OWNER} (name or id), separator ({', '.join(SEPARATORS)}), bom.",
        media_type="text/csv",
        responses={HTTP_200_OK: ResponseSpec(str, media_type="text/csv", description="The sheet")},
    )
    async def export_one(request: HubRequest) -> Stream:
        return await export_sheet(request, kind)

    @post(
        f"/{kind.name}",
        summary=f"Import from CSV: {kind.noun}",
        description=f"Query: dry_run, on_error ({STOP}, {SKIP}), {OWNER} (name or id).",
        status_code=HTTP_200_OK,
        operation_class=_Csv,
        request_max_body_size=MOST_BYTES,
    )
    async def import_one(request: HubRequest) -> SheetReport:
        return await import_sheet(request, kind)

    return [export_one, import_one]


router = Router(PATH, route_handlers=[route for kind in KINDS for route in _routes(kind)], tags=["sheets"])
