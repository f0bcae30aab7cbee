"""Single values, several of them, and who a meter is."""

import dataclasses
from decimal import Decimal

import pytest

from contexts.meters import LineFailure
from protocol.iec62056 import MeterRefusal, UnreadableValue
from tests.contexts.scripted_meters import (
    ScriptedMeter,
    by_date,
    call,
    row,
    utc,
)


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


async def test_values_are_decimals_never_floats() -> None:
    meter = ScriptedMeter(rows=[row(1, "2024-06-01,06:00:00", "0.1000")])

    for value in (await by_date(meter, "2024-06-01")).values:
        assert type(value.value) is Decimal
        assert dataclasses.replace(value) == value
