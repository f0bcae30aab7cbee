"""The objects that more than one source of the LIS-200 fact sheet 4 knows: what a single read makes of each."""

import pytest

from tests.contexts.scripted_meters import ScriptedMeter, call

TOTALS = ("2:300", "2:301", "2:302", "4:300", "4:301", "4:302")
MEASURED = {
    "1:210": "1.5*m3|h",
    "2:310": "1.5*m3|h",
    "4:310": "0.25*m3/h",
    "5:310": "0.92596",
    "6:310_1": "-4.5*{C",
    "7:310": "1.01805* bar",
    "8:310": "1.0006",
    "6:311": "15.00*{C",
    "7:311": "1.01325* bar",
    "8:311": "1",
    "3:161": "17.5*m3",
    "2:404": "61*M",
    "2:777": "57*%",
}
NO_READINGS = {
    "1:180": "4711",
    "1:181": "EK 280",
    "2:190": "1.20",
    "4:170": "1",
    "1:400": "2025-03-12,10:30:10",
    "1:100": "13;15",
    "2:100": "16",
    "2:110": "0",
    "3:A32": "161",
    "2:141": "06:00",
}
ADDRESSES = [*TOTALS, *MEASURED, *NO_READINGS]


async def read(address: str, group: str) -> tuple[list[str], dict[str, object]]:
    meter = ScriptedMeter()
    meter.objects = {f"{address}.0": [group], f"{address}.1": ["0xAF"]}
    answer = await call(meter, "read_single_value", address=address)
    return [f"{value.series} {value.value} {value.unit}" for value in answer.values], dict(answer.result)


@pytest.mark.parametrize("address", TOTALS)
async def test_a_volume_is_a_reading_in_the_series_of_its_address(address: str) -> None:
    values, _ = await read(address, "000144076.2083*m3")
    assert values == [f"{address} 144076.2083 m3"]


@pytest.mark.parametrize("address", MEASURED)
async def test_a_measured_value_is_a_reading_with_its_unit_in_plain_words(address: str) -> None:
    text, _, unit = MEASURED[address].partition("*")
    values, _ = await read(address, MEASURED[address])
    assert values == [f"{address} {text} {unit.replace('{', '°').replace('|', '/').strip()}"]


@pytest.mark.parametrize("address", NO_READINGS)
async def test_an_identity_a_state_a_lock_and_a_time_are_told_and_are_no_readings(address: str) -> None:
    values, result = await read(address, NO_READINGS[address])
    assert values == []
    assert result["text"] == NO_READINGS[address]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_access_rights_are_told_as_the_meter_writes_them(address: str) -> None:
    meter = ScriptedMeter()
    meter.objects = {f"{address}.1": ["0xAF"]}
    answer = await call(meter, "read_single_value", address=f"{address}.1")
    assert (list(answer.values), answer.result["text"]) == ([], "0xAF")
