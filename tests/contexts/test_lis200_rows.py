"""Rows as real meters delivered them (LIS-200 fact sheet 6.1), read through layouts of the fact sheet's section 3.5."""

import datetime as dt
import re
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.lis200_columns import Columns, LayoutError, columns
from contexts.lis200_events import events
from contexts.lis200_rows import DamagedRow, Row, read_row, readings
from contexts.meters import Layout
from protocol.iec62056.lis200 import parse_datetime, parse_groups

UTC = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")


def layout(*cells: str) -> Layout:
    """A layout from cells ``source|name|unit``."""
    sources, names, units = zip(*(cell.split("|") for cell in cells), strict=True)
    return Layout(sources, names, units)


GONO, TIME, CHECK = "1:1F8|GONr|", "1:400|Zeit|", "|Check|"
EK_COUNTERS = ("2:300|Vn|m3", "2:302|VnG|m3", "4:300|Vb|m3", "4:302|VbG|m3")
EK_MEANS = ("7:310|p.MP | bar", "6:310_1|T.MP|{C", "8:310|K.MP|", "5:310|Z.MP|")
EK_STATES = ("2:110|St.2|", "4:110|St.4|", "7:110|St.7|", "6:110|St.6|", "2:100|StSy|")


def status_triple(source: str, name: str) -> tuple[str, str, str]:
    return f"{source}|{name}|m3", "|Zeit|", "|St|"


EK_MP = layout(GONO, "3:A20|AONr|", TIME, *EK_COUNTERS, *EK_MEANS, *EK_STATES, "3:A22|Er|", CHECK)
EK_DAY = layout(GONO, "7:A20|AONr|", TIME, *EK_COUNTERS, *EK_MEANS, *EK_STATES, "7:A22|Er|", CHECK)
EK_LOG = layout(GONO, "4:A20|AONr|", TIME, "4:A22|Er|", CHECK)
TC_HOUR = layout(
    "3:A20|AONo|", "1:400|Time|", "2:300|Vb|m3", "2:302|VbT|m3", "4:300|V|m3", "4:302|VT|m3", "6:310_1|T|{C",
    "7:310|p|kPa", "5:310|C|", "2:110|St.2|", "6:110|St.6|", "2:100|StSy|", "3:A22|Ev|", CHECK,
)  # fmt: skip
DL_MP = layout(GONO, "2:A20|AONr|", TIME, "1:200|V1.G|m3", "1:203|V1.P|m3", "1:110|St.1|", "2:100|StSy|", "|Er|", CHECK)
DL_LOG = layout(GONO, "10:A20|AONr|", TIME, "10:A22|Er|", CHECK)
DL_MONTH = layout(
    GONO, "1:A20|AONr|", TIME, "1:200|V1|m3", "1:203|V1.P|m3", *status_triple("1:161", "MPmax"),
    *status_triple("5:161", "Dmax"), "1:110|St.1|", "2:100|StSy|", CHECK,
)  # fmt: skip
EK_MONTH = layout(
    GONO, "1:A20|AONr|", TIME, "2:300|Vn|m3", "2:302|VnG|m3", *status_triple("10:161", "VnMPmax"),
    *status_triple("11:161", "VnDaymax"), "4:300|Vb|m3", "4:302|VbG|m3", *status_triple("3:161", "VbMPmax"),
    *status_triple("4:161", "VbDaymax"), "2:110|St.2|", "4:110|St.4|", CHECK,
)  # fmt: skip
EK260_V1_MONTH = layout(
    GONO, "1:A20|AONr|", TIME, "2:300|Vn|m3", *status_triple("10:161", "VnMPmax"), *status_triple("11:161", "VnDaymax"),
    "4:300|Vb|m3", *status_triple("3:161", "VbMPmax"), *status_triple("4:161", "VbDaymax"),
    "2:110|St.2|", "4:110|St.4|", CHECK,
)  # fmt: skip


REAL_ROWS = [
    pytest.param(
        EK_MP, 3,
        "(7959)(2)(2011-03-21,14:59:51)(0)(0)(0)(0)(1.01805)(23.06)(1.0006)(0.92596)(0)(14)(0)(0)(15)(0x8203)(CRC Ok)",
        {"2:300": "0", "2:302": "0", "4:300": "0", "4:302": "0", "7:310/3": "1.01805", "6:310_1/3": "23.06",
         "8:310/3": "1.0006", "5:310/3": "0.92596"}, ["0x8203"], id="EK MP, row after a change",
    ),
    pytest.param(
        EK_MP, 3,
        "(7992)(26)(2011-03-22,13:45:15)(2.7748)(2.7748)(3)(3)(1.02062)(23.17)(1.00059)(0.92796)(0)(14)(0)(0)(15)"
        "(0x8303)(CRC Ok)",
        {"2:300": "2.7748", "2:302": "2.7748", "4:300": "3", "4:302": "3", "7:310/3": "1.02062", "6:310_1/3": "23.17",
         "8:310/3": "1.00059", "5:310/3": "0.92796"}, ["0x8303"], id="EK MP, row before a change",
    ),
    pytest.param(EK_LOG, 4, "(7961)(1)(2011-03-21,15:00:33)(0x0D01)(CRC Ok)", {}, ["0x0D01"], id="EK log, lock closed"),
    pytest.param(EK_LOG, 4, "(7962)(2)(2011-03-21,15:00:52)(0x2D01)(CRC Ok)", {}, ["0x2D01"], id="EK log, lock open"),
    pytest.param(
        DL_MP, 2, "(8482)(498)(2010-03-07,08:45:00)(130)(130)(0)(15)(0x8105)(CRC Ok)",
        {"1:200": "130", "1:203": "130"}, [], id="DL220 MP, its boundary is no event",
    ),
    pytest.param(DL_LOG, 10, "(8910)(523)(2010-03-28,02:52:27)(0x820A)(CRC Ok)", {}, ["0x820A"], id="DL220 log"),
    pytest.param(DL_LOG, 10, "(8915)(524)(2010-03-28,03:09:04)(0x830A)(CRC Ok)", {}, ["0x830A"], id="DL220 log 2"),
    pytest.param(DL_LOG, 10, "(8916)(525)(2010-03-28,02:09:05)(0x820A)(CRC Ok)", {}, ["0x820A"], id="DL220 log 3"),
    pytest.param(
        DL_MONTH, 1,
        "(306)(1)(2010-04-01,06:00:00)(2)(2)(0)(2010-04-01,06:00:00)(0)(0)(2010-04-01,06:00:00)(0)(16)(13;15)(CRC Ok)",
        {"1:200": "2", "1:203": "2", "1:161/1": "0", "5:161/1": "0"}, [], id="DL220 month",
    ),
    pytest.param(
        DL_MONTH, 1,
        "(11388)(15)(2010-02-01,06:00:00)(1173533)(171302)(80)(2010-01-19,12:00:00)(0)(845)(2010-01-20,06:00:00)(0)(14)"
        "(0)(CRC Ok)",
        {"1:200": "1173533", "1:203": "171302", "1:161/1": "80", "5:161/1": "845"}, [], id="DL210 month",
    ),
    pytest.param(
        DL_MONTH, 1,
        "(28473)(40)(2010-03-01,06:00:00)(000765934.0000)(000000000.0000)(000000059.0000)(2010-02-11,11:00:00)(0)"
        "(000001004.0000)(2010-02-11,06:00:00)(0)(0)(0)(823)",
        {"1:200": "765934.0000", "1:203": "0.0000", "1:161/1": "59.0000", "5:161/1": "1004.0000"}, [],
        id="DL240 month, padded with zeros, a number as check",
    ),
    pytest.param(
        EK_MONTH, 1,
        "(17650)(20)(2010-03-01,06:00:00)(348503.3106)(348503.3106)(114.4272)(2010-02-10,14:00:00)(0)(2094.0193)"
        "(2010-02-02,06:00:00)(0)(2569877.2)(2569877.2)(119)(2010-02-10,14:00:00)(0)(2182)(2010-02-02,06:00:00)(0)(0)"
        "(14)(CRC Ok)",
        {"2:300": "348503.3106", "2:302": "348503.3106", "10:161/1": "114.4272", "11:161/1": "2094.0193",
         "4:300": "2569877.2", "4:302": "2569877.2", "3:161/1": "119", "4:161/1": "2182"}, [], id="EK260 2.52 month",
    ),
    pytest.param(
        EK260_V1_MONTH, 1,
        "(99431)(108)(2010-03-01,06:00:00)(000144076.2083)(000000000.0000)(2010-03-01,06:00:00)(0)(000000000.0000)"
        "(2010-03-01,06:00:00)(0)(000154013.0000)(000000000.0000)(2010-03-01,06:00:00)(0)(000000000.0000)"
        "(2010-03-01,06:00:00)(0)(0)(0)(29928)",
        {"2:300": "144076.2083", "10:161/1": "0.0000", "11:161/1": "0.0000", "4:300": "154013.0000",
         "3:161/1": "0.0000", "4:161/1": "0.0000"}, [], id="EK260 1.11 month",
    ),
    pytest.param(
        EK_DAY, 7,
        "(18484)(640)(2014-05-02,10:00:00)(882066.6309)(884266.5191)(67859)(68044)(12.9437)(10.16)(0.97417)(13.57199)"
        "(7)(14)(0)(0)(0)(0x8103)(CRC Ok)",
        {"2:300": "882066.6309", "2:302": "884266.5191", "4:300": "67859", "4:302": "68044", "7:310/7": "12.9437",
         "6:310_1/7": "10.16", "8:310/7": "0.97417", "5:310/7": "13.57199"}, [], id="EK270 day",
    ),
    pytest.param(
        TC_HOUR, 3,
        "(13484)(2014-05-28,11:00:00)(4945.2514)(4945.2514)(4955.0000)(4955.0000)(28.16)(104.3250)(1.0017)(0)(0)(0)"
        "(0x8104)(CRC Ok)",
        {"2:300": "4945.2514", "2:302": "4945.2514", "4:300": "4955.0000", "4:302": "4955.0000", "6:310_1/3": "28.16",
         "7:310/3": "104.3250", "5:310/3": "1.0017"}, [], id="TC21x hour",
    ),
]  # fmt: skip


def read(found: Columns, texts: list[str]) -> Row:
    row = read_row(found, texts)
    assert isinstance(row, Row), row
    return row


@pytest.mark.parametrize(("shape", "archive", "text", "expected", "codes"), REAL_ROWS)
def test_real_rows(shape: Layout, archive: int, text: str, expected: dict[str, str], codes: list[str]) -> None:
    groups = list(parse_groups(text))
    found = columns(shape, [groups])
    row = read(found, groups)
    instant = row.local.replace(tzinfo=dt.UTC)

    values = readings(found, [(row, instant)], archive=archive, mappings={}, zone=UTC)
    logged = events(found, [(row, instant)])

    # Exact: 765934.0000 keeps its decimals, and no value was a float on the way.
    assert {value.series: str(value.value) for value in values} == expected
    stamped = {value.series: value.timestamp for value in values}
    triples = {q.source: q.own_time for q in found.quantities if q.own_time is not None}
    for source, own_time in triples.items():
        assert stamped.pop(f"{source}/{archive}") == parse_datetime(groups[own_time]).replace(tzinfo=dt.UTC)
    assert len(triples) == sum(":161/" in series for series in expected)
    assert set(stamped.values()) <= {instant}
    assert [event.code for event in logged] == codes
    assert row.number == int(groups[0 if shape is TC_HOUR else 1])


def test_two_more_measurements_before_the_states_are_found_by_their_sources() -> None:
    shape = layout(
        GONO, "3:A20|AONr|", TIME, *EK_COUNTERS, *EK_MEANS, "9:310|dp.MP| mbar", "16:310_1|T2.MP|{C", *EK_STATES,
        "3:A22|Er|", CHECK,
    )  # fmt: skip
    text = (
        "(7959)(2)(2011-03-21,15:00:00)(1)(2)(3)(4)(1.01805)(23.06)(1.0006)(0.92596)(12.5)(7.25)(0)(14)(0)(0)(15)"
        "(0x8104)(CRC Ok)"
    )
    groups = list(parse_groups(text))
    assert len(groups) == 20
    found = columns(shape, [groups])
    row = read(found, groups)
    values = readings(found, [(row, row.local.replace(tzinfo=dt.UTC))], archive=3, mappings={}, zone=UTC)
    by_series = {value.series: (str(value.value), value.unit) for value in values}
    assert by_series["9:310/3"] == ("12.5", "mbar")
    assert by_series["16:310_1/3"] == ("7.25", "°C")
    assert by_series["5:310/3"] == ("0.92596", "")
    assert row.event == 0x8104


@pytest.mark.parametrize("measured", [("7:310|p.MP | bar",), ("7:310|p.MP | bar", "6:310_1|T.MP|{C")], ids=["15", "16"])
def test_measuring_periods_of_the_first_ek260_are_read_by_what_the_meter_says_of_them(
    measured: tuple[str, ...],
) -> None:
    states = ("1:110|St.1|", "2:110|St.2|", "3:110|St.3|", "4:110|St.4|", "2:100|StSy|")
    shape = layout(GONO, "3:A20|AONr|", TIME, *EK_COUNTERS, *measured, *states, "3:A22|Er|", CHECK)
    values = ("(000144076.2083)", "(000000000.0000)", "(000154013.0000)", "(000000001.0000)", "(1.01805)", "(23.06)")
    text = f"(99431)(108)(2010-03-01,06:00:00){''.join(values[: 4 + len(measured)])}(0)(0)(13)(0)(0)(0x8104)(29928)"
    groups = list(parse_groups(text))
    assert len(groups) == 14 + len(measured)
    found = columns(shape, [groups])
    row = read(found, groups)
    told = readings(found, [(row, row.local.replace(tzinfo=dt.UTC))], archive=3, mappings={}, zone=UTC)
    assert [value.series for value in told[:5]] == ["2:300", "2:302", "4:300", "4:302", "7:310/3"]
    assert [str(value.value) for value in told[:2]] == ["144076.2083", "0.0000"]
    assert len(told) == 4 + len(measured)


def test_units_are_in_plain_words() -> None:
    groups = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MP, [groups])

    assert {quantity.source: quantity.unit for quantity in found.quantities} == {
        "2:300": "m3",
        "2:302": "m3",
        "4:300": "m3",
        "4:302": "m3",
        "7:310": "bar",
        "6:310_1": "°C",
        "8:310": "",
        "5:310": "",
    }


def test_sources_as_the_meter_writes_them() -> None:
    shape = layout(
        "0001:01F8|GONr|", "0003:0A20|AONr|", "0001:0400|Zeit|", "0002:0300|Vn|m3", "0006:0310_1|T|{C", "|Check|"
    )
    row = ["7", "3", "2024-01-15,06:00:00", "12.5", "9.1", "CRC Ok"]
    found = columns(shape, [row])

    assert [quantity.source for quantity in found.quantities] == ["2:300", "6:310_1"]
    assert (found.number, found.time) == (1, 2)


def test_columns_without_a_known_time_are_found_by_what_stands_in_them() -> None:
    shape = layout("||", "||", "2:300||m3", "||", "||")

    found = columns(shape, [["1", "2024-01-15,06:00:00", "12.5", "0x8104", "CRC Ok"]])

    assert (found.time, found.event, found.check, found.number) == (1, 3, 4, 0)


def test_an_archive_without_any_time_is_named() -> None:
    with pytest.raises(LayoutError, match="holds a time"):
        columns(layout("2:300|V|m3", "|Check|"), [["1", "CRC Ok"]])


def test_a_layout_that_leaves_the_check_column_out() -> None:
    shape = layout("3:A20|AONo|", "1:1F8|GONo|", "1:400|Time|", "2:300|Vc|m3", "2:100|SysSt|", "3:A22|Event|")
    row = ["5", "9", "2024-01-15,06:00:00", "12.5", "0", "0x8104", "CRC Ok"]
    found = columns(shape, [row])

    assert read(found, row).number == 5
    assert isinstance(read_row(found, [*row[:-1], "CRC Error"]), DamagedRow)


def test_a_number_without_a_source_is_no_reading() -> None:
    shape = layout("1:1F8|No|", "1:400|Time|", "2:300|Vb|m3", "|x|m3", "|Check|")
    row = ["1", "2024-01-15,06:00:00", "12.5", "99", "CRC Ok"]

    assert [quantity.source for quantity in columns(shape, [row]).quantities] == ["2:300"]


def test_an_audit_trail_has_no_readings() -> None:
    shape = layout(
        GONO, "5:A20|AONr|", TIME, "5:A24|Addr|", "5:0BB|Alt|", "5:0BC|Neu|", "1:170|ES|", "2:170|HS|", "3:170|LS|",
        "4:170|KS|", CHECK,
    )  # fmt: skip
    row = ["9", "1", "2024-01-15,06:00:00", "0007:0311", "1.01", "1.02", "0", "0", "1", "0", "CRC Ok"]
    found = columns(shape, [row])

    assert found.quantities == ()
    (entry,) = events(found, [(read(found, row), dt.datetime(2024, 1, 15, 5, tzinfo=dt.UTC))])

    assert (entry.code, entry.title) == ("7:311", "7:311 (substitute pressure) changed")
    assert entry.content == "7:311 (substitute pressure) changed from '1.01' to '1.02'; open locks: supplier"


@pytest.mark.parametrize(("old", "new"), [("***", "***"), ("00000000", "SECRET12")])
def test_a_changed_lock_code_is_hidden_even_if_the_meter_tells_it(old: str, new: str) -> None:
    shape = layout("5:A20|AONo|", "1:1F8|GONo|", TIME, "|parCode|", "|oldVal|", "|newVal|", "|Cal|", "|Sup|", "|Cons|")
    row = ["9", "1", "2024-01-15,06:00:00", "0003:0171", old, new, "0", "0", "1", "CRC Ok"]
    found = columns(shape, [row])

    (entry,) = events(found, [(read(found, row), dt.datetime(2024, 1, 15, 5, tzinfo=dt.UTC))])

    assert entry.content == "3:171 (supplier lock's code) changed from '***' to '***'; open locks: customer"


def test_the_row_after_a_change_tells_what_differs() -> None:
    before = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    after = list(before)
    before[-2], after[-2] = "0x8303", "0x8203"
    after[2], after[7] = "2011-03-21,13:59:52", "1.02"
    found = columns(EK_MP, [before, after])
    at = dt.datetime(2011, 3, 21, 14, tzinfo=dt.UTC)

    first, second = events(found, [(read(found, before), at), (read(found, after), at)])

    assert first.content == "0x8303 parameter of archive 3 changed, row before it"
    assert second.content == (
        "0x8203 parameter of archive 3 changed, row after it: "
        "clock 2011-03-21 14:59:51 -> 2011-03-21 13:59:52, 7:310 1.01805 -> 1.02"
    )


@pytest.mark.parametrize(
    ("shape", "text", "model", "position", "expected"),
    [
        (EK_MP, REAL_ROWS[1].values[2], "EK270", 14, ("St.6:6+", "T warning limits: appeared")),
        (EK_MP, REAL_ROWS[1].values[2], "EK270", 11, ("St.2:8+", "warning signal at input 2: appeared")),
        (EK_MP, REAL_ROWS[1].values[2], "EK270", 15, ("StSy:5+", "data error: appeared")),
        (DL_MP, REAL_ROWS[4].values[2], "DL220", 5, ("St.1:1+", "encoder 1 implausible: appeared")),
        (DL_MP, REAL_ROWS[4].values[2], "DL220", 5, ("St.1:2+", "encoder 1 error: appeared")),
    ],
)
def test_alarms_and_warnings_of_status_lists_are_told_once_when_they_come_and_go(
    shape: Layout,
    text: str,
    model: str,
    position: int,
    expected: tuple[str, str],
) -> None:
    quiet = list(parse_groups(text))
    found = columns(shape, [quiet])
    message = expected[0].split(":")[1].rstrip("+")
    shown = [*quiet[:position], f"{message};13;16", *quiet[position + 1 :]]
    at = dt.datetime(2024, 1, 15, 5, tzinfo=dt.UTC)
    rows = [(read(found, row), at) for row in (quiet, shown, shown, quiet)]

    told = [(event.code, event.title) for event in events(found, rows, model=model) if event.code.startswith("St")]

    code, title = expected
    assert told == [expected, (code.replace("+", "-"), title.replace("appeared", "ended"))]
    goes_on = events(found, rows[2:3], model=model, before=rows[1][0])
    assert not [event for event in goes_on if event.code.startswith("St")]


def test_minimum_and_maximum_of_one_source_are_two_series() -> None:
    shape = layout(GONO, "2:A20|AONr|", TIME, "7:310|p.Mon|bar", "7:310|p max|bar", "|Zeit|", "|St|", CHECK)
    row = ["9", "1", "2024-02-01,06:00:00", "1.5", "1.9", "2024-01-20,07:00:00", "0", "CRC Ok"]
    found = columns(shape, [row])
    at = dt.datetime(2024, 2, 1, 5, tzinfo=dt.UTC)

    values = readings(found, [(read(found, row), at)], archive=2, mappings={}, zone=BERLIN)

    assert {value.series: str(value.value) for value in values} == {"7:310/2": "1.5", "7:310#2/2": "1.9"}


def test_a_maximum_is_stamped_with_its_own_time_where_the_sources_say_whose_it_is() -> None:
    shape = layout(GONO, "1:A20|AONr|", TIME, "2:300|Vn|m3", "3:161|max|m3", "3:161|t|", "3:161|s|", CHECK)
    row = ["9", "1", "2024-02-01,06:00:00", "100", "7.5", "2024-01-20,07:00:00", "0", "CRC Ok"]
    found = columns(shape, [row])
    at = dt.datetime(2024, 2, 1, 5, tzinfo=dt.UTC)

    values = readings(found, [(read(found, row), at)], archive=1, mappings={}, zone=BERLIN)

    assert {value.series: value.timestamp for value in values} == {
        "2:300": at,
        "3:161/1": dt.datetime(2024, 1, 20, 6, tzinfo=dt.UTC),
    }


def test_mappings_give_other_names() -> None:
    groups = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MP, [groups])
    row = read(found, groups)
    mappings = {(0, "2:300"): "7-0:3.0.0", (3, "7:310"): "7-0:42.0.0", (7, "6:310_1"): "day", (0, "8:310"): "single"}

    values = readings(found, [(row, row.local.replace(tzinfo=dt.UTC))], archive=3, mappings=mappings, zone=UTC)

    names = [value.series for value in values]
    assert names == ["7-0:3.0.0", "2:302", "4:300", "4:302", "7-0:42.0.0", "6:310_1/3", "8:310/3", "5:310/3"]


def test_a_log_book_tells_all_and_an_interval_archive_only_what_is_no_boundary() -> None:
    at = dt.datetime(2024, 1, 15, 5, tzinfo=dt.UTC)
    logged = ["9", "1", "2024-01-15,06:00:00", "0x8103", "CRC Ok"]
    log = columns(EK_LOG, [logged])
    assert [event.code for event in events(log, [(read(log, logged), at)])] == ["0x8103"]

    base = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MP, [base])
    told = []
    for code in ("0x8104", "0x8004", "0x3F02"):
        base[-2] = code
        told += [(event.code, event.title) for event in events(found, [(read(found, base), at)])]
    assert [code for code, _ in told] == ["0x8004", "0x3F02"]
    assert all(0 < len(title) <= 50 for _, title in told)


@pytest.mark.parametrize(
    ("position", "text", "named"),
    [
        (-1, "CRC Error", "CRC Error"),
        (-1, "", "CRC Ok"),
        (2, "2024-13-15,06:00:00", "2024-13-15,06:00:00"),
        (1, "x", "x"),
    ],
)
def test_a_row_that_does_not_hold_together_keeps_its_text(position: int, text: str, named: str) -> None:
    groups = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MP, [groups])
    groups[position] = text

    row = read_row(found, groups)

    assert isinstance(row, DamagedRow)
    assert row.texts == tuple(groups)
    assert re.search(named, str(row))


@pytest.mark.parametrize(
    ("position", "text", "named"),
    [
        (3, "NaN", r"column 4 \(2:300\) has 'NaN'"),
        (3, "1E+400000", r"1E\+400000"),
        (9, "Infinity", "8:310.*Infinity"),
        (3, "12.3.4", "12.3.4"),
        (3, "9" * 39, "38 digits"),
        (-2, "8103", "event code"),
    ],
)
def test_a_bad_column_costs_itself_only_and_is_named_with_the_rows_text(position: int, text: str, named: str) -> None:
    groups = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MP, [groups])
    groups[position] = text

    row = read(found, groups)
    at = row.local.replace(tzinfo=dt.UTC)
    values = readings(found, [(row, at)], archive=3, mappings={}, zone=UTC)

    assert re.search(named, row.problem)
    assert "".join(f"({group})" for group in groups) in row.problem
    lost = {quantity.source for quantity in found.quantities if quantity.position == position}
    assert len(values) == 8 - len(lost)
    assert not {value.series.partition("/")[0] for value in values} & lost


def test_a_maximum_with_an_impossible_time_is_not_stamped_with_another() -> None:
    groups = list(parse_groups(REAL_ROWS[11].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MONTH, [groups])
    groups[6] = "2010-02-31,14:00:00"
    row = read(found, groups)

    values = readings(found, [(row, row.local.replace(tzinfo=dt.UTC))], archive=1, mappings={}, zone=UTC)

    assert "2010-02-31" in row.problem
    assert "10:161/1" not in {value.series for value in values}
    assert len(values) == 7


def test_a_row_of_another_length_is_damaged() -> None:
    groups = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]

    assert isinstance(read_row(columns(EK_MP, [groups]), groups[:-1]), DamagedRow)


def test_a_group_without_a_digit_is_no_reading() -> None:
    groups = list(parse_groups(REAL_ROWS[0].values[2]))  # type: ignore[arg-type]
    found = columns(EK_MP, [groups])
    groups[7], groups[9] = "----", ""
    row = read(found, groups)

    values = readings(found, [(row, row.local.replace(tzinfo=dt.UTC))], archive=3, mappings={}, zone=UTC)

    assert {"7:310/3", "8:310/3"}.isdisjoint(value.series for value in values)


@given(
    st.lists(
        st.decimals(min_value=-(10**12), max_value=10**12, places=4, allow_nan=False, allow_infinity=False),
        min_size=1,
        max_size=20,
    )
)
def test_values_are_exact(numbers: list[Decimal]) -> None:
    shape = layout(GONO, "3:A20|AONr|", TIME, *(f"{n}:310|v{n}|bar" for n in range(1, len(numbers) + 1)), CHECK)
    row = ["1", "1", "2024-01-15,06:00:00", *(f"{number:f}" for number in numbers), "CRC Ok"]
    found = columns(shape, [row])

    values = readings(
        found, [(read(found, row), dt.datetime(2024, 1, 15, 6, tzinfo=dt.UTC))], archive=3, mappings={}, zone=UTC
    )

    assert [str(value.value) for value in values] == [f"{number:f}" for number in numbers]
