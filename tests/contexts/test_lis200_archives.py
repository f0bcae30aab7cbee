"""Which rows the archive calls ask for, by date, by offset and since the last one, and what they make of them."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.catalogue import CallError
from contexts.lis200_columns import LayoutError
from contexts.lis200_times import local_time
from contexts.meters import Answer, Held, Layout, Moment
from protocol.iec62056 import MeterRefusal
from protocol.iec62056.lis200 import parse_groups
from tests.contexts.scripted_meters import (
    BERLIN,
    LAYOUT,
    NUMBER,
    TIME,
    ScriptedMeter,
    by_date,
    by_offset,
    call,
    row,
    stamps,
    utc,
    volumes,
)


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
        assert answer.result["rows"] == 0
        assert f"#{refusal:04}" in answer.result["answer"]

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
        # That nothing more is asked was said of either.
        assert meter.enough_after == [1, 2]

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

    async def test_rows_of_an_archive_that_has_gone_round_since_come_once(self) -> None:
        meter = self.meter(5)
        await by_offset(meter, "2024-06-01T03:00:00", 3600)
        meter.archive = self.meter(12).archive[6:]
        meter.asked.clear()

        answer = await by_offset(meter, "2024-06-01T10:00:00", 3600, since="2024-06-01T04:00:00")

        assert volumes(answer) == ["7", "8", "9", "10", "11", "12"]
        assert [start for position, start, _ in meter.asked if position == TIME] == ["2024-06-01,12:00:00"]

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
        # Only where new rows came is nothing else asked: with none behind the last held one, the times tell.
        assert meter.enough_after == [1, 2]
        assert len(meter.asked) == 4

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
        # No row comes twice but the last one: that there is nothing else since then is asked by time.
        assert meter.asked == [(NUMBER, "1", ""), (TIME, "2024-06-01,12:00:00", "")]
        assert meter.enough_after == [len(meter.asked)]

    async def test_numbers_that_began_again_in_an_archive_that_has_gone_round_are_not_overlooked(self) -> None:
        rows = [row(65533 + n, f"2024-06-01,{8 + n:02}:00:00", str(8 + n)) for n in range(3)]
        meter = ScriptedMeter(rows=[*rows, *(row(n, f"2024-06-01,{11 + n:02}:00:00", str(11 + n)) for n in range(3))])
        meter.held_rows = Held(utc("2024-05-01T00:00"), utc("2024-05-31T00:00"), 65500)

        answer = await self.since_last(meter, offset_seconds=3600)

        assert volumes(answer) == ["8", "9", "10", "11", "12", "13"]

    async def test_an_archive_whose_rows_are_all_older_by_the_clock_is_read_by_time(self) -> None:
        meter = self.meter(12)
        meter.held_rows = Held(utc("2024-05-01T00:00"), utc("2024-06-01T06:00"), 1)
        meter.archive = meter.archive[4:]

        answer = await self.since_last(meter, offset_seconds=3600)

        assert volumes(answer) == ["8", "9", "10", "11", "12"]

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
