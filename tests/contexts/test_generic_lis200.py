import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.catalogue import CallError, check_call, find_call
from contexts.lis200_columns import LayoutError
from contexts.lis200_times import local_time
from contexts.meters import Answer, Held, Layout, LineFailure, Meter, Moment
from protocol.iec62056 import MeterRefusal, UnreadableValue
from protocol.iec62056.lis200 import parse_groups

BERLIN = ZoneInfo("Europe/Berlin")
LAYOUT = Layout(
    ("1:1F8", "3:A20", "1:400", "2:300", "7:310", "2:100", "3:A22", ""),
    ("GONr", "AONr", "Zeit", "Vn", "p.MP", "StSy", "Er", "Check"),
    ("", "", "", "m3", " bar", "", "", ""),
)
NUMBER, TIME = 2, 3
NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def row(number: int, stamp: str, volume: str = "", *, event: str = "0x8104", check: str = "CRC Ok") -> list[str]:
    return [str(number + 7000), str(number), stamp, volume or str(number), "1.01", "0", event, check]


class ScriptedMeter:
    """The other side of ``contexts.meters.Meter``: an archive that is compared and delivered as fact sheet 3 says."""

    def __init__(self, zone: ZoneInfo = BERLIN, rows: list[list[str]] | None = None, layout: Layout = LAYOUT) -> None:
        self.zone = zone
        self.model = "EK280"
        self.mappings: Mapping[tuple[int, str], str] = {}
        self.archive = rows or []
        self.columns = layout
        self.held_rows: Held | None = None
        self.objects: dict[str, list[str]] = {}
        self.gateway = utc("2024-06-01T12:00:00")
        self.asked: list[tuple[int, str, str]] = []
        self.written: list[tuple[str, str]] = []
        self.garbled = 0
        self.empty_refusal = 103
        self.compares_numbers = True
        self.log_columns = layout
        self.refused: dict[str, int] = {}
        self.fails_at: dict[str, Exception] = {}
        self.seconds_per_exchange = 0.0
        self.seconds_per_character = 0.0
        self.reads_take: list[float] = []
        self.archives: list[int] = []

    async def read(self, address: str) -> list[str]:
        if address in self.refused or address not in self.objects:
            raise MeterRefusal(self.refused.get(address, 2))
        if address in self.fails_at:
            raise self.fails_at[address]
        took = self.reads_take.pop(0) if self.reads_take else self.seconds_per_exchange
        self.gateway += dt.timedelta(seconds=took)
        return self.objects[address]

    async def write(self, address: str, value: str) -> None:
        if address in self.refused:
            raise MeterRefusal(self.refused[address])
        self.written.append((address, value))
        self.objects["1:400.0"] = [value]

    async def layout(self, archive: int) -> Layout:
        return self.columns if archive == 3 else self.log_columns

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        self.asked.append((position, start, end))
        self.archives.append(archive)
        if position == NUMBER and not self.compares_numbers:
            raise MeterRefusal(101)
        found = [texts for texts in self.archive if self._within(texts[position - 1], start, end, position)]
        if not found:
            raise MeterRefusal(self.empty_refusal)
        if self.garbled:
            self.garbled -= 1
            found[0] = [*found[0][:-1], "CRC 0k"]
        for first in range(0, len(found), 3):
            yield found[first : first + 3]

    @staticmethod
    def _within(text: str, start: str, end: str, position: int) -> bool:
        def key(limit: str) -> tuple[int, str]:
            return (int(limit), "") if position == NUMBER else (0, limit)

        return (not start or key(start) <= key(text)) and (not end or key(text) <= key(end))

    def held(self, archive: int) -> Held | None:
        assert archive in {3, 4, 10}
        return self.held_rows

    async def now(self) -> dt.datetime:
        return self.gateway

    def under_way(self, characters: int) -> dt.timedelta:
        return dt.timedelta(seconds=characters * self.seconds_per_character)


async def call(meter: Meter, name: str, moment: Moment | None = None, **kwargs: object) -> Answer:
    at = utc("2024-06-01T12:00:00")
    found = find_call("generic_lis200", name)
    return await found.run(meter, moment or Moment(at, at), check_call("generic_lis200", name, kwargs))


async def by_date(meter: Meter, start: str, end: str | None = None) -> Answer:
    return await call(
        meter, "read_archive_by_date", start_date=start, end_date=end, archive_number=3, control_position=3
    )


async def by_offset(meter: ScriptedMeter, reference: str, seconds: int, since: str | None = None) -> Answer:
    at = utc(reference)
    moment = Moment(at + dt.timedelta(seconds=40), at, utc(since) if since else None)
    answer = await call(
        meter,
        "read_archive_by_offset_seconds",
        moment,
        offset_seconds=seconds,
        archive_number=3,
        control_position=3,
    )
    if answer.archive is not None and answer.held is not None:
        meter.held_rows = answer.held
    return answer


def stamps(answer: Answer) -> list[dt.datetime]:
    return [value.timestamp for value in answer.values if value.series == "2:300" and value.timestamp is not None]


def volumes(answer: Answer) -> list[str]:
    return [str(value.value) for value in answer.values if value.series == "2:300"]


class TestSingleValues:
    @pytest.mark.parametrize(
        ("address", "group", "series", "value", "unit"),
        [
            ("2:300", "000144076.2083*m3", "2:300", "144076.2083", "m3"),
            ("2:0300.0", "12*m3", "2:300", "12", "m3"),
            ("6:310_1", "20.16*{C", "6:310_1", "20.16", "°C"),
            ("4:310", "-0.50*m3|h", "4:310", "-0.50", "m3/h"),
            ("7:310", "1.01325* bar", "7:310", "1.01325", "bar"),
        ],
    )
    async def test_a_number_is_a_reading(self, address: str, group: str, series: str, value: str, unit: str) -> None:
        meter = ScriptedMeter()
        meter.objects = {f"{series}.0": [group]}

        (reading,) = (await call(meter, "read_single_value", address=address)).values

        assert (reading.series, str(reading.value), reading.unit, reading.timestamp) == (series, value, unit, None)

    @pytest.mark.parametrize(
        ("address", "group"),
        [
            ("1:181.0", "EK 280"),
            ("1:400.0", "2024-06-01,14:00:00"),
            ("1:180.0", "00401122"),
            ("1:100.0", "13;15"),
            ("1:100.0", "0"),
            ("2:300.2", "12"),
        ],
    )
    async def test_a_text_is_a_result_and_no_reading(self, address: str, group: str) -> None:
        meter = ScriptedMeter()
        meter.objects = {address: [group]}

        answer = await call(meter, "read_single_value", address=address)

        assert not answer.values
        assert answer.result["text"] == group
        assert answer.result["address"] == address.removesuffix(".0")

    @pytest.mark.parametrize("text", ["NaN", "1E+400000", "Infinity", "1e5", "9" * 40])
    async def test_what_is_no_exact_number_is_an_error_with_its_text(self, text: str) -> None:
        meter = ScriptedMeter()
        meter.objects = {"2:300.0": [f"{text}*m3"]}

        with pytest.raises(UnreadableValue, match=text[:5].replace("+", r"\+")):
            await call(meter, "read_single_value", address="2:300")

    async def test_a_maximum_has_its_own_time(self) -> None:
        meter = ScriptedMeter()
        meter.objects = {"3:161.0": ["7.5*m3", "2024-05-20,08:00:00"]}

        (reading,) = (await call(meter, "read_single_value", address="3:161")).values

        assert reading.timestamp == utc("2024-05-20T06:00:00")

    async def test_a_mapping_gives_another_name(self) -> None:
        meter = ScriptedMeter()
        meter.objects = {"2:300.0": ["12*m3"], "7:310.0": ["1*bar"]}
        meter.mappings = {(0, "2:300"): "7-0:3.0.0", (3, "7:310"): "only in archive 3"}

        names = [
            (await call(meter, "read_single_value", address=asked)).values[0].series for asked in ("2:300", "7:310")
        ]

        assert names == ["7-0:3.0.0", "7:310"]

    async def test_the_meters_refusal_ends_the_call(self) -> None:
        with pytest.raises(MeterRefusal, match="#0002"):
            await call(ScriptedMeter(), "read_single_value", address="2:300")


class TestByDate:
    async def test_both_limits_are_included_and_nothing_else(self) -> None:
        meter = ScriptedMeter(rows=[row(hour, f"2024-06-01,{hour:02}:00:00") for hour in range(1, 12)])

        answer = await by_date(meter, "2024-06-01T04:00:00Z", "2024-06-01T06:00:00Z")

        assert stamps(answer) == [utc(f"2024-06-01T{hour:02}:00") for hour in (4, 5, 6)]
        assert {value.series for value in answer.values} == {"2:300", "7:310/3"}
        assert answer.archive is None
        assert meter.asked == [(TIME, "2024-06-01,06:00:00", "2024-06-01,08:00:00")]

    async def test_dates_without_an_offset_are_in_the_meters_zone(self) -> None:
        meter = ScriptedMeter(rows=[row(hour, f"2024-06-01,{hour:02}:00:00") for hour in range(1, 12)])

        assert volumes(await by_date(meter, "2024-06-01T05:00:00", "2024-06-01 06:00:00")) == ["5", "6"]
        assert volumes(await by_date(meter, "2024-06-01", "2024-06-02"))[0] == "1"
        assert volumes(await by_date(meter, "2024-06-01T10:00:00")) == ["10", "11"]

    @pytest.mark.parametrize("refusal", [103, 104, 105])
    async def test_an_empty_range_is_an_empty_answer(self, refusal: int) -> None:
        meter = ScriptedMeter()
        meter.empty_refusal = refusal

        answer = await by_date(meter, "2024-06-01", "2024-06-02")

        assert not answer.values
        assert not answer.problems
        assert answer.result == {"rows": 0}

    async def test_other_refusals_end_the_call(self) -> None:
        meter = ScriptedMeter()
        meter.empty_refusal = 18

        with pytest.raises(MeterRefusal, match="#0018"):
            await by_date(meter, "2024-06-01")

    async def test_a_position_that_is_not_the_time_is_named(self) -> None:
        with pytest.raises(CallError, match=r"control_position: 2 is not the time column.*expected 3"):
            await call(
                ScriptedMeter(),
                "read_archive_by_date",
                start_date="2024-06-01",
                archive_number=3,
                control_position=2,
            )

    async def test_a_range_that_ends_before_it_starts_is_named_even_between_notations(self) -> None:
        with pytest.raises(CallError, match=r"task_kwargs\.end_date"):
            await by_date(ScriptedMeter(), "2024-06-01T06:00:00", "2024-06-01T03:00:00Z")

    async def test_the_event_column_becomes_events(self) -> None:
        rows = [
            row(1, "2024-06-01,06:00:00"),
            row(2, "2024-06-01,06:10:00", "1", event="0x8303"),
            row(3, "2024-06-01,06:10:00", "1", event="0x8203"),
        ]

        answer = await by_date(ScriptedMeter(rows=rows), "2024-06-01")

        assert [(event.code, event.timestamp) for event in answer.events] == [
            ("0x8303", utc("2024-06-01T04:10")),
            ("0x8203", utc("2024-06-01T04:10")),
        ]
        # Before and after in one second: what only repeats is one reading.
        assert stamps(answer) == [utc("2024-06-01T04:00"), utc("2024-06-01T04:10")]

    async def test_a_log_book_that_logs_the_end_of_summer_time_is_believed(self) -> None:
        layout = Layout(("1:1F8", "3:A20", "1:400", "3:A22", ""), ("", "", "", "Er", "Check"), ("",) * 5)
        logged = [
            ("2024-10-26,11:00:00", "0x3C02"),
            ("2024-10-27,02:10:00", "0x2D03"),
            ("2024-10-27,02:20:00", "0x1F02"),
            ("2024-10-27,02:40:00", "0x0D03"),
            ("2024-10-27,05:00:00", "0x3C02"),
        ]
        rows = [[str(n), str(n), stamp, code, "CRC Ok"] for n, (stamp, code) in enumerate(logged)]

        answer = await by_date(ScriptedMeter(rows=rows, layout=layout), "2024-10-26")

        expected = ["2024-10-26T09:00", "2024-10-27T00:10", "2024-10-27T01:20", "2024-10-27T01:40", "2024-10-27T04:00"]
        assert [event.timestamp for event in answer.events] == [utc(text) for text in expected]

    async def test_a_clock_that_was_put_back_reorders_nothing(self) -> None:
        rows = [
            row(1, "2024-06-01,06:00:00"),
            row(2, "2024-06-01,06:10:00", event="0x8303"),
            row(3, "2024-06-01,05:10:00", event="0x8203"),
            row(4, "2024-06-01,06:00:00"),
        ]

        answer = await by_date(ScriptedMeter(rows=rows), "2024-06-01")

        assert volumes(answer) == ["1", "2", "3", "4"]
        assert stamps(answer) == [utc(f"2024-06-01T0{text}") for text in ("4:00", "4:10", "3:10", "4:00")]

    async def test_noise_that_passed_the_block_check_is_asked_for_again(self) -> None:
        meter = ScriptedMeter(rows=[row(6, "2024-06-01,06:00:00"), row(7, "2024-06-01,07:00:00")])
        meter.garbled = 1

        answer = await by_date(meter, "2024-06-01")

        assert volumes(answer) == ["6", "7"]
        assert not answer.problems

    async def test_a_row_that_stays_damaged_costs_itself_only_and_is_kept_as_text(self) -> None:
        rows = [
            row(6, "2024-06-01,06:00:00"),
            row(7, "2024-06-01,07:00:00", check="CRC 0k"),
            row(8, "2024-06-01,08:00:00"),
        ]

        answer = await by_date(ScriptedMeter(rows=rows), "2024-06-01")

        assert volumes(answer) == ["6", "8"]
        (problem,) = answer.problems
        assert "(7007)(7)(2024-06-01,07:00:00)(7)" in problem
        assert answer.result["damaged"] == [problem]

    async def test_a_bad_column_costs_itself_only_and_is_kept_as_text(self) -> None:
        rows = [row(6, "2024-06-01,06:00:00"), row(7, "2024-06-01,07:00:00", "NaN"), row(8, "2024-06-01,08:00:00")]

        answer = await by_date(ScriptedMeter(rows=rows), "2024-06-01")

        assert volumes(answer) == ["6", "8"]
        assert [value.series for value in answer.values].count("7:310/3") == 3
        (problem,) = answer.problems
        assert "(7007)(7)(2024-06-01,07:00:00)(NaN)" in problem
        assert "column 4 (2:300) has 'NaN'" in problem
        assert answer.result["damaged"] == [problem]

    async def test_a_firmware_without_sources_is_read_by_the_layout_that_is_known_of_it(self) -> None:
        text = (
            "(18484)(640)(2024-06-01,10:00:00)(882066.6309)(884266.5191)(67859)(68044)(12.9437)(10.16)(0.97417)"
            "(13.57199)(7)(14)(0)(0)(0)(0x8104)(CRC Ok)"
        )
        meter = ScriptedMeter(rows=[list(parse_groups(text))], layout=Layout((), (), ()))

        answer = await by_date(meter, "2024-06-01")

        assert [value.series for value in answer.values] == [
            "2:300", "2:302", "4:300", "4:302", "7:310/3", "6:310_1/3", "8:310/3", "5:310/3",
        ]  # fmt: skip
        assert {value.unit for value in answer.values} == {"m3", "bar", "°C", ""}

    async def test_rows_of_another_length_than_any_known_layout_bring_no_reading(self) -> None:
        meter = ScriptedMeter(rows=[row(6, "2024-06-01,06:00:00")], layout=Layout((), (), ()))

        with pytest.raises(LayoutError, match="holds a time"):
            await by_date(meter, "2024-06-01")

        meter.model = ""
        with pytest.raises(LayoutError, match="tells nothing of the columns of archive 3"):
            await by_date(meter, "2024-06-01")

    @given(
        st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Europe/Dublin"]),
        st.sampled_from(["2024-03-10T06:00", "2024-03-31T01:00", "2024-04-06T15:00", "2024-10-27T01:00",
                         "2024-11-03T06:00", "2024-10-05T15:30"]),
        st.sampled_from([5, 15, 30, 60]),
        st.integers(-240, 240),
        st.integers(0, 240),
    )  # fmt: skip
    async def test_a_range_near_a_clock_change_is_exact(
        self, name: str, change: str, minutes: int, begin: int, length: int
    ) -> None:
        zone, step = ZoneInfo(name), dt.timedelta(minutes=minutes)
        instants = [utc(change) + step * n for n in range(-12 * 60 // minutes, 12 * 60 // minutes)]
        texts = [local_time(zone, instant).strftime("%Y-%m-%d,%H:%M:%S") for instant in instants]
        meter = ScriptedMeter(zone, [row(n, text) for n, text in enumerate(texts)])
        start = utc(change) + dt.timedelta(minutes=begin)
        end = start + dt.timedelta(minutes=length)

        answer = await by_date(meter, start.isoformat(), end.isoformat())

        assert stamps(answer) == [instant for instant in instants if start <= instant <= end]


class TestByOffset:
    def meter(self, through: int) -> ScriptedMeter:
        return ScriptedMeter(rows=[row(hour, f"2024-06-01,{hour:02}:00:00") for hour in range(1, through + 1)])

    async def test_the_window_counts_from_the_tick(self) -> None:
        meter = self.meter(12)

        answer = await by_offset(meter, "2024-06-01T08:00:00", 2 * 3600)

        # The tick is 10:00 in Berlin; what is newer than the tick is not left behind.
        assert volumes(answer) == ["8", "9", "10", "11", "12"]
        assert answer.held == Held(utc("2024-06-01T06:00"), utc("2024-06-01T10:00"), 12)
        assert answer.archive == 3

    async def test_only_what_is_not_held_is_read(self) -> None:
        meter = self.meter(10)
        await by_offset(meter, "2024-06-01T08:00:00", 4 * 3600)
        meter.archive = self.meter(12).archive
        meter.asked.clear()

        answer = await by_offset(meter, "2024-06-01T10:00:00", 4 * 3600)

        assert volumes(answer) == ["11", "12"]
        assert meter.asked == [(NUMBER, "10", "")]
        assert answer.held == Held(utc("2024-06-01T04:00"), utc("2024-06-01T10:00"), 12)

    async def test_a_coalesced_run_reaches_back_to_the_oldest_missed_tick(self) -> None:
        answer = await by_offset(self.meter(12), "2024-06-01T10:00:00", 3600, since="2024-06-01T06:00:00")

        assert volumes(answer) == ["7", "8", "9", "10", "11", "12"]

    async def test_nothing_new_leaves_what_is_held(self) -> None:
        meter = self.meter(10)
        before = (await by_offset(meter, "2024-06-01T08:00:00", 3600)).held

        answer = await by_offset(meter, "2024-06-01T08:30:00", 3600)

        assert not answer.values
        assert answer.held == before

    async def test_nothing_at_all_holds_nothing(self) -> None:
        answer = await by_offset(ScriptedMeter(), "2024-06-01T08:00:00", 3600)

        assert (answer.archive, answer.held, list(answer.values)) == (3, None, [])

    async def test_a_window_beyond_what_is_held_is_read_whole(self) -> None:
        meter = self.meter(12)
        meter.held_rows = Held(utc("2024-06-01T02:00"), utc("2024-06-01T04:00"), 6)

        answer = await by_offset(meter, "2024-06-01T08:00:00", 3600)

        assert volumes(answer) == ["9", "10", "11", "12"]
        assert answer.held == Held(utc("2024-06-01T07:00"), utc("2024-06-01T10:00"), 12)

    async def test_an_archive_that_was_cleared_is_read_whole(self) -> None:
        meter = self.meter(12)
        await by_offset(meter, "2024-06-01T08:00:00", 4 * 3600)
        meter.archive = [row(n, f"2024-06-01,{n + 8:02}:00:00", str(n + 8)) for n in range(1, 6)]

        answer = await by_offset(meter, "2024-06-01T08:30:00", 4 * 3600)

        assert volumes(answer) == ["9", "10", "11", "12", "13"]
        assert answer.held == Held(utc("2024-06-01T04:30"), utc("2024-06-01T11:00"), 5)

    async def test_rows_after_the_clock_was_put_back_are_not_overlooked(self) -> None:
        meter = self.meter(10)
        await by_offset(meter, "2024-06-01T08:00:00", 4 * 3600)
        meter.archive += [row(11, "2024-06-01,08:30:00", event="0x8203"), row(12, "2024-06-01,09:00:00")]

        answer = await by_offset(meter, "2024-06-01T08:30:00", 4 * 3600)

        assert volumes(answer) == ["11", "12"]
        assert answer.held == Held(utc("2024-06-01T04:00"), utc("2024-06-01T07:00"), 12)

    async def test_a_meter_that_compares_no_numbers_is_asked_by_time(self) -> None:
        meter = self.meter(10)
        meter.compares_numbers = False
        await by_offset(meter, "2024-06-01T08:00:00", 4 * 3600)
        meter.archive = self.meter(12).archive

        answer = await by_offset(meter, "2024-06-01T10:00:00", 4 * 3600)

        assert volumes(answer) == ["11", "12"]
        assert meter.asked[-1] == (TIME, "2024-06-01,10:00:00", "")

    async def test_numbers_that_begin_again_are_not_overlooked(self) -> None:
        meter = ScriptedMeter(rows=[row(65534 + n, f"2024-06-01,{9 + n:02}:00:00", str(9 + n)) for n in range(2)])
        await by_offset(meter, "2024-06-01T08:00:00", 4 * 3600)
        meter.archive += [row(n, f"2024-06-01,{11 + n:02}:00:00", str(11 + n)) for n in range(2)]

        answer = await by_offset(meter, "2024-06-01T09:30:00", 4 * 3600)

        assert volumes(answer) == ["11", "12"]

    async def test_a_tc_is_known_by_its_only_number(self) -> None:
        layout = Layout(LAYOUT.sources[1:], LAYOUT.names[1:], LAYOUT.units[1:])
        meter = ScriptedMeter(
            rows=[row(hour, f"2024-06-01,{hour:02}:00:00")[1:] for hour in range(9, 13)], layout=layout
        )
        at = utc("2024-06-01T08:00:00")
        kwargs = {"offset_seconds": 3600, "archive_number": 3, "control_position": 2}

        answer = await call(_TimeSecond(meter), "read_archive_by_offset_seconds", Moment(at, at), **kwargs)

        assert volumes(answer) == ["9", "10", "11", "12"]
        assert answer.held == Held(utc("2024-06-01T07:00"), utc("2024-06-01T10:00"), 12)

    async def test_hour_by_hour_through_the_autumn_change_every_row_comes_once(self) -> None:
        quarter = dt.timedelta(minutes=15)
        instants = [utc("2024-10-26T22:00") + quarter * n for n in range(32)]
        everything = [
            row(n, local_time(BERLIN, instant).strftime("%Y-%m-%d,%H:%M:%S")) for n, instant in enumerate(instants)
        ]
        meter = ScriptedMeter()
        got: list[dt.datetime] = []
        for n in range(len(instants)):
            meter.archive = everything[: n + 1]
            got += stamps(await by_offset(meter, instants[n].isoformat()[:19], 6 * 3600))

        assert got == instants
        assert {position for position, _, _ in meter.asked[1:]} == {NUMBER}


class _TimeSecond(ScriptedMeter):
    """A meter whose rows have one number, so that the time stands in position 2."""

    def __init__(self, other: ScriptedMeter) -> None:
        super().__init__(other.zone, other.archive, other.columns)

    @staticmethod
    def _within(text: str, start: str, end: str, position: int) -> bool:
        return ScriptedMeter._within(text, start, end, position + 1)


class TestSinceLast:
    def meter(self, through: int) -> ScriptedMeter:
        return ScriptedMeter(rows=[row(hour, f"2024-06-01,{hour:02}:00:00") for hour in range(1, through + 1)])

    async def since_last(self, meter: ScriptedMeter, **kwargs: int) -> Answer:
        answer = await call(meter, "read_archive_since_last", None, archive_number=3, **kwargs)
        meter.held_rows = answer.held
        return answer

    async def test_the_first_time_the_whole_archive_comes_then_only_what_is_new(self) -> None:
        meter = self.meter(5)
        first = await self.since_last(meter)
        meter.archive = self.meter(7).archive
        second = await self.since_last(meter)
        third = await self.since_last(meter)

        assert volumes(first) == ["1", "2", "3", "4", "5"]
        assert meter.asked[0] == (TIME, "", "")
        assert volumes(second) == ["6", "7"]
        assert meter.asked[1] == (NUMBER, "5", "")
        assert volumes(third) == []
        assert third.held == Held(utc("1970-01-01T00:00"), utc("2024-06-01T05:00"), 7)

    async def test_the_first_time_may_be_bounded(self) -> None:
        meter = self.meter(12)

        answer = await self.since_last(meter, offset_seconds=3 * 3600, control_position=3)

        # The tick is 14:00 in Berlin.
        assert volumes(answer) == ["11", "12"]
        assert answer.held == Held(utc("2024-06-01T09:00"), utc("2024-06-01T10:00"), 12)

    async def test_where_the_last_held_row_was_overwritten_the_rest_is_read_by_time(self) -> None:
        meter = self.meter(12)
        meter.held_rows = Held(utc("2024-05-01T00:00"), utc("2024-05-31T00:00"), 1)
        meter.archive = meter.archive[4:]

        answer = await self.since_last(meter, offset_seconds=3600)

        assert volumes(answer) == [str(hour) for hour in range(5, 13)]
        assert answer.held == Held(utc("2024-05-01T00:00"), utc("2024-06-01T10:00"), 12)

    async def test_a_position_that_is_not_the_time_is_named(self) -> None:
        with pytest.raises(CallError, match="control_position"):
            await self.since_last(self.meter(1), control_position=2)

    async def test_an_empty_archive_holds_nothing(self) -> None:
        answer = await self.since_last(ScriptedMeter())

        assert (answer.archive, answer.held, list(answer.values)) == (3, None, [])


class TestEvents:
    LOG = Layout(("1:1F8", "4:A20", "1:400", "4:A22", ""), ("GONr", "AONr", "Zeit", "Er", "Check"), ("",) * 5)

    def meter(self, model: str, *codes: str) -> ScriptedMeter:
        rows = [[str(n), str(n), f"2024-06-01,0{n}:00:00", code, "CRC Ok"] for n, code in enumerate(codes, 1)]
        meter = ScriptedMeter(rows=rows)
        meter.model, meter.log_columns = model, self.LOG
        return meter

    @pytest.mark.parametrize(("model", "archive", "title"), [
        ("EK280", 4, "power warning limits: appeared"),
        ("TC220", 4, "power warning limits: appeared"),
        ("DL220", 10, "warning limit of channel 1: appeared"),
    ])  # fmt: skip
    async def test_the_log_book_of_the_meter_is_read_and_only_once(self, model: str, archive: int, title: str) -> None:
        meter = self.meter(model, "0x8103", "0x2501")

        first = await call(meter, "read_events")
        meter.held_rows = first.held
        second = await call(meter, "read_events")

        assert set(meter.archives) == {archive}
        assert first.archive == archive
        assert [(event.code, event.title) for event in first.events] == [("0x8103", "day boundary"), ("0x2501", title)]
        assert not first.values
        assert not second.events

    async def test_an_archive_with_values_is_refused_because_they_would_be_lost(self) -> None:
        meter = ScriptedMeter(rows=[row(6, "2024-06-01,06:00:00")])

        with pytest.raises(CallError, match="archive 3 of this meter holds measured values"):
            await call(meter, "read_events", archive_number=3)


class TestSeveralValues:
    async def test_what_was_read_before_the_line_went_down_is_kept(self) -> None:
        meter = ScriptedMeter()
        meter.objects = {"2:300.0": ["12*m3"], "7:310.0": ["1.01* bar"]}
        meter.fails_at = {"7:310.0": LineFailure("the line is gone")}

        answer = await call(meter, "read_values", addresses=["2:300", "7:310", "6:310_1"])

        assert [(value.series, str(value.value)) for value in answer.values] == [("2:300", "12")]
        assert answer.problems == ["7:310: the line is gone; 2 of 3 objects were not read"]
        assert answer.ended_by is meter.fails_at["7:310.0"]

    async def test_each_value_is_judged_by_itself(self) -> None:
        meter = ScriptedMeter()
        meter.objects = {
            "2:300.0": ["12*m3"], "7:310.0": ["NaN*bar"], "6:310_1.0": ["9.5*{C"], "1:181.0": ["EK 280"],
            "6:110.0": ["6;13"],
        }  # fmt: skip
        meter.refused = {"4:300.0": 18}
        meter.seconds_per_exchange = 1.5
        addresses = ["2:300", "4:300", "7:310", "6:310_1", "1:181", "6:110"]

        answer = await call(meter, "read_values", addresses=addresses)

        assert [(value.series, str(value.value)) for value in answer.values] == [("2:300", "12"), ("6:310_1", "9.5")]
        assert [value.answered for value in answer.values] == [
            utc("2024-06-01T12:00:01.5"),
            utc("2024-06-01T12:00:04.5"),
        ]
        assert len(answer.problems) == 2
        assert "4:300: the meter refused with #0018" in answer.problems[0]
        assert "'NaN'" in answer.problems[1]
        told = answer.result["values"]
        assert [one["address"] for one in told] == addresses
        assert told[4]["text"] == "EK 280"
        assert told[5]["messages"] == [
            {"message": 6, "severity": "warning", "meaning": "T warning limits"},
            {"message": 13, "severity": "report", "meaning": "message 13 in status 6"},
        ]

    async def test_who_the_meter_is(self) -> None:
        meter = ScriptedMeter()
        meter.objects = {"1:180.0": ["00401122"], "1:181.0": ["EK 280"], "2:190.0": ["1.20"], "2:404.0": ["70*M"]}
        meter.refused = {"3:180.0": 18}

        answer = await call(meter, "read_identity")

        assert answer.result == {
            "identification": "EK280", "serial_number": "00401122", "type": "EK 280", "software_version": "1.20",
            "battery_months": "70",
        }  # fmt: skip
        assert len(answer.problems) == 1
        assert "station_number (3:180)" in answer.problems[0]

    @pytest.mark.parametrize(("model", "meaning"), [("EK280", "input 1 (encoder) error"), ("DL210", "encoder 1 error")])
    async def test_a_state_is_told_with_its_meaning(self, model: str, meaning: str) -> None:
        meter = ScriptedMeter()
        meter.model = model
        meter.objects = {"1:110.0": ["2"], "2:100.0": ["15;16"]}

        state = (await call(meter, "read_single_value", address="1:110")).result["messages"]
        system = (await call(meter, "read_single_value", address="2:100")).result["messages"]

        assert state == [{"message": 2, "severity": "alarm", "meaning": meaning}]
        assert [one["meaning"] for one in system] == ["battery operation", "summer time"]


class TestSetTime:
    NOW = utc("2024-06-01T12:20:00")

    def meter(self, shown: str, gateway: dt.datetime = NOW, *, period: str = "60*min") -> ScriptedMeter:
        meter = ScriptedMeter()
        meter.gateway = gateway
        meter.objects = {"1:400.0": [shown], "4:150.0": [period], "2:141.0": ["06:00"]}
        return meter

    async def test_the_clock_is_set_in_the_meters_zone(self) -> None:
        meter = self.meter("2024-06-01,14:21:30")

        answer = await call(meter, "set_time")

        assert meter.written == [("1:0400.0", "2024-06-01,14:20:00")]
        assert answer.result == {
            "before": "2024-06-01T12:21:30+00:00",
            "after": "2024-06-01T12:20:00+00:00",
            "drift_seconds": 90.0,
            "remaining_seconds": 0.0,
            "set": True,
        }
        assert not answer.problems

    @pytest.mark.parametrize(
        ("shown", "allowed", "writes"),
        [("14:20:05", None, 0), ("14:20:06", None, 1), ("14:19:55", None, 0), ("14:19:54", None, 1),
         ("14:20:06", 60, 0), ("14:20:01", 0, 1)],
    )  # fmt: skip
    async def test_within_the_allowed_drift_nothing_is_done(self, shown: str, allowed: int | None, writes: int) -> None:
        meter = self.meter(f"2024-06-01,{shown}")
        before = list(meter.objects["1:400.0"])

        answer = await call(meter, "set_time", None, **({} if allowed is None else {"allowed_drift_seconds": allowed}))

        assert len(meter.written) == writes
        assert answer.result["set"] is bool(writes)
        assert writes or meter.objects["1:400.0"] == before
        assert answer.result["drift_seconds"] != 0

    @pytest.mark.parametrize(
        ("shown", "gateway", "period", "why"),
        [
            ("14:00:40", "12:00:10", "60*min", "a measuring period ends at 14:00"),
            ("13:59:10", "11:59:40", "60*min", "a measuring period ends at 14:00"),
            ("14:05:00", "11:55:00", "60*min", "a measuring period ends at 14:00"),
            ("14:14:50", "12:14:00", "15*min", "a measuring period ends at 14:15"),
            ("06:10:00", "04:10:40", "1440*min", None),
            ("05:59:50", "03:59:00", "1440*min", "a gas day ends at 06:00"),
            ("14:10:00", "12:20:00", "60*min", None),
            ("08:20:00", "12:20:00", "60*min", None),
        ],
    )
    async def test_around_the_end_of_a_period_it_is_refused_unless_forced(
        self, shown: str, gateway: str, period: str, why: str | None
    ) -> None:
        meter = self.meter(f"2024-06-01,{shown}", utc(f"2024-06-01T{gateway}"), period=period)

        if why is not None:
            with pytest.raises(CallError, match=why):
                await call(meter, "set_time")
            assert not meter.written
            await call(meter, "set_time", force=True)
        else:
            await call(meter, "set_time")
        assert len(meter.written) == 1

    @pytest.mark.parametrize("gateway", ["2024-10-27T00:20:00", "2024-10-27T01:40:00", "2024-03-31T00:20:00"])
    async def test_around_a_change_of_summer_time_it_is_refused_unless_forced(self, gateway: str) -> None:
        now = utc(gateway)
        meter = self.meter((local_time(BERLIN, now) - dt.timedelta(seconds=20)).strftime("%Y-%m-%d,%H:%M:%S"), now)

        with pytest.raises(CallError, match="summer time is within an hour"):
            await call(meter, "set_time")
        await call(meter, "set_time", force=True)

        assert len(meter.written) == 1

    async def test_a_logger_has_its_period_at_its_channel(self) -> None:
        meter = self.meter("2024-06-01,14:14:50", utc("2024-06-01T12:14:00"))
        meter.model = "DL220"
        meter.objects["5:150.0"] = ["15*min"]

        with pytest.raises(CallError, match="14:15"):
            await call(meter, "set_time")

    async def test_the_lines_delay_is_added(self) -> None:
        meter = self.meter("2024-06-01,14:30:00")
        meter.seconds_per_character = 1 / 30
        meter.seconds_per_exchange = 47 / 30 + 0.4  # the meter's reaction time and ours behind the answer

        answer = await call(meter, "set_time", force=True)

        # Asked at 14:20:00 and 14:30:00 shown when 16 characters had come; read by 14:20:01.97, 35 on the way.
        assert answer.result["drift_seconds"] == pytest.approx(600 - 16 / 30, abs=0.001)
        assert meter.written == [("1:0400.0", "2024-06-01,14:20:03")]

    async def test_how_often_a_read_was_repeated_does_not_delay_the_write(self) -> None:
        meter = self.meter("2024-06-01,14:30:00")
        meter.seconds_per_character = 1 / 960
        meter.reads_take = [3.0, 0.1]  # the first was asked twice

        answer = await call(meter, "set_time", force=True)

        assert answer.result["drift_seconds"] == pytest.approx(597, abs=0.1)
        assert meter.written == [("1:0400.0", "2024-06-01,14:20:03")]

    async def test_a_long_way_to_the_meter_is_half_of_the_time_that_a_read_takes(self) -> None:
        meter = self.meter("2024-06-01,14:30:00")
        meter.seconds_per_exchange = 4.0

        await call(meter, "set_time", force=True)

        # Three reads in 12 s, none quick; the write arrives 2 s later.
        assert meter.written == [("1:0400.0", "2024-06-01,14:20:14")]

    async def test_a_locked_clock_is_told_with_before_and_drift(self) -> None:
        meter = self.meter("2024-06-01,14:21:30")
        meter.refused = {"1:0400.0": 19}

        answer = await call(meter, "set_time")

        assert answer.result["drift_seconds"] == 90.0
        assert answer.result["set"] is False
        assert "#0019" in answer.problems[0]
        assert "3, supplier" in answer.problems[0]

    async def test_a_clock_that_takes_another_time_is_a_problem(self) -> None:
        meter = _StubbornClock(rows=[])
        meter.gateway, meter.objects = self.NOW, {"1:400.0": ["2024-06-01,14:21:30"]}

        answer = await call(meter, "set_time")

        assert answer.result["set"] is True
        assert "was set, but shows 2024-06-01T12:21:30+00:00 afterwards" in answer.problems[0]

    async def test_an_unbelieved_clock_does_not_spread(self) -> None:
        meter = self.meter("2024-06-01,14:21:30")
        at = meter.gateway

        with pytest.raises(CallError, match="not confirmed, nothing was set"):
            await call(meter, "set_time", Moment(at, at, clock_believed=False), force=True)

        assert meter.written == []

    async def test_in_the_repeated_hour_the_drift_is_not_an_hour(self) -> None:
        meter = self.meter("2024-10-27,02:30:05", utc("2024-10-27T01:30:00"))

        assert (await call(meter, "set_time")).result["drift_seconds"] == 5.0


class _StubbornClock(ScriptedMeter):
    async def write(self, address: str, value: str) -> None:
        self.written.append((address, value))


async def test_values_are_decimals_never_floats() -> None:
    meter = ScriptedMeter(rows=[row(1, "2024-06-01,06:00:00", "0.1000")])

    for value in (await by_date(meter, "2024-06-01")).values:
        assert type(value.value) is Decimal
        assert dataclasses.replace(value) == value
