"""P1 telegrams: real ones with their own CRCs, in any pieces, damaged, flooding, over the clock change."""

import datetime as dt
import pathlib
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receivers.catalogue import check_receiver, find_receiver
from receivers.p1_telegrams import crc16
from receivers.receiver import MAX_BUFFER, Arrival, Decoder, Intake, KnownMeter, Meters, Pushed, Undecodable

FOLDER = pathlib.Path(__file__).parent / "transcripts" / "dsmr_p1"
REAL = sorted(path.name for path in FOLDER.iterdir() if path.name != "ORIGIN.md")
AT = dt.datetime(2026, 11, 22, 6, 0, tzinfo=dt.UTC)
AMSTERDAM = ZoneInfo("Europe/Amsterdam")


def real(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def intake(kept: bytes = b"", meters: Meters | None = None, **kwargs: object) -> Intake:
    typed = check_receiver("dsmr_p1", "/dev/ttyUSB0", {"checksum": "optional"} | kwargs)
    return find_receiver("dsmr_p1").open(typed, meters or Meters(), kept)


def decoder(**kwargs: object) -> Decoder:
    return intake(b"", None, **kwargs).connection()


def pushed(arrivals: list[Arrival]) -> list[tuple[str, str, str, str, dt.datetime | None]]:
    assert not [arrival for arrival in arrivals if isinstance(arrival, Undecodable)]
    return [
        (one.meter, one.series, str(one.value), one.unit, one.timestamp) for one in arrivals if isinstance(one, Pushed)
    ]


def causes(arrivals: list[Arrival]) -> list[str]:
    return [arrival.cause for arrival in arrivals if isinstance(arrival, Undecodable)]


def telegram(time: str, energy: str = "000100.000", *, gas: str = "", equipment: str = "4B384547") -> bytes:
    """A telegram made here, with the CRC that it must have."""
    lines = ["/ISk5\\2MT382-1000", "", f"0-0:1.0.0({time})", f"0-0:96.1.1({equipment})", f"1-0:1.8.1({energy}*kWh)"]
    content = "\r\n".join([*lines, *([gas] if gas else []), "!"]).encode()
    return content + f"{crc16(content):04X}\r\n".encode()


def test_the_registers_have_the_telegrams_time_and_the_gas_meter_its_own() -> None:
    found = pushed(decoder().receive(real("dsmr-5.0-standard"), AT))
    said = dt.datetime(2017, 1, 2, 18, 20, 2, tzinfo=dt.UTC)
    assert found == [
        ("K8EG004046395507", "1-0:1.8.1", "4.426", "kWh", said),
        ("K8EG004046395507", "1-0:1.8.2", "2.399", "kWh", said),
        ("K8EG004046395507", "1-0:2.8.1", "2.444", "kWh", said),
        ("K8EG004046395507", "1-0:2.8.2", "0.000", "kWh", said),
        ("2222ABCD123456789", "24.2.1", "0.107", "m3", dt.datetime(2017, 1, 2, 15, 10, 5, tzinfo=dt.UTC)),
    ]


def test_several_meters_on_the_bus_are_known_by_their_ids() -> None:
    found = pushed(decoder().receive(real("emucs-fluvius-gas-water"), AT))
    assert found[-2:] == [
        ("8SET0000837964", "24.2.1", "3.830", "m3", dt.datetime(2023, 4, 21, 14, 51, 2, tzinfo=dt.UTC)),
        ("7FLO2123015189", "24.2.3", "107.812", "m3", dt.datetime(2023, 4, 21, 14, 49, 59, tzinfo=dt.UTC)),
    ]


def test_a_swedish_meter_keeps_winter_time_all_year_and_writes_units_its_own_way() -> None:
    house = Meters([KnownMeter("", "house", ZoneInfo("Europe/Stockholm"))])
    found = pushed(intake(b"", house).connection().receive(real("hanporten-aidon"), AT))
    october = dt.datetime(2020, 10, 20, 7, 52, 22, tzinfo=dt.UTC)
    assert found[::3] == [("", "1-0:1.8.0", "1605.055", "kWh", october), ("", "1-0:4.8.0", "185.707", "kvarh", october)]
    found = pushed(intake(b"", house).connection().receive(real("hanporten-landis-gyr-e360"), AT))
    assert [row[1:4] for row in found] == [
        ("1-0:1.8.0", "10501.076", "kWh"),
        ("1-0:2.8.0", "0.000", "kWh"),
        ("1-0:3.8.0", "1761.087", "kvarh"),
        ("1-0:4.8.0", "8.391", "kvarh"),
    ]


def test_an_old_telegram_has_no_crc_and_is_taken_where_that_is_allowed() -> None:
    found = pushed(decoder().receive(real("dsmr-2.2"), dt.datetime(2016, 11, 7, 18, 1, tzinfo=dt.UTC)))
    assert [row[1:3] for row in found] == [
        ("1-0:1.8.1", "1.001"),
        ("1-0:1.8.2", "1.001"),
        ("1-0:2.8.1", "1.001"),
        ("1-0:2.8.2", "1.001"),
        ("24.2.1", "1.001"),
    ]
    assert found[0][4] is None, "no time in the telegram: the gateway's"
    assert found[-1][4] == dt.datetime(2016, 11, 7, 18, 0, tzinfo=dt.UTC)
    assert "checksum: optional" in causes(decoder(checksum="required").receive(real("dsmr-2.2"), AT))[0]


@pytest.mark.parametrize("name", REAL)
def test_every_real_telegram_is_read_and_a_changed_one_is_not(name: str) -> None:
    whole = real(name)
    found = decoder().receive(whole, AT)
    assert found
    assert not causes(found)
    if whole.rstrip()[-1:] != b"!":
        at = whole.index(b":1.8.") + 13
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert causes(decoder().receive(changed, AT)) == [
            f"its CRC is not {whole.rstrip()[-4:].decode().upper()}: damaged on the way"
        ]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 200), max_size=40), st.booleans())
def test_pieces_of_any_size_bring_the_same(sizes: list[int], even: bool) -> None:  # noqa: FBT001 - hypothesis
    stream = b"".join(real(name) for name in REAL)
    if even:
        stream = bytes(byte | (byte.bit_count() & 1) << 7 for byte in stream)
    expected = pushed(decoder(raster=None).receive(b"".join(real(name) for name in REAL), AT))
    one, found, at = decoder(raster=None), list[Arrival](), 0
    for size in [*sizes, len(stream)]:
        found += one.receive(stream[at : at + size], AT)
        at += size
    assert pushed([*found, *one.end(AT)]) == expected


@settings(max_examples=150)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_whatever_comes_nothing_raises_and_the_next_telegram_is_found(junk: bytes, more: bytes) -> None:
    one = decoder(raster=None)
    one.receive(junk, AT)
    one.receive(more, AT)
    one.end(AT)
    assert len(pushed(one.receive(real("dsmr-5.0-standard"), AT))) == 5


def test_a_stream_may_begin_in_the_middle_and_a_cut_telegram_costs_itself() -> None:
    whole = real("esmr-5.0-iskra")
    one = decoder(raster=None)
    assert len(pushed(one.receive(whole[300:] + whole, AT))) == 4
    found = one.receive(whole[:300] + whole, AT)
    assert causes(found) == ["the telegram was cut: another one began"]
    assert len(found) == 5
    one.receive(whole[:200], AT)
    assert causes(one.end(AT)) == ["the telegram was cut: it has no end"]


def test_a_telegram_without_an_end_does_not_fill_the_memory() -> None:
    one = decoder()
    found = [arrival for _ in range(40) for arrival in one.receive(b"/" + b"x" * 10_000 + b"\r\n", AT)]
    assert causes(found) == [f"no telegram ended within {MAX_BUFFER} bytes"] * len(found)
    assert 3 <= len(found) <= 12
    assert len(pushed(one.receive(real("dsmr-5.0-standard"), AT)[1:])) == 5


def test_of_each_slot_the_first_telegram_is_taken_and_keeps_its_own_time() -> None:
    opened = intake(raster="quarter_hour")
    one = opened.connection()
    found = [
        pushed(one.receive(telegram(f"260302{hour:02}{minute:02}{second:02}W"), AT))
        for hour in (6, 7)
        for minute in range(0, 60, 5)
        for second in (3, 13)
    ]
    taken = [rows[0][4] for rows in found if rows]
    assert taken == [
        dt.datetime(2026, 3, 2, hour, minute, 3, tzinfo=dt.UTC) for hour in (5, 6) for minute in (0, 15, 30, 45)
    ]
    assert opened.superfluous == 48 - 8


def test_a_gas_value_is_taken_when_it_changes_slot_not_when_the_telegram_does() -> None:
    one = decoder(raster="hour")
    gas = "0-1:96.1.0(47303031)\r\n0-1:24.2.1({}W)(00{}.000*m3)"
    found = [
        pushed(one.receive(telegram(f"2603020{time}W", gas=gas.format(stamp, volume)), AT))
        for time, stamp, volume in (
            ("65900", "260302060000", 100),
            ("70002", "260302060000", 100),
            ("70300", "260302070000", 101),
            ("70310", "260302070000", 101),
        )
    ]
    assert [[row[0] for row in rows] for rows in found] == [["K8EG", "G001"], ["K8EG"], ["G001"], []]
    assert found[2][0][2:] == ("101.000", "m3", dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC))


def test_a_telegram_that_was_overtaken_is_late_and_a_clock_that_was_put_back_begins_anew() -> None:
    one = decoder(raster="quarter_hour")
    times = ["061500", "061450", "061510", "063001", "062955", "063011", "050007", "050017", "051503"]
    found = [pushed(one.receive(telegram(f"260302{time}W"), AT)) for time in times]
    assert [time for time, rows in zip(times, found, strict=True) if rows] == ["061500", "063001", "050007", "051503"]


def test_what_was_taken_survives_a_restart_and_another_raster_begins_anew() -> None:
    first = intake(raster="hour")
    assert first.connection().receive(telegram("260302060003W"), AT)
    assert intake(first.kept(), raster="hour").connection().receive(telegram("260302063000W"), AT) == []
    assert intake(first.kept(), raster="quarter_hour").connection().receive(telegram("260302063000W"), AT)
    assert intake(b"\xc1 what is this", raster="hour").connection().receive(telegram("260302063000W"), AT)


def test_the_meters_own_word_on_summer_time_counts_in_the_repeated_hour() -> None:
    one = decoder(raster="quarter_hour")
    times = ["251026024500S", "251026020000W", "251026021500W"]
    found = [pushed(one.receive(telegram(time), AT))[0][4] for time in times]
    assert found == [
        dt.datetime(2025, 10, 26, 0, 45, tzinfo=dt.UTC),
        dt.datetime(2025, 10, 26, 1, 0, tzinfo=dt.UTC),
        dt.datetime(2025, 10, 26, 1, 15, tzinfo=dt.UTC),
    ]


def test_the_zone_is_that_of_the_meter_in_the_plan() -> None:
    meters = Meters([KnownMeter("k8eg", "m-1", ZoneInfo("Atlantic/Azores"))])
    found = pushed(intake(meters=meters).connection().receive(telegram("260702060000S"), AT))
    assert found[0][4] == dt.datetime(2026, 7, 2, 6, 0, tzinfo=dt.UTC)


def test_only_named_registers_are_taken_and_a_peak_has_its_own_time() -> None:
    found = pushed(decoder(registers=["1.6.0", "1-0:32.7.0"]).receive(real("emucs-fluvius-gas-water"), AT))
    assert [row[1:] for row in found[:2]] == [
        ("1-0:1.6.0", "4.509", "kW", dt.datetime(2023, 4, 11, 20, 30, tzinfo=dt.UTC)),
        ("1-0:32.7.0", "245.3", "V", dt.datetime(2023, 4, 21, 14, 53, 28, tzinfo=dt.UTC)),
    ]


def test_how_far_the_meters_clock_is_off_is_told() -> None:
    (one,) = decoder().receive(telegram("261122070130W"), AT)
    assert isinstance(one, Pushed)
    assert one.clock_offset == 90.0


def test_a_value_that_is_none_costs_itself() -> None:
    gas = "0-1:96.1.0(47303031)\r\n0-1:24.2.1(632525252525W)(00000.000*m3)"
    found = decoder().receive(telegram("260302060003W", gas=gas), AT)
    assert isinstance(found[0], Pushed)
    assert [(one.meter, one.payload) for one in found if isinstance(one, Undecodable)] == [
        ("G001", b"24.2.1(632525252525W)(00000.000*m3)")
    ]


def test_values_stay_exact() -> None:
    (one,) = decoder().receive(telegram("260302060003W", "123456789.120"), AT)
    assert isinstance(one, Pushed)
    assert one.value == Decimal("123456789.120")
    assert str(one.value) == "123456789.120"
