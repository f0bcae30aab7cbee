"""Sheets as files: CSV as people's programs write it becomes numbered lines of cells, and cells become CSV.

Read: UTF-8 with or without a byte order mark; comma, semicolon or tab (told by the header, whichever finds the most
columns; a first line ``sep=;`` of Excel's is taken at its word); any line ends; quoted cells with line ends in them.
Everything is bounded: bytes, rows, columns, the length of a row. What is wrong with one row is that row's problem;
what is wrong with the file as a whole raises.

Spreadsheets run a cell that begins with ``=``, ``+``, ``-`` or ``@`` as a formula. Such a cell is written with an
apostrophe before it, and so is one that begins with apostrophes and then one of these; one apostrophe is taken off when
it is read. So what was written comes back as it was, and who types ``=A1`` into a file means these three characters.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from hub.problems import TooLarge, Unreadable, Wrong, WrongField
from hub.sheet_names import nearest

MOST_BYTES = 20 * 1024 * 1024
MOST_ROWS = 100_000
MOST_COLUMNS = 64
LONGEST_ROW = 10_000
"""Characters of all cells of a row."""

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
"""By their words in a query."""

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()
"""By which Excel knows that a file is UTF-8."""

# Beside the four: what comes before them in a cell and is taken off by some programs, and their wide forms.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_GUARDED = re.compile("''*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_OTHER_CODES = (b"\xff\xfe", b"\xfe\xff")
_HINT = re.compile(r"\"?sep=(.)\"?\r?\n?")


class Line(NamedTuple):
    """A row of a file: the number of the line that it begins on, and its cells by column; or what is wrong with it."""

    number: int
    cells: dict[str, str]
    problem: str = ""


class Sheet(NamedTuple):
    """A file that is being read. ``lines`` can be gone through once."""

    columns: list[str]
    lines: Iterator[Line]


def guard(cell: str) -> str:
    """Return the cell as it is written: no program takes it for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguard(cell: str) -> str:
    """Return the cell that was written so."""
    return cell[1:] if _GUARDED.match(cell) else cell


def render(rows: Iterable[Sequence[str]], separator: str) -> bytes:
    """Render rows of cells, each ended by CR LF (RFC 4180)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator="\r\n")
    writer.writerows([guard(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def read_sheet(data: bytes, known: Collection[str], needed: Collection[str]) -> Sheet:
    """Begin to read a file whose columns are among the ``known``, and have those that are ``needed``.

    Going through its lines raises too, where the file cannot be read on.

    Raises:
        TooLarge: when it has more than ``MOST_BYTES``.
        Unreadable: when it is not UTF-8, or not CSV; with the line.
        Wrong: naming columns that there are not, or that are missing.
    """
    if len(data) > MOST_BYTES:
        raise TooLarge(f"the file has more than {MOST_BYTES} bytes: cut it into several")
    _check_code(data)
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    first = text.readline(LONGEST_ROW)
    skipped = 0
    hint = _HINT.fullmatch(first)
    if hint:
        skipped, first = 1, text.readline(LONGEST_ROW)
    separator = hint[1] if hint and hint[1] in SEPARATORS.values() else _separator_of(first, known)
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    for _ in range(skipped):
        text.readline()
    rows = _numbered(csv.reader(text, delimiter=separator, strict=True), skipped)
    header = next(((number, cells) for number, cells in rows if any(cells)), None)
    if header is None:
        raise Unreadable(f"the file has no line with the names of columns, such as {', '.join(needed)}")
    columns = _columns(header[1], known, needed)
    return Sheet(columns, _lines(rows, columns))


def _check_code(data: bytes) -> None:
    if data[:2] in _OTHER_CODES:
        raise Unreadable("the file is UTF-16; save it as CSV UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            f"the file is not UTF-8: the byte {data[error.start]:#04x} in line {line} is not; "
            "in Excel choose 'CSV UTF-8' when saving"
        ) from None


def _separator_of(header: str, known: Collection[str]) -> str:
    """Return the separator with which the header has most of the columns that there are."""

    def found(separator: str) -> int:
        try:
            cells = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:
            return 0
        return sum(_word(cell) in known for cell in cells)

    return max(SEPARATORS.values(), key=found)


def _numbered(reader: Iterator[list[str]], skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield rows with the number of the line that each begins on."""
    before = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise Unreadable(f"line {before + skipped + 1} cannot be read as CSV: {error}") from None
        if cells is None:
            return
        yield before + skipped + 1, cells
        before = reader.line_num  # type: ignore[attr-defined]  # of csv's own reader


def _word(cell: str) -> str:
    return unguard(cell.strip()).strip().lower()


def _columns(header: Sequence[str], known: Collection[str], needed: Collection[str]) -> list[str]:
    columns = [_word(cell) for cell in header]
    while columns and not columns[-1]:
        columns.pop()
    if len(columns) > MOST_COLUMNS:
        raise Wrong(WrongField("columns", f"there are {len(columns)} columns; at most {MOST_COLUMNS} are taken"))
    errors = [
        WrongField(name[:100] or "columns", f"there is no such column{nearest(name, known)}")
        for name in columns
        if name not in known
    ]
    errors += [
        WrongField(name, "this column stands in it more than once")
        for name in dict.fromkeys(columns)
        if name in known and columns.count(name) > 1
    ]
    errors += [WrongField(name, "this column is required") for name in needed if name not in columns]
    if errors:
        raise Wrong(*errors)
    return columns


def _lines(rows: Iterable[tuple[int, list[str]]], columns: Sequence[str]) -> Iterator[Line]:
    width, count = len(columns), 0
    for number, cells in rows:
        if not any(cells):
            continue
        count += 1
        if count > MOST_ROWS:
            raise TooLarge(f"the file has more than {MOST_ROWS} rows: cut it into several")
        if sum(map(len, cells)) > LONGEST_ROW:
            yield Line(number, {}, f"the row has more than {LONGEST_ROW} characters")
        elif len(cells) < width or any(cells[width:]):
            yield Line(
                number,
                {},
                f"the row has {len(cells)} cells, the header {width}: is there a separator or a decimal comma in a "
                "cell without quotes?",
            )
        else:
            yield Line(number, {name: unguard(cell) for name, cell in zip(columns, cells, strict=False)})
