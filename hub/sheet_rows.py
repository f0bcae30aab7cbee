"""Rows of a sheet on their way in: what each says, what became of it, and the answer that tells it line by line.

Rules. A row ends with one outcome of ``OUTCOMES``. A row that is refused changes nothing and says why, by column. The
answer never has a value of a secret.
"""

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Organization
from hub.problems import WrongField, wrong
from hub.scopes import Access
from hub.sheet_files import Line
from hub.sheet_names import Guesses
from hub.state import Hub

CREATED, CHANGED, REMOVED, UNCHANGED, REFUSED = "created", "changed", "removed", "unchanged", "refused"
OUTCOMES = (CREATED, CHANGED, REMOVED, UNCHANGED, REFUSED)
OWNER = "organization"
CHUNK = 500
"""Rows that are looked up and written together; between two chunks others get the processor."""

T = TypeVar("T")


class CellChange(msgspec.Struct, gc=False):
    """A cell that differs from what is there."""

    column: str
    before: str
    after: str


class CellProblem(msgspec.Struct, gc=False):
    """Why a row is refused; ``column`` is empty when it is the row as a whole."""

    column: str
    text: str


class RowResult(msgspec.Struct):
    """What became of the row that begins on ``line`` of the file; ``row`` names what it is about."""

    line: int
    row: str
    outcome: str
    changes: list[CellChange]
    problems: list[CellProblem]


class SheetReport(msgspec.Struct, kw_only=True):
    """What an import did, or with ``dry_run`` would do. ``imported`` says whether anything was written."""

    sheet: str
    dry_run: bool
    imported: bool
    rows: int
    created: int
    changed: int
    removed: int
    unchanged: int
    refused: int
    results: list[RowResult]


@dataclasses.dataclass(slots=True)
class SheetRow:
    """A row: ``key`` is what no two rows share, ``owner`` and ``meter`` are the cells that name these.

    ``label`` names what the row is about, for people; ``said`` is the sheet's own.
    """

    line: int
    key: Hashable
    owner: str
    meter: str
    label: str
    said: Any
    unreadable: Sequence[WrongField] = ()
    outcome: str = ""
    changes: list[CellChange] = dataclasses.field(default_factory=list)
    problems: list[CellProblem] = dataclasses.field(default_factory=list)

    def begin(self) -> None:
        """Forget what another try found."""
        self.outcome, self.changes, self.problems = "", [], []
        if self.unreadable:
            self.refuse(*self.unreadable)

    def refuse(self, *errors: WrongField) -> None:
        """Refuse the row for these reasons."""
        self.outcome, self.changes = REFUSED, []
        self.problems += [CellProblem(error.field, error.text) for error in errors]

    @property
    def refused(self) -> bool:
        """Whether the row is refused."""
        return self.outcome == REFUSED

    def result(self) -> RowResult:
        """Return what became of it."""
        return RowResult(self.line, self.label, self.outcome, self.changes, self.problems)


def broken_row(line: Line) -> SheetRow:
    """Return the row of a line that cannot be taken for one."""
    return SheetRow(line.number, ("line", line.number), "", "", "", None, [WrongField("", line.problem)])


def refuse_doubles(rows: Iterable[SheetRow]) -> None:
    """Have rows that are about the same refused, each naming the line of another one."""
    seen: dict[Hashable, SheetRow] = {}
    for row in rows:
        first = seen.setdefault(row.key, row)
        if first is not row:
            row.unreadable = (*row.unreadable, _double(first))
            if not any(one.text.startswith(_TWICE) for one in first.unreadable):
                first.unreadable = (*first.unreadable, _double(row))


_TWICE = "the same stands in line "


def _double(other: SheetRow) -> WrongField:
    return WrongField("", f"{_TWICE}{other.line}")


@dataclasses.dataclass(frozen=True, slots=True)
class Owners:
    """Whose the rows of a sheet are. ``only`` is the one organization that it is for, None when rows say it.

    ``names`` are all that rows may say, with their ids.
    """

    only: uuid.UUID | None
    names: dict[str, uuid.UUID]

    @property
    def told(self) -> bool:
        """Whether the rows have a column that says it."""
        return self.only is None

    def refuse(self, row: SheetRow, guesses: Guesses) -> bool:
        """Refuse a row of an organization that there is not; return whether that was so."""
        if not row.owner or row.owner in self.names:
            return False
        row.refuse(WrongField(OWNER, f"there is no organization {row.owner!r}{guesses.nearest(row.owner, self.names)}"))
        return True

    def id_of(self, row: SheetRow) -> uuid.UUID | None:
        """Return the organization of a row that was not refused; None for none."""
        return self.names.get(row.owner, self.only)

    def cells(self) -> dict[uuid.UUID | None, list[str]]:
        """Return by organization the cells that rows of an export begin with: its name, or nothing."""
        none: dict[uuid.UUID | None, list[str]] = {None: [""] if self.told else []}
        return none | {one: [name] if self.told else [] for name, one in self.names.items()}


async def owners_of(session: AsyncSession, access: Access, asked: str | None) -> Owners:
    """Return whose rows there may be for who asks; ``asked`` is the name or id of one organization.

    Raises:
        Wrong: when there is no such organization for who asks.
    """
    statement = select(Organization.name, Organization.id).order_by(Organization.name)
    if access.organization is not None:
        statement = statement.where(Organization.id == access.organization)
    names = {name: one for name, one in await session.execute(statement)}  # noqa: C416 - rows, not pairs
    if asked is not None:
        names = {name: one for name, one in names.items() if asked in {name, str(one)}}
        if not names:
            raise wrong(OWNER, f"there is no organization {asked!r}")
        return Owners(next(iter(names.values())), names)
    return Owners(access.organization, names)


@dataclasses.dataclass(slots=True)
class Importing:
    """One import in its transaction. ``gateways`` collects those whose plans may have changed.

    ``now`` is its one instant.
    """

    session: AsyncSession
    hub: Hub
    owners: Owners
    now: dt.datetime
    guesses: Guesses = dataclasses.field(default_factory=Guesses)
    gateways: set[uuid.UUID] = dataclasses.field(default_factory=set)


async def chunks_of(rows: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield the rows in chunks, and let others work between them."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
        await asyncio.sleep(0)


def report_of(sheet: str, rows: Sequence[SheetRow], *, dry_run: bool, imported: bool) -> SheetReport:
    """Return the answer for rows that have all ended."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for row in rows:
        counts[row.outcome] += 1
    return SheetReport(
        sheet=sheet,
        dry_run=dry_run,
        imported=imported,
        rows=len(rows),
        results=[row.result() for row in rows],
        **counts,
    )
