"""Readings as JSON over MQTT: exact numbers, times with a zone, and one strange reading costs one."""

import datetime as dt
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receivers.amr_um import MAX_READINGS
from receivers.catalogue import check_receiver, find_receiver
from receivers.receiver import MAX_BUFFER, MAX_CAUSE, Arrival, Meters, Pushed, ReceiverError, Undecodable

AT = dt.datetime(2026, 11, 22, 6, 0, tzinfo=dt.UTC)
GOOD = {"meter": "Heating plant", "series": "1-0:1.8.0", "timestamp": "2026-11-22T07:00:00+01:00", "value": "12.50"}


def receive(message: bytes | str | object) -> list[Arrival]:
    if not isinstance(message, bytes):
        message = (message if isinstance(message, str) else json.dumps(message)).encode()
    intake = find_receiver("amr_um").open(check_receiver("amr_um", "mqtt:others", {}), Meters(), b"")
    decoder = intake.connection()
    found = decoder.receive(message, AT)
    assert decoder.end(AT) == []
    assert intake.kept() == b""
    return found


def cause(message: bytes | str | object) -> str:
    (found,) = receive(message)
    assert isinstance(found, Undecodable)
    return found.cause


def test_one_reading_or_a_list() -> None:
    one = Pushed("Heating plant", "1-0:1.8.0", Decimal("12.50"), "", AT, AT)
    assert receive(GOOD) == [one]
    assert receive([GOOD, GOOD]) == [one, one], "what is pushed twice comes out twice"
    assert receive([]) == []
    told = receive(GOOD | {"unit": "kWh", "collected": "2026-11-22T05:59:00Z"})[0]
    assert isinstance(told, Pushed)
    assert (told.unit, told.collected) == ("kWh", AT - dt.timedelta(minutes=1))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"0.100000000000000005"', "0.100000000000000005"),
        ("0.100000000000000005", "0.100000000000000005"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("1e3", "1E+3"),
        ('"-0.10"', "-0.10"),
    ],
)
def test_numbers_keep_their_digits(text: str, value: str) -> None:
    (found,) = receive(json.dumps(GOOD | {"value": "VALUE"}).replace('"VALUE"', text))
    assert isinstance(found, Pushed)
    assert str(found.value) == value


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"value": "NaN"}, "finite"),
        ({"value": "1e400000"}, "exponent"),
        ({"value": "1" * 39}, "digits"),
        ({"value": True}, "bool"),
        ({"value": None}, "null"),
        ({"value": "12,5"}, "value"),
        ({"timestamp": "2026-11-22T07:00:00"}, "timezone"),
        ({"timestamp": 1_763_791_200}, "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00+01:00"}, "UTC"),
        ({"meter": ""}, "meter"),
        ({"meter": "x" * 51}, "meter"),
        ({"series": "a\0b"}, "series"),
        ({"unit": "m\n3"}, "unit"),
        ({"organization": "me"}, "organization"),
    ],
)
def test_one_strange_reading_costs_one(change: dict[str, object], word: str) -> None:
    strange = GOOD | change
    assert word in cause(strange)
    found = receive([GOOD, strange, GOOD])
    assert [type(arrival) for arrival in found] == [Pushed, Undecodable, Pushed]


def test_a_field_that_is_missing_is_named() -> None:
    assert "timestamp" in cause({name: value for name, value in GOOD.items() if name != "timestamp"})


@pytest.mark.parametrize("message", [b"", b"{", b"[{]", b"\xff\xfe", b"5", b'"x"', b"[" * 100_000])
def test_what_is_no_reading_is_set_aside_whole(message: bytes) -> None:
    (found,) = receive(message)
    assert isinstance(found, Undecodable)
    assert found.payload == message


def test_messages_are_bounded() -> None:
    assert str(MAX_READINGS) in cause(b"[" + b",".join([b"0"] * (MAX_READINGS + 1)) + b"]")
    assert str(MAX_BUFFER) in cause(b" " * (MAX_BUFFER + 1))


def test_a_cause_is_bounded_whatever_it_repeats() -> None:
    assert len(cause(json.dumps(GOOD | {"x" * 10_000: 1}))) == MAX_CAUSE


@given(st.binary(max_size=300))
def test_nothing_that_comes_is_raised(message: bytes) -> None:
    for arrival in receive(message):
        assert isinstance(arrival, (Pushed, Undecodable))


def test_only_messages_bring_it() -> None:
    with pytest.raises(ReceiverError, match="endpoint"):
        check_receiver("amr_um", "udp://0.0.0.0:4059", {})
