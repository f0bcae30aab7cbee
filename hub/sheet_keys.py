"""The sheet of keys: one row for each meter, with the password and keys that it is to have from now on.

Rules. Keys go in and never come out. An export has a row for each meter; ``stored`` names the keys that there are, and
is only looked at; their own cells are empty. An empty cell leaves its key as it is, so an export that is imported
again changes nothing, and one cell that is filled in gives one key. A key that is given counts as changed: what is
sealed cannot be compared. Values are judged as REST judges them and stand in no answer, note or log.
"""

from collections.abc import AsyncIterator, Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, plans
from hub.among import among
from hub.bodies import given
from hub.models import MeterSecurityKeys
from hub.problems import Unavailable
from hub.resources import flush
from hub.scopes import Access
from hub.secrets_box import SealError, read_public_half, seal_fields
from hub.security_keys import RESOURCE, SECRETS, MeterSecurityKeyCollectionBody, purpose_of
from hub.sheet_cells import columns_of, read_cells
from hub.sheet_files import Line
from hub.sheet_meters import find_meters, meters_of, refuse_stranger
from hub.sheet_rows import (
    CHANGED,
    CREATED,
    OWNER,
    UNCHANGED,
    CellChange,
    Importing,
    Owners,
    SheetRow,
    broken_row,
    chunks_of,
)

NAME = "keys"
STORED = "stored"
COLUMNS = ("meter", STORED, *SECRETS)
NEEDED = ("meter",)
_BODY = columns_of(MeterSecurityKeyCollectionBody, SECRETS)


def read_row(line: Line) -> SheetRow:
    """Read a line of the file; ``said`` are the keys that are given, by name."""
    if line.problem:
        return broken_row(line)
    cells = line.cells
    # Not even an error repeats what stands in these cells: those of bodies say the field and the rule.
    body, errors = read_cells(MeterSecurityKeyCollectionBody, _BODY, cells)
    keys = {} if body is None else {name: value for name, value in given(body).items() if value is not None}
    owner, meter = cells.get(OWNER, ""), cells["meter"]
    return SheetRow(line.number, (owner, meter), owner, meter, meter, keys, errors)


def check_columns(_columns: Collection[str]) -> None:
    """Accept the columns of a file: any."""


async def write_rows(importing: Importing, rows: Sequence[SheetRow]) -> None:
    """Judge and write the rows, in the caller's transaction; each ends with an outcome.

    Raises:
        Unavailable: when there is no key yet to seal them for.
    """
    try:
        public = await read_public_half(importing.session) if any(row.said for row in rows) else b""
        async for some in chunks_of(rows):
            await _write_some(importing, some, public)
    except SealError as error:
        raise Unavailable(str(error)) from error


async def _write_some(importing: Importing, rows: Sequence[SheetRow], public: bytes) -> None:
    session, now = importing.session, importing.now
    there = await find_meters(session, importing.owners, rows)
    ids = [meter.id for meter in there.values()]
    found = await session.scalars(select(MeterSecurityKeys).where(among(session, MeterSecurityKeys.meter, ids)))
    held = {row.meter: row for row in found}
    noted: list[tuple[SheetRow, MeterSecurityKeys]] = []
    for row in rows:
        if importing.owners.refuse(row, importing.guesses) or row.refused:
            continue
        meter = there.get((importing.owners.id_of(row), row.meter))
        if meter is None:
            await refuse_stranger(importing, row)
            continue
        keys: dict[str, str] = row.said
        if not keys:
            row.outcome = UNCHANGED
            continue
        collection = held.get(meter.id)
        before = [] if collection is None else collection.stored
        row.outcome = CREATED if collection is None else CHANGED
        row.changes = [CellChange(name, "stored" if name in before else "", "given") for name in keys]
        sealed = None if collection is None else collection.sealed
        if collection is None:
            collection = MeterSecurityKeys(meter=meter.id, created_at=now, generation=0)
            session.add(collection)
        collection.sealed = seal_fields(public, sealed, before, keys, purpose_of(meter.id))
        collection.stored, collection.updated_at = sorted({*before, *keys}), now
        collection.generation += 1
        noted.append((row, collection))
    if not noted:
        return
    await flush(session, RESOURCE)
    importing.gateways |= await plans.gateways_of_device(session, *(one.meter for _, one in noted))
    await audit.note_many(
        session,
        RESOURCE.noun,
        (
            audit.Noted(
                action=audit.CREATE if row.outcome == CREATED else audit.CHANGE,
                object_id=one.id,
                organization=importing.owners.id_of(row),
                after={"meter": {"id": one.meter, "name": row.meter}, STORED: one.stored},
                secrets=row.said,
            )
            for row, one in noted
        ),
    )


async def export_rows(session: AsyncSession, owners: Owners, access: Access) -> AsyncIterator[list[list[str]]]:
    """Yield the rows of all meters, in the order of their names, a chunk at a time; no value of a key is among them."""
    owner = owners.cells()
    nothing = [""] * len(SECRETS)
    async for meters in meters_of(session, owners, access):
        ids = [meter.id for meter in meters]
        statement = select(MeterSecurityKeys.meter, MeterSecurityKeys.stored)
        found = await session.execute(statement.where(among(session, MeterSecurityKeys.meter, ids)))
        stored: dict[object, list[str]] = {meter: stored for meter, stored in found}  # noqa: C416 - rows, not pairs
        yield [
            [
                *owner[meter.organization],
                meter.name,
                " ".join(sorted(stored.get(meter.id, []))),
                *nothing,
            ]
            for meter in meters
        ]
