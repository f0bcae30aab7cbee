"""Rows that the block check let through: what is doubted, and that nothing is doubted that a device really sends."""

import datetime as dt
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import pytest

from agent.simulator.meters import VirtualMeter
from agent.simulator.personas import PERSONAS
from contexts.lis200_checks import ArchiveChecks, Kind
from contexts.meters import Layout
from protocol.iec62056 import lis200

BERLIN = ZoneInfo("Europe/Berlin")
EVERYTHING = lis200.ArchiveRange()
EK = Layout(
    (
        *("1:1F8", "3:A20", "1:400", "2:300", "2:302", "4:300", "4:302", "7:310", "6:310_1", "8:310", "5:310"),
        *("2:110", "4:110", "7:110", "6:110", "2:100", "3:A22", ""),
    ),
    (
        *("GONr", "AONr", "Zeit", "Vn", "VnG", "Vb", "VbG", "p.MP ", "T.MP", "K.MP", "Z.MP"),
        *("St.2", "St.4", "St.7", "St.6", "StSy", "Er", "Check"),
    ),
    ("", "", "", "m3", "m3", "m3", "m3", " bar", "{C", "", "", "", "", "", "", "", "", ""),
)
LOG = Layout(("1:1F8", "10:A20", "1:400", "10:A22", ""), ("GONr", "AONr", "Zeit", "Er", "Check"), ("", "", "", "", ""))
DL = Layout(
    ("1:1F8", "2:A20", "1:400", "1:202", "1:203", "1:110", "2:100", "2:A22", ""),
    ("GONr", "AONr", "Zeit", "V1.G", "V1.P", "St.1", "StSy", "Er", "Check"),
    ("", "", "", "m3", "m3", "", "", "", ""),
)
TC = Layout(
    (
        "3:A20",
        "1:400",
        "2:300",
        "2:302",
        "4:300",
        "4:302",
        "6:310_1",
        "7:310",
        "5:310",
        "2:110",
        "6:110",
        "2:100",
        "3:A22",
        "",
    ),
    ("AONr", "Zeit", "Vn", "VnG", "Vb", "VbG", "T.MP", "p.Fest", "Z.MP", "St.2", "St.6", "StSy", "Er", "Check"),
    ("", "", "m3", "m3", "m3", "m3", "{C", "kPa", "", "", "", "", "", ""),
)
DL_MONTH = Layout(
    ("1:1F8", "1:A20", "1:400", "1:202", "1:203", "11:161", "", "", "15:161", "", "", "1:110", "2:100", ""),
    ("GONr", "AONr", "Zeit", "V1.G", "V1.P", "MP.max", "Zeit", "St", "Tg.max", "Zeit", "St", "St.1", "StSy", "Check"),
    ("", "", "", "m3", "m3", "m3", "", "", "m3", "", "", "", "", ""),
)
# LIS-200 fact sheet 6.1, as delivered; rows of one line stood next to each other in the device.
REAL = (
    (
        EK,
        [
            (
                "(7959)(2)(2011-03-21,14:59:51)(0)(0)(0)(0)(1.01805)(23.06)(1.0006)(0.92596)"
                "(0)(14)(0)(0)(15)(0x8203)(CRC Ok)"
            )
        ],
    ),
    (
        EK,
        [
            (
                "(7992)(26)(2011-03-22,13:45:15)(2.7748)(2.7748)(3)(3)(1.02062)(23.17)(1.00059)(0.92796)"
                "(0)(14)(0)(0)(15)(0x8303)(CRC Ok)"
            )
        ],
    ),
    (
        EK,
        [
            (
                "(18484)(640)(2014-05-02,10:00:00)(882066.6309)(884266.5191)(67859)(68044)(12.9437)"
                "(10.16)(0.97417)(13.57199)"
                "(7)(14)(0)(0)(0)(0x8103)(CRC Ok)"
            )
        ],
    ),
    (LOG, ["(7961)(1)(2011-03-21,15:00:33)(0x0D01)(CRC Ok)", "(7962)(2)(2011-03-21,15:00:52)(0x2D01)(CRC Ok)"]),
    (
        LOG,
        [
            "(8910)(523)(2010-03-28,02:52:27)(0x820A)(CRC Ok)",
            "(8915)(524)(2010-03-28,03:09:04)(0x830A)(CRC Ok)",
            "(8916)(525)(2010-03-28,02:09:05)(0x820A)(CRC Ok)",
        ],
    ),
    (DL, ["(8482)(498)(2010-03-07,08:45:00)(130)(130)(0)(15)(0x8105)(CRC Ok)"]),
    (
        DL_MONTH,
        [
            (
                "(306)(1)(2010-04-01,06:00:00)(2)(2)(0)(2010-04-01,06:00:00)(0)(0)(2010-04-01,06:00:00)(0)(16)(13;15)"
                "(CRC Ok)"
            )
        ],
    ),
    (
        DL_MONTH,
        [
            (
                "(11388)(15)(2010-02-01,06:00:00)(1173533)(171302)(80)(2010-01-19,12:00:00)(0)(845)(2010-01-20,06:00:00)"
                "(0)(14)(0)(CRC Ok)"
            )
        ],
    ),
    (
        DL_MONTH,
        [
            (
                "(28473)(40)(2010-03-01,06:00:00)(000765934.0000)(000000000.0000)(000000059.0000)(2010-02-11,11:00:00)(0)"
                "(000001004.0000)(2010-02-11,06:00:00)(0)(0)(0)(823)"
            )
        ],
    ),
    (
        TC,
        [
            (
                "(13484)(2014-05-28,11:00:00)(4945.2514)(4945.2514)(4955.0000)(4955.0000)(28.16)(104.3250)(1.0017)"
                "(0)(0)(0)(0x8104)(CRC Ok)"
            )
        ],
    ),
    (
        None,
        [
            (
                "(17650)(20)(2010-03-01,06:00:00)(348503.3106)(348503.3106)(114.4272)(2010-02-10,14:00:00)(0)(2094.0193)"
                "(2010-02-02,06:00:00)(0)(2569877.2)(2569877.2)(119)"
                "(2010-02-10,14:00:00)(0)(2182)(2010-02-02,06:00:00)(0)(0)(14)"
                "(CRC Ok)"
            )
        ],
    ),
)


def checks(layout: Layout | None, archive: int = 3) -> ArchiveChecks:
    return ArchiveChecks(archive, layout, BERLIN)


def quarters(count: int, start: str = "2025-03-12,08:00:00") -> list[lis200.Row]:
    first = lis200.parse_datetime(start)
    return [
        (
            *(
                str(9000 + 3 * index),
                str(100 + index),
                lis200.format_datetime(first + dt.timedelta(minutes=15 * index)),
            ),
            *(f"{1000 + index * 1.5:.1f}", f"{1010 + index * 1.5:.1f}", "0", "15", "0x8105", "CRC Ok"),
        )
        for index in range(count)
    ]


def changed(rows: Sequence[lis200.Row], at: int, column: int, text: str) -> list[lis200.Row]:
    row = list(rows[at])
    row[column] = text
    return [*rows[:at], tuple(row), *rows[at + 1 :]]


@pytest.mark.parametrize(("layout", "texts"), REAL)
def test_what_real_devices_send_is_not_doubted(layout: Layout | None, texts: list[str]) -> None:
    assert checks(layout).doubt(lis200.parse_rows("\r\n".join(texts)), EVERYTHING) is None


@pytest.mark.parametrize("model", PERSONAS)
def test_nothing_that_a_sound_meter_holds_is_doubted_over_a_clock_change_and_a_set_clock(model: str) -> None:
    now = [dt.datetime(2025, 10, 25, 12, tzinfo=dt.UTC)]
    # Four months of quarters take seconds to make, and one model tells as much of them as six.
    interval = 15 if model == "EK280" else 60
    meter = VirtualMeter(
        "1", "11000001", PERSONAS[model], seed=4, now=lambda: now[0], zone=BERLIN, interval=interval, history_days=120
    )
    now[0] += dt.timedelta(days=1, hours=4)
    meter.advance()
    meter.set_clock(lis200.parse_datetime("2025-10-26,16:55:03"))
    now[0] += dt.timedelta(hours=5)
    meter.advance()
    for archive in meter.persona.archives:
        layout = Layout(
            tuple(column.source_in(archive.number) for column in archive.layout),
            tuple(column.german for column in archive.layout),
            tuple(column.unit for column in archive.layout),
        )
        judge = checks(layout, archive.number)
        rows = [row.groups for row in meter.archives.rows(archive.number)]
        assert len(rows) > 3
        for first in range(0, len(rows), 20):
            block = rows[first : first + 20]
            assert judge.doubt(block, EVERYTHING) is None
            judge.accept(block)


@pytest.mark.parametrize(
    ("at", "column", "text", "kind"),
    [
        (5, 0, "9012", Kind.ORDER),
        (5, 0, "", Kind.COLUMNS),
        (5, 1, "105x", Kind.FORM),
        (5, 1, "103", Kind.ORDER),
        (5, 1, "107", Kind.GAP),
        (5, 2, "2025-03-12,09:15:01", Kind.RASTER),
        (5, 2, "2025-03-12,08:15:00", Kind.ORDER),
        (5, 2, "2025-13-12,08:15:00", Kind.FORM),
        (9, 2, "2025-04-12,10:15:00", Kind.RASTER),
        (5, 3, "907.5", Kind.TOTAL),
        (9, 3, "9013.5", Kind.TOTAL),
        (5, 3, "1017.5", Kind.TOTAL),
        (5, 3, "1007.50", Kind.FORM),
        (5, 3, "01007.5", Kind.FORM),
        (5, 3, "1p07.5", Kind.FORM),
        (5, 5, "17", Kind.FORM),
        (5, 6, "15;13", Kind.FORM),
        (5, 7, "0x8101", Kind.RASTER),
        (5, 7, "0x81G5", Kind.FORM),
        (5, 8, "CRC 0k", Kind.FORM),
        (5, 8, "823", Kind.FORM),
    ],
)
def test_one_wrong_group_is_doubted(at: int, column: int, text: str, kind: Kind) -> None:
    rows = quarters(10)
    judge = checks(DL, 2)
    assert judge.doubt(rows, EVERYTHING) is None
    found = judge.doubt(changed(rows, at, column, text), EVERYTHING)
    assert found is not None
    assert found.kind is kind


def test_a_row_with_a_group_too_few_is_doubted_with_and_without_columns() -> None:
    rows = quarters(3)
    for layout in (DL, None):
        found = checks(layout, 2).doubt([rows[0], rows[1][:-1]], EVERYTHING)
        assert found is not None
        assert found.kind is Kind.COLUMNS


def test_the_next_block_goes_on_where_the_last_one_ended() -> None:
    rows = quarters(12)
    judge = checks(DL, 2)
    judge.accept(rows[:5])
    assert judge.doubt(rows[4:9], EVERYTHING) is None, "the last row comes again"
    missing = judge.doubt(rows[6:9], EVERYTHING)
    assert missing is not None
    assert missing.kind is Kind.GAP
    assert missing.misunderstood
    judge.settle(missing)
    assert judge.doubt(rows[6:9], EVERYTHING) is None, "the meter was asked twice and has none"


@pytest.mark.parametrize(
    "asked",
    [
        lis200.ArchiveRange(3, "2025-03-12,08:15:00", ""),
        lis200.ArchiveRange(3, "", "2025-03-12,08:30:00"),
        lis200.ArchiveRange(2, "101", ""),
        lis200.ArchiveRange(2, "", "102"),
    ],
)
def test_rows_outside_of_what_was_asked_for_answer_another_question(asked: lis200.ArchiveRange) -> None:
    judge = checks(DL, 2)
    found = judge.doubt(quarters(4), asked)
    assert found is not None
    assert found.kind is Kind.RANGE
    judge.settle(found)
    assert judge.doubt(quarters(3), asked) is None


def test_a_total_that_was_set_may_go_back() -> None:
    rows = changed(quarters(10), 5, 3, "17.5")
    assert checks(DL, 2).doubt(changed(rows, 5, 7, "0x8202")[:6], EVERYTHING) is None


def test_the_gas_law_shows_a_wrong_pressure() -> None:
    row = lis200.parse_rows(REAL[2][1][0])[0]
    following = list(row)
    following[0], following[1], following[2] = "18490", "641", "2014-05-03,10:00:00"
    assert checks(EK, 7).doubt([row, tuple(following)], EVERYTHING) is None
    following[7] = "19.9437"
    found = checks(EK, 7).doubt([row, tuple(following)], EVERYTHING)
    assert found is not None
    assert found.kind is Kind.LAW


def test_a_maximum_is_not_later_than_its_row() -> None:
    row = list(lis200.parse_rows(REAL[7][1][0])[0])
    row[6] = "2010-02-19,12:00:00"
    found = checks(DL_MONTH, 1).doubt([tuple(row)], EVERYTHING)
    assert found is not None
    assert found.kind is Kind.FORM


def test_a_layout_whose_attributes_are_of_different_lengths_judges_rows_by_the_longest() -> None:
    sources = ("1:1F8", "3:A20", "1:400", "2:300")
    layout = Layout(sources, ("GONr", "AONr", "Zeit", "Vn", "Er", "Check"), ())
    checks = ArchiveChecks(3, layout, ZoneInfo("Europe/Berlin"))
    asked = lis200.ArchiveRange(3)
    short, whole = ("1", "1", "2024-01-15,06:00:00", "2"), ("2", "2", "2024-01-15,07:00:00", "2", "0x8104", "CRC Ok")
    doubt = checks.doubt([short], asked)
    assert doubt is not None
    assert doubt.kind is Kind.COLUMNS
    checks.settle(doubt)
    checks.accept([short])
    assert checks.doubt([whole], asked) is None


def test_a_habit_is_not_doubted_again() -> None:
    rows = changed(quarters(10), 5, 5, "17")
    judge = checks(DL, 2)
    found = judge.doubt(rows, EVERYTHING)
    assert found is not None
    judge.settle(found)
    assert judge.doubt(rows, EVERYTHING) is None
