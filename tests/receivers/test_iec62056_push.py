"""Unasked readouts: real ones of mode D, with and without block check and parity, in any pieces, damaged."""

import datetime as dt
import pathlib
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.iec62056.characters import block_check, with_even_parity
from receivers.catalogue import check_receiver, find_receiver
from receivers.receiver import MAX_BUFFER, Arrival, Decoder, Intake, KnownMeter, Meters, Pushed, Undecodable

FOLDER = pathlib.Path(__file__).parent / "transcripts" / "iec62056_push"
REAL = sorted(path.name for path in FOLDER.iterdir() if path.name != "ORIGIN.md")
AT = dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC)


def real(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def intake(meters: Meters | None = None, **kwargs: object) -> Intake:
    typed = check_receiver("iec62056_push", "/dev/ttyUSB0", {"raster": None} | kwargs)
    return find_receiver("iec62056_push").open(typed, meters or Meters(), b"")


def decoder(**kwargs: object) -> Decoder:
    return intake(None, **kwargs).connection()


def pushed(arrivals: list[Arrival]) -> list[tuple[str, str, str, str, dt.datetime | None]]:
    assert not causes(arrivals)
    return [
        (one.meter, one.series, str(one.value), one.unit, one.timestamp) for one in arrivals if isinstance(one, Pushed)
    ]


def causes(arrivals: list[Arrival]) -> list[str]:
    return [arrival.cause for arrival in arrivals if isinstance(arrival, Undecodable)]


def block(lines: str) -> bytes:
    """Data lines as modes A and B send them: STX, lines, ``!``, ETX, block check."""
    content = lines.encode() + b"\r\n!\r\n\x03"
    return b"\x02" + content + bytes([block_check(content)])


LINES = "C.1.0(4711)\r\n1.8.0(001234.5*kWh)\r\n1.6.1(0012.50*kW)(2602171045)\r\n1.8.0*01(001200.0*kWh)\r\nF.F(00)"


def test_a_meter_of_mode_d_is_known_by_its_number_and_what_a_device_server_adds_is_no_damage() -> None:
    one = decoder()
    found = pushed(one.receive(real("easymeter-q3d-two-way") + real("easymeter-q3d"), AT))
    assert found[:2] == [
        ("0272031312565", "1-0:1.8.0*255", "52185.7825309", "kWh", None),
        ("0272031312565", "1-0:2.8.0*255", "19949.3221493", "kWh", None),
    ]
    assert ("1336001560", "1-0:1.8.0*255", "32549.5061662", "kWh", None) in found
    assert len(found) == 6 + 5
    assert one.end(AT) == []


def test_meters_of_another_maker_are_known_by_their_numbers_too() -> None:
    found = pushed(decoder().receive(real("hager-ehz") + real("hager-ehz-phases"), AT))
    assert found[:2] == [
        ("797810-5000900", "1-0:1.8.1*255", "7359.7748", "", None),
        ("797810-5000900", "1-0:2.8.1*255", "3891.0604", "", None),
    ]
    assert {row[0] for row in found[2:]} == {"1095100000053019"}
    assert [row[1:4] for row in found[-3:]] == [
        ("1-0:21.7.0*255", "0", "W"),
        ("1-0:41.7.0*255", "0", "W"),
        ("1-0:61.7.0*255", "29", "W"),
    ]


@pytest.mark.parametrize("head", [b"", b"/LGZ4ZMD310\r\n\r\n"])
@pytest.mark.parametrize("even", [True, False])
def test_a_readout_with_a_block_check_is_taken_with_and_without_its_head(head: bytes, even: bool) -> None:  # noqa: FBT001 - pytest's argument
    whole = head + block(LINES)
    found = pushed(decoder(timezone="Europe/Berlin").receive(with_even_parity(whole) if even else whole, AT))
    assert found == [
        ("4711", "1.8.0", "1234.5", "kWh", None),
        ("4711", "1.6.1", "12.50", "kW", dt.datetime(2026, 2, 17, 9, 45, tzinfo=dt.UTC)),
    ]


def test_a_wrong_block_check_or_parity_costs_that_readout() -> None:
    whole = block(LINES)
    one = decoder()
    assert causes(one.receive(whole.replace(b"1234.5", b"1234.6"), AT)) == [
        "its block check is wrong: damaged on the way"
    ]
    assert len(pushed(one.receive(whole, AT))) == 2
    even = bytearray(with_even_parity(real("easymeter-q3d").partition(b"!")[0] + b"!\r\n"))
    even[60] ^= 0x80
    assert causes(one.receive(bytes(even), AT)) == ["its parity is neither even nor unused: damaged on the way"]


def test_the_zone_of_a_peak_is_that_of_the_meter_in_the_plan() -> None:
    meters = Meters([KnownMeter("4711", "m-1", ZoneInfo("America/New_York"))])
    found = pushed(intake(meters).connection().receive(block(LINES), AT))
    assert found[1][4] == dt.datetime(2026, 2, 17, 15, 45, tzinfo=dt.UTC)


def test_only_named_registers_are_taken() -> None:
    found = pushed(decoder(registers=["1.6.1", "96.5.5"]).receive(block(LINES) + real("easymeter-q3d"), AT))
    assert [row[1:3] for row in found] == [("1.6.1", "12.50"), ("1-0:96.5.5*255", "80")]


def test_of_each_slot_the_first_readout_of_each_meter_is_taken() -> None:
    opened = intake(raster="quarter_hour")
    one = opened.connection()
    found = [
        len(one.receive(real(name).partition(b"!")[0] + b"!\r\n", AT + dt.timedelta(minutes=minute)))
        for minute in (0, 2, 14, 15)
        for name in ("easymeter-q3d", "easymeter-q3d-two-way")
    ]
    assert found == [5, 6, 0, 0, 0, 0, 5, 6]
    assert opened.superfluous == 4


def test_a_cut_readout_is_told_and_the_next_one_is_found() -> None:
    whole = real("easymeter-q3d").partition(b"!")[0] + b"!\r\n"
    one = decoder()
    assert len(pushed(one.receive(whole[100:] + whole, AT))) == 5
    assert causes(one.receive(whole[:120] + whole, AT)) == ["the readout was cut: another one began"]
    one.receive(whole[:120], AT)
    assert causes(one.end(AT)) == ["the readout was cut: it has no end"]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 120), max_size=40), st.booleans())
def test_pieces_of_any_size_bring_the_same(sizes: list[int], even: bool) -> None:  # noqa: FBT001 - hypothesis
    stream = b"".join(real(name).partition(b"!")[0] + b"!\r\n" for name in REAL) + block(LINES)
    expected = pushed(decoder().receive(stream, AT))
    if even:
        stream = with_even_parity(stream)
    one, found, at = decoder(), list[Arrival](), 0
    for size in [*sizes, len(stream)]:
        found += one.receive(stream[at : at + size], AT)
        at += size
    assert pushed([*found, *one.end(AT)]) == expected
    assert len(expected) == 26


@settings(max_examples=150)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_comes_nothing_raises_and_the_next_readout_is_found(junk: bytes, more: bytes) -> None:
    one = decoder()
    one.receive(junk, AT)
    one.receive(more, AT)
    one.end(AT)
    assert len(pushed(one.receive(block(LINES), AT))) == 2


def test_noise_without_an_end_does_not_fill_the_memory() -> None:
    one = decoder()
    found = [arrival for _ in range(200) for arrival in one.receive(b"/ABC5x\r\n1.8.0(" + b"7" * 1000, AT)]
    assert set(causes(found)) <= {
        "the readout was cut: another one began",
        f"no readout ended within {MAX_BUFFER} bytes",
    }
    one.end(AT)
    assert len(pushed(one.receive(block(LINES), AT))) == 2
