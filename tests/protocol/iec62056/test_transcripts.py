"""Every real telegram and real row of the LIS-200 fact sheet 6.1, and data readouts, through both roles of the core.

A case is a folder: ``wire.txt`` holds what went over the line (``<XX>`` is a byte in hexadecimal, the rest is as it
reads), ``expected.json`` what it says, event by event, and what the last answer means.
"""

import dataclasses
import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import protocol.iec62056 as core
from protocol.iec62056 import Connection, Data, Event, Identification, Parity, Refusal, Role, lis200
from protocol.iec62056.data_lines import parse_data_message, parse_data_sets
from tests.protocol.iec62056.conversations import (
    Split,
    Wire,
    fetch,
    one_byte_at_a_time,
    telegrams,
    whole,
)

CASES = sorted((Path(__file__).parents[2] / "transcripts" / "iec62056").iterdir())


def wire_of(case: Path) -> list[tuple[str, bytes]]:
    lines = (case / "wire.txt").read_text(encoding="ascii").splitlines()
    spoken = (line.split(": ", 1) for line in lines if not line.startswith("#"))
    return [(who, _bytes(text)) for who, text in spoken]


def _bytes(text: str) -> bytes:
    return re.sub(r"<([0-9A-F]{2})>", lambda found: chr(int(found[1], 16)), text).encode("ascii")


def expected_of(case: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    return expected


def event_of(entry: dict[str, Any]) -> Event:
    fields = dict(entry)
    event: Event = getattr(core, fields.pop("type"))(**fields)
    return event


@pytest.mark.parametrize("split", [whole, one_byte_at_a_time])
@pytest.mark.parametrize("parity", [Parity.AUTO, Parity.EVEN, Parity.NONE])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_went_over_the_line_is_what_both_roles_say_and_hear(case: Path, parity: Parity, split: Split) -> None:
    expected = expected_of(case)
    wire = Wire(Connection(Role.READER, parity=parity), Connection(Role.METER, parity=parity))
    if expected["starts"] == "opened":
        wire.open()
    events = [event_of(entry) for entry in expected["events"]]
    spoken = wire_of(case)
    assert len(spoken) == len(events)
    for (who, characters), event in zip(spoken, events, strict=True):
        speaker, listener = (wire.reader, wire.meter) if who == "reader" else (wire.meter, wire.reader)
        raw = speaker.send(event)
        fetch(speaker)
        assert bytes(byte & 0x7F for byte in raw) == characters
        assert all(byte.bit_count() % 2 == 0 for byte in raw) or parity is Parity.NONE
        heard = []
        for part in split(raw):
            listener.receive_data(part)
            heard += fetch(listener)
        assert telegrams(heard) == [event]
        assert speaker.state == listener.state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_it_means(case: Path) -> None:
    expected = expected_of(case)
    events = [event_of(entry) for entry in expected["events"]]
    meaning = expected.get("meaning", {})
    for fact, value in meaning.items():
        assert _facts(events)[fact]() == value
    assert meaning or case.name == "break"


def _facts(events: list[Event]) -> dict[str, Any]:
    blocks = [event for event in events if isinstance(event, Data)]
    texts = [block.text for block in blocks]

    def time_column() -> list[str]:
        rows = lis200.join_blocks(texts)
        column = next(index for index, group in enumerate(rows[0]) if re.match(r"\d{4}-\d\d-\d\d,", group))
        return [lis200.parse_datetime(row[column]).isoformat() for row in rows]

    def identification() -> Identification:
        return next(event for event in events if isinstance(event, Identification))

    def rate() -> int:
        wire = Wire()
        for event in events[: events.index(identification()) + 2]:
            wire.say(wire.meter if isinstance(event, Identification) else wire.reader, event)
        assert wire.reader.rate == wire.meter.rate
        return wire.reader.rate

    def registers() -> list[list[str]]:
        parse = parse_data_message if texts[-1].endswith("!\r\n") else parse_data_sets
        return [
            [register.id, *(f"{group.text}*{group.unit}".rstrip("*") for group in register.groups)]
            for register in parse(texts[-1])
        ]

    return {
        "registers": registers,
        "answers": lambda: _asked(events, blocks[-1]),
        "number": lambda: str(lis200.parse_value(blocks[-1].groups[0]).number),
        "unit": lambda: lis200.parse_value(blocks[-1].groups[0]).unit,
        "datetime": lambda: lis200.parse_datetime(blocks[-1].groups[0]).isoformat(),
        "rows": lambda: [list(row) for row in lis200.join_blocks(texts)],
        "times": time_column,
        "refusal": lambda: next(event.meaning for event in events if isinstance(event, Refusal)),
        "reaction_time": lambda: identification().reaction_time,
        "rate": rate,
    }


def _asked(events: list[Event], answer: Data) -> str | None:
    asked = next(event for event in events if isinstance(event, core.ReadCommand))
    return asked.address if lis200.matches(asked.address, answer.address) else None


def test_rows_are_read_to_the_last_column() -> None:
    """Every group of every real row is a number, a time, a status list, an event code or a check."""
    for case in CASES:
        for row in expected_of(case).get("meaning", {}).get("rows", []):
            if "name" in case.name or "unit" in case.name:
                continue
            for group in row:
                assert _reads(group), (case.name, group)


def _reads(group: str) -> bool:
    if group == "CRC Ok":
        return True
    if group.startswith("0x"):
        return lis200.parse_event_code(group) > 0
    if "," in group:
        return isinstance(lis200.parse_datetime(group), datetime)
    if ";" in group:
        return lis200.format_status(lis200.parse_status(group)) == group
    return lis200.parse_decimal(group) == Decimal(group)


def test_events_are_frozen_values() -> None:
    for case in CASES:
        for entry in expected_of(case)["events"]:
            event = event_of(entry)
            assert event == event_of(entry)
            field = dataclasses.fields(event)[:1]
            if field:
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(event, field[0].name, "")
