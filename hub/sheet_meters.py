"""The sheet of meters: one row for each meter device, found by its name within its organization.

Rules. What a row may say is what the body of a meter device may say (``hub.meter_devices``), judged by the same
functions; other things are named, not numbered: the type by its name, the line by its gateway's id and a word
(``hub.sheet_lines``). A row is a meter's by its name, so a sheet makes and changes meters, and neither renames nor
deletes any. A column that the file does not have stays as it is.
"""

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, expectations, plans
from hub.among import among
from hub.bodies import given
from hub.meter_devices import RESOURCE, MeterDeviceBody, judge, note_changed, note_edits
from hub.models import MeterDevice, MeterDeviceConfig, MeterDeviceType, Organization
from hub.problems import Wrong, WrongField, wrong
from hub.resources import Values, flush, writing_rows
from hub.scopes import Access
from hub.sheet_cells import cell_of, columns_of, read_cells
from hub.sheet_files import Line
from hub.sheet_lines import Lines
from hub.sheet_names import Guesses
from hub.sheet_rows import (
    CHANGED,
    CHUNK,
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

NAME = "meters"
_REFERENCES = ("type", "network_interface")
_LINKS = tuple(link.field for link in RESOURCE.links)
_FIELDS = tuple(name for name in MeterDeviceBody.__struct_fields__ if name not in {OWNER, *_REFERENCES, *_LINKS})
_COLUMNS = (OWNER, *_REFERENCES, *_FIELDS)
_ALL = {field.name: field for field in msgspec.structs.fields(MeterDeviceBody)}
_REQUIRED = tuple(name for name, field in _ALL.items() if field.required)
_DEFAULTS = {name: _ALL[name].default for name in _COLUMNS if not _ALL[name].required}
_BODY = columns_of(MeterDeviceBody, _FIELDS)
_NAMED = ("type", "config", "gateway", "line")
"""Columns that name other things; ``config`` is the type's, and only looked at."""

_BEGINNING = 2
"""Letters of a name that are taken for right when the nearest one is looked for."""

COLUMNS = (*_FIELDS[:3], *_NAMED, *_FIELDS[3:])
NEEDED = ("name",)


class _Said(NamedTuple):
    """What a row says: the fields of its body, and the names of other things by column."""

    body: Any
    named: dict[str, str]


def read_row(line: Line) -> SheetRow:
    """Read a line of the file."""
    if line.problem:
        return broken_row(line)
    cells = line.cells
    owner, name = cells.get(OWNER, ""), cells["name"]
    body, errors = read_cells(MeterDeviceBody, _BODY, cells)
    named = {column: cells[column] for column in _NAMED if column in cells}
    return SheetRow(line.number, (owner, name), owner, name, name, _Said(body, named), errors)


def check_columns(columns: Collection[str]) -> None:
    """Accept the columns of a file.

    Raises:
        Wrong: when the gateway stands in it without the line.
    """
    if "gateway" in columns and "line" not in columns:
        raise wrong("line", "this column is required beside gateway")


class _Kinds:
    """Types of meters and the names of their configs, of one organization or of all."""

    def __init__(self) -> None:
        self.ids: dict[uuid.UUID | None, dict[str, uuid.UUID]] = {}
        self.told: dict[uuid.UUID | None, tuple[str, str]] = {None: ("", "")}

    @classmethod
    async def read(cls, session: AsyncSession, organization: uuid.UUID | None) -> "_Kinds":
        own = [] if organization is None else [MeterDeviceType.organization == organization]
        statement = select(
            MeterDeviceType.id, MeterDeviceType.organization, MeterDeviceType.name, MeterDeviceConfig.name
        ).outerjoin(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
        kinds = cls()
        for key, owner, name, config in await session.execute(statement.where(*own)):
            kinds.ids.setdefault(owner, {})[name] = key
            kinds.told[key] = name, config or ""
        return kinds

    def find(self, organization: uuid.UUID | None, cell: str, guesses: Guesses) -> uuid.UUID | None:
        if not cell:
            return None
        known = self.ids.get(organization, {})
        if cell not in known:
            near = guesses.nearest(cell, known)
            raise wrong("type", f"there is no type {cell!r} in the organization of this row{near}")
        return known[cell]


async def write_rows(importing: Importing, rows: Sequence[SheetRow]) -> None:
    """Judge and write the rows, in the caller's transaction; each ends with an outcome."""
    only = importing.owners.only
    kinds = await _Kinds.read(importing.session, only)
    lines = await Lines.read(importing.session, only)
    async for some in chunks_of(rows):
        await _write_some(importing, some, kinds, lines)


async def _write_some(importing: Importing, rows: Sequence[SheetRow], kinds: _Kinds, lines: Lines) -> None:
    session, now = importing.session, importing.now
    there = await find_meters(session, importing.owners, rows)
    made: list[Values] = []
    edits: list[tuple[SheetRow, MeterDevice, Values]] = []
    becoming: list[tuple[MeterDevice, Values]] = []
    noted: list[audit.Noted] = []
    for row in rows:
        if importing.owners.refuse(row, importing.guesses) or row.refused:
            continue
        meter = there.get((importing.owners.id_of(row), row.meter))
        try:
            values = _values_of(importing, row, meter, kinds, lines)
            changed = {} if meter is None else _differing(values, meter)
            if meter is None or changed:
                judge(values)
        except Wrong as error:
            row.refuse(*_of_columns(error.errors))
            continue
        if meter is None:
            row.outcome = CREATED
            key = uuid.uuid4()
            columns = {name: value for name, value in values.items() if name not in _LINKS}
            made.append({"id": key, **columns, "created_at": now, "updated_at": now})
            noted.append(_note(audit.CREATE, key, values[OWNER], None, {"id": key, **values}))
        elif changed:
            row.outcome = CHANGED
            edits.append((row, meter, changed))
            becoming.append((meter, values))
        else:
            row.outcome = UNCHANGED
    await note_edits(session, becoming, now)
    edited = [meter.id for _, meter, _ in edits]
    importing.gateways |= await plans.gateways_of_device(session, *edited)
    for row, meter, changed in edits:
        row.changes = _changes(meter, changed, kinds, lines)
        before = {name: getattr(meter, name) for name in changed}
        noted.append(_note(audit.CHANGE, meter.id, meter.organization, before, changed))
        for name, value in changed.items():
            setattr(meter, name, value)
        meter.updated_at = now
    touched = [*edited, *(one["id"] for one in made)]
    if touched:
        await flush(session, RESOURCE)
        await _make(session, made)
        await note_changed(session, touched, now)
        await expectations.mark_devices(session, touched)
        importing.gateways |= await plans.gateways_of_device(session, *touched)
        await audit.note_many(session, RESOURCE.noun, noted)


async def _make(session: AsyncSession, rows: Sequence[Values]) -> None:
    """Make meters as plain rows: an object of the mapper for each takes four times as long."""
    if rows:
        with writing_rows(RESOURCE):
            await session.execute(insert(MeterDevice), rows)


def _note(
    action: str, meter: uuid.UUID, organization: uuid.UUID | None, before: Values | None, after: Values
) -> audit.Noted:
    return audit.Noted(action=action, object_id=meter, organization=organization, before=before, after=after)


async def find_meters(
    session: AsyncSession, owners: Owners, rows: Sequence[SheetRow]
) -> dict[tuple[uuid.UUID | None, str], MeterDevice]:
    """Return the meters that the rows name, by organization and name."""
    whose = {owners.id_of(row) for row in rows}
    own = or_(
        *(MeterDevice.organization == one for one in whose if one is not None),
        *([MeterDevice.organization.is_(None)] if None in whose else []),
    )
    names = {row.meter for row in rows if "\0" not in row.meter}
    found = await session.scalars(select(MeterDevice).where(own, among(session, MeterDevice.name, names)))
    return {(meter.organization, meter.name): meter for meter in found}


async def refuse_stranger(importing: Importing, row: SheetRow) -> None:
    """Refuse a row of a meter that there is not."""
    known: Sequence[str] = []
    if importing.guesses.left and "\0" not in row.meter:
        owner = MeterDevice.organization.is_not_distinct_from(importing.owners.id_of(row))
        like = func.lower(MeterDevice.name).startswith(row.meter[:_BEGINNING].lower(), autoescape=True)
        found = await importing.session.scalars(select(MeterDevice.name).where(owner, like).limit(CHUNK))
        known = found.all()
    near = importing.guesses.nearest(row.meter, known)
    row.refuse(WrongField("meter", f"there is no meter {row.meter!r} in the organization of this row{near}"))


def _values_of(importing: Importing, row: SheetRow, meter: MeterDevice | None, kinds: _Kinds, lines: Lines) -> Values:
    """Return all values of the meter as it would be.

    Raises:
        Wrong: when the row names what there is not, or a new meter lacks something.
    """
    said: _Said = row.said
    owner, guesses = importing.owners.id_of(row), importing.guesses
    values, errors = given(said.body), []
    try:
        if "type" in said.named:
            values["type"] = kinds.find(owner, said.named["type"], guesses)
        _check_config(said.named, values.get("type", meter.type if meter is not None else None), kinds)
    except Wrong as error:
        errors += error.errors
    try:
        if "line" in said.named:
            gateway = said.named.get("gateway")
            values["network_interface"] = lines.find(owner, gateway, said.named["line"], guesses)
    except Wrong as error:
        errors += error.errors
    if meter is None:
        errors += [
            WrongField(name, "this column is required for a new meter") for name in _REQUIRED if name not in values
        ]
    if errors:
        raise Wrong(*errors)
    if meter is None:
        return {**_DEFAULTS, **{link: [] for link in _LINKS}, **values, OWNER: owner}
    # Plain values: with ten thousand meters what the mapper does for each is most of the time.
    there = vars(meter)
    for name, value in values.items():
        # A text that is empty and none are the same here.
        if not value and there[name] == "":
            values[name] = ""
    return {**{name: there[name] for name in _COLUMNS}, **values}


def _check_config(named: dict[str, str], kind: uuid.UUID | None, kinds: _Kinds) -> None:
    """Refuse another config than the type's: a sheet of meters changes no type.

    Raises:
        Wrong: saying which it is.
    """
    cell = named.get("config", "")
    name, config = kinds.told[kind]
    if cell and cell != config:
        what = f"the type {name!r} has the config {config!r}" if config else f"the type {name!r} has no config"
        raise wrong("config", f"{what if name else 'a meter without a type has none'}; it is changed at the type")


def _differing(values: Values, meter: MeterDevice) -> Values:
    there = vars(meter)
    return {name: value for name, value in values.items() if name not in _LINKS and value != there[name]}


def _of_columns(errors: Sequence[WrongField]) -> list[WrongField]:
    """Return errors of a body's fields as errors of columns."""
    return [WrongField("line", one.text) if one.field == "network_interface" else one for one in errors]


def _changes(meter: MeterDevice, changed: Values, kinds: _Kinds, lines: Lines) -> list[CellChange]:
    """Say by column what a meter has and would have."""
    told = []
    for name, value in changed.items():
        before = getattr(meter, name)
        if name == "network_interface":
            pairs = zip(("gateway", "line"), lines.told(before), lines.told(value), strict=True)
            told += [CellChange(column, was, becomes) for column, was, becomes in pairs if was != becomes]
        elif name == "type":
            told.append(CellChange(name, kinds.told[before][0], kinds.told[value][0]))
        else:
            told.append(CellChange(name, cell_of(before), cell_of(value)))
    return told


async def export_rows(session: AsyncSession, owners: Owners, access: Access) -> AsyncIterator[list[list[str]]]:
    """Yield the rows of all meters, in the order of their names, a chunk at a time."""
    kinds = await _Kinds.read(session, owners.only)
    lines = await Lines.read(session, owners.only)
    owner = owners.cells()
    async for meters in meters_of(session, owners, access):
        yield [[*owner[meter.organization], *_cells(meter, kinds, lines)] for meter in meters]


def _cells(meter: MeterDevice, kinds: _Kinds, lines: Lines) -> list[str]:
    cells = {name: cell_of(getattr(meter, name)) for name in _FIELDS}
    cells["type"], cells["config"] = kinds.told[meter.type]
    cells["gateway"], cells["line"] = lines.told(meter.network_interface)
    return [cells[name] for name in COLUMNS]


async def meters_of(session: AsyncSession, owners: Owners, access: Access) -> AsyncIterator[Sequence[MeterDevice]]:
    """Yield all meters, in the order of organizations' names and their own, a chunk at a time."""
    known = owners.cells()
    own = RESOURCE.only(access)
    if owners.only is not None:
        own = [MeterDevice.organization == owners.only]
    ids = await session.scalars(
        select(MeterDevice.id)
        .outerjoin(Organization, Organization.id == MeterDevice.organization)
        .where(*own)
        .order_by(Organization.name, MeterDevice.name, MeterDevice.id)
    )
    async for some in chunks_of(ids.all()):
        found = await session.scalars(select(MeterDevice).where(among(session, MeterDevice.id, some)))
        # An organization that is made meanwhile is not in this export.
        by_id = {meter.id: meter for meter in found if meter.organization in known}
        yield [by_id[key] for key in some if key in by_id]
        session.expunge_all()
