"""Refusals, status messages and event codes have the meanings of the LIS-200 fact sheet 5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.iec62056 import MeterRefusal, Refusal, codes


def test_every_number_of_the_fact_sheet_has_a_meaning() -> None:
    listed = {1, 2, 3, 4, 5, 6, 9, 11, 13, 14, 17, 18, 19, 20, 100, 101, 103, 104, 105, 108, 109, 110, 180, 200, 201}
    assert set(codes.REFUSALS) == listed | {222, 223, 249}
    assert Refusal(18).meaning == codes.REFUSALS[18]


def test_a_refusal_says_its_number_and_meaning() -> None:
    assert str(MeterRefusal(17)) == "the meter refused with #0017: wrong access code (password)"
    assert "in no table" in str(MeterRefusal(4711))


@pytest.mark.parametrize(
    ("code", "title"),
    [
        (0x0D03, "supplier lock open: ended"),
        (0x2D03, "supplier lock open: appeared"),
        (0x0D01, "calibration lock open: ended"),
        (0x2D01, "calibration lock open: appeared"),
        (0x1C02, "data transmission running: ended"),
        (0x3C02, "data transmission running: appeared"),
        (0x1F02, "summer time: ended"),
        (0x3F02, "summer time: appeared"),
        (0x1002, "restart: ended"),
        (0x3002, "restart: appeared"),
        (0x0506, "T warning limits: ended"),
        (0x2506, "T warning limits: appeared"),
        (0x0005, "C not computable: ended"),
        (0x2005, "C not computable: appeared"),
        (0x2F05, "message 16 in status 5: appeared"),
        (0x3001, "message 1 in the total status: appeared"),
        (0x3004, "message 1 in the programmable status 4: appeared"),
        (0x4106, "any of messages 1 to 2 in status 6 ended"),
        (0x7702, "any of messages 1 to 8 in the system status appeared"),
        (0x8101, "backup time"),
        (0x8102, "month boundary"),
        (0x8103, "day boundary"),
        (0x8104, "measuring period"),
        (0x8105, "counter event 5"),
        (0x8004, "measuring period, crossed backwards"),
        (0x8203, "parameter of archive 3 changed, row after it"),
        (0x8303, "parameter of archive 3 changed, row before it"),
        (0x8503, "archive 3 frozen"),
        (0x9999, "event 0x9999"),
        (0x8403, "event 0x8403"),
    ],
)
def test_event_titles(code: int, title: str) -> None:
    assert codes.event_title(code) == title


@given(st.integers(0, 0xFFFF))
def test_every_event_code_has_a_title(code: int) -> None:
    assert codes.event_title(code)


def test_messages() -> None:
    assert codes.message_title(9, None) == "battery low"
    assert codes.message_title(2, 6) == "pressure sensor error"
    assert codes.message_title(12, None) == "message 12 in the system status"


SYSTEM = {
    1: "restart", 3: "data restored", 4: "supply", 5: "data error", 7: "software", 8: "settings", 9: "battery low",
    10: "repair", 11: "clock not set", 13: "transmission running", 14: "remote clock setting", 15: "battery operation",
    16: "summer time",
}  # fmt: skip
IN_STATUS = {
    (1, 4): "Q alarm", (1, 5): "C not", (1, 6): "T alarm", (1, 7): "p alarm", (1, 8): "K not", (1, 9): "Z not",
    (2, 1): "input 1", (2, 5): "temperature sensor", (2, 6): "pressure sensor",
    (4, 1): "output 1", (4, 2): "output 2", (4, 3): "output 3", (4, 4): "output 4", (5, 2): "pulse comparison",
    (6, 1): "power warning", (6, 2): "Qb warning", (6, 4): "Q warning", (6, 6): "T warning", (6, 7): "p warning",
    (8, 2): "input 2", (8, 3): "input 3", (10, 5): "not calibrated", (10, 6): "not calibrated", (11, 1): "encoder",
    (13, 2): "input 2", (13, 3): "input 3", (14, 1): "calibration lock", (14, 2): "manufacturer lock",
    (14, 3): "supplier lock", (14, 4): "customer lock", (15, 1): "extended call window",
    (16, 1): "call acceptance", (16, 2): "call acceptance", (16, 3): "call acceptance", (16, 4): "call acceptance",
}  # fmt: skip


def test_every_message_of_the_fact_sheet_has_its_meaning() -> None:
    assert codes.SYSTEM_MESSAGES.keys() == SYSTEM.keys()
    assert codes.STATUS_MESSAGES.keys() == IN_STATUS.keys()
    for message, words in SYSTEM.items():
        assert words in codes.message_title(message, None)
    for (message, status), words in IN_STATUS.items():
        assert words in codes.message_title(message, status)


def test_data_loggers_have_messages_of_their_own() -> None:
    assert codes.event_title(0x2501, "DL220") == "warning limit of channel 1: appeared"
    assert codes.event_title(0x2501, "EK280") == "power warning limits: appeared"
    assert codes.event_title(0x2804, "dl210") == "battery 2 low: appeared"
    assert codes.event_title(0x3C02, "DL220") == codes.event_title(0x3C02)


def test_how_severe_a_message_is() -> None:
    words = [codes.severity(message) for message in (1, 2, 3, 8, 9, 14, 15, 16)]

    assert words == ["alarm"] * 2 + ["warning"] * 2 + ["report"] * 2 + ["information"] * 2
