"""CSV as people's programs write it is read, what is wrong is said with its line, formulas run in no spreadsheet."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.problems import ProblemError, TooLarge, Unreadable, Wrong
from hub.sheet_files import LONGEST_ROW, MOST_BYTES, guard, read_sheet, render, unguard
from hub.sheet_names import Guesses, nearest

KNOWN = ("name", "serial", "line")


def read(data: bytes) -> list[tuple[int, dict[str, str], str]]:
    """Return the lines of a file."""
    return [(line.number, line.cells, line.problem) for line in read_sheet(data, KNOWN, ("name",)).lines]


@pytest.mark.parametrize(
    "data",
    [
        b"name,serial\nM1,007\n",
        b"name;serial\r\nM1;007\r\n",
        b"name\tserial\nM1\t007",
        b"\xef\xbb\xbfname;serial\r\nM1;007\r\n",
        b"sep=;\r\nname;serial\r\nM1;007\r\n",
        b'"Name";"SERIAL ";;\n"M1";"007";;\n;;;\n\n',
        b"serial,name\n007,M1\n",
    ],
    ids=["commas", "semicolons", "tabs", "byte order mark", "hint", "as Excel quotes and pads", "any order"],
)
def test_files_of_all_kinds_say_the_same(data: bytes) -> None:
    ((_, cells, problem),) = read(data)
    assert (cells, problem) == ({"name": "M1", "serial": "007"}, "")


def test_lines_are_those_of_the_file() -> None:
    found = read(b'name,serial\n"M\n1","a,""b"""\nM2,2\nM3\nM4,1,5\n' + b"x" * (LONGEST_ROW + 1) + b",1\nM5,\n")
    assert [line for line, _, _ in found] == [2, 4, 5, 6, 7, 8]
    assert found[0][1] == {"name": "M\n1", "serial": 'a,"b"'}
    assert "the row has 1 cells, the header 2" in found[2][2]
    assert "decimal comma" in found[3][2]
    assert f"more than {LONGEST_ROW} characters" in found[4][2]
    assert found[5][1] == {"name": "M5", "serial": ""}


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", Unreadable, "no line with the names of columns"),
        (b"name\nM\xfcller\n", Unreadable, "the byte 0xfc in line 2"),
        ("name\nM1\n".encode("utf-16"), Unreadable, "UTF-16"),
        (b'name,serial\n"M1,1\n', Unreadable, "line 2 cannot be read as CSV"),
        (b"name,serail\nM1,1\n", Wrong, "serail: there is no such column; did you mean 'serial'?"),
        (b"name,name\nM1,M2\n", Wrong, "name: this column stands in it more than once"),
        (b"serial\n1\n", Wrong, "name: this column is required"),
        (b"x" * (MOST_BYTES + 1), TooLarge, "cut it into several"),
        (b"name\n" + b"M\n" * 100_001, TooLarge, "more than 100000 rows"),
        (b"name" + b",a" * 64, Wrong, "at most 64"),
    ],
    ids=[
        "nothing",
        "not UTF-8",
        "UTF-16",
        "an open quote",
        "unknown",
        "twice",
        "missing",
        "bytes",
        "rows",
        "columns",
    ],
)
def test_a_file_that_cannot_be_read_says_why(data: bytes, kind: type[ProblemError], text: str) -> None:
    with pytest.raises(kind) as raised:
        read(data)
    assert text in raised.value.detail


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2), st.sampled_from(",;\t"))
def test_every_cell_comes_back_and_none_is_a_formula(cells: list[str], separator: str) -> None:
    assert [unguard(guard(cell)) for cell in cells] == cells
    data = render([("name", "serial"), cells], separator)
    (_, raw) = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=separator)
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in raw)
    found = read(data)
    assert [list(line[1].values()) for line in found] == ([cells] if any(cells) else [])


def test_the_nearest_name_is_said_for_the_first_few() -> None:
    assert nearest("ek-280", ["DL220", "EK280", "DL240"]) == "; did you mean 'EK280'?"
    assert nearest(" heating  Plant", ["Heating plant"]) == "; did you mean 'Heating plant'?"
    assert nearest("x", ["EK280"]) == ""
    guesses = Guesses()
    said = [guesses.nearest(f"EK28{number}", ["EK280"]) for number in range(40)]
    assert (said[0], said[29] != "", said[30]) == ("; did you mean 'EK280'?", True, "")
