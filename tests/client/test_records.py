"""What a program gets is what the hub gives: each record against the hub's own struct, field by field."""

import datetime as dt
import subprocess
import sys
from decimal import Decimal
from typing import Any

import msgspec
import pytest

import client
from client.cli_gaps import REASON_WORDS, STATE_WORDS
from client.records import Record
from hub import amr_tasks, reasons
from hub.app import RESOURCES
from hub.resources import Resource
from tests.hub.test_app import kind_of

KINDS = sorted(Record.__subclasses__(), key=lambda kind: kind.__name__)
HUBS: dict[str, Resource] = {
    resource.path.removeprefix("/v1/"): resource
    for resource in (amr_tasks.RESOURCE, *(one.RESOURCE for one in RESOURCES if hasattr(one, "RESOURCE")))
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_is_the_hubs(kind: type[Record]) -> None:
    """Every answer of the hub's struct can be read; a decimal, which the hub sends as text, is a Decimal."""
    resource = HUBS[kind.path]
    given = {field.name: field.type for field in msgspec.structs.fields(resource.out)}
    for field in msgspec.structs.fields(kind):
        assert field.name in given, f"{kind.__name__}.{field.name}"
        if field.type not in {Any, list[Any], dict[str, Any]}:
            ours, theirs = (kind_of(msgspec.inspect.type_info(one)) for one in (field.type, given[field.name]))
            assert ours == theirs, f"{kind.__name__}.{field.name}"
    if kind.named_by:
        assert kind.named_by in resource.filters


def test_values_and_times_are_what_they_were() -> None:
    row = {
        **dict.fromkeys(("organization", "meter_device", "series"), "00000000-0000-4000-8000-000000000000"),
        "id": 1,
        "timestamp": "2026-03-02T06:00:00Z",
        "value": "12.500",
        "unit": "m3",
        "collected": "2026-03-02T07:00:00+01:00",
        "provenance": "meter",
        "flags": [],
        "a field of a newer hub": 1,
    }
    reading = msgspec.json.decode(msgspec.json.encode(row), type=client.Reading)
    assert str(reading.value) == "12.500"
    assert isinstance(reading.value, Decimal)
    assert reading.timestamp == reading.collected == dt.datetime(2026, 3, 2, 6, tzinfo=dt.UTC)


def test_every_state_and_reason_has_words() -> None:
    assert set(STATE_WORDS) == set(reasons.STATES)
    assert set(REASON_WORDS) == set(reasons.REASONS)


def test_the_client_loads_nothing_heavy() -> None:
    """A script's loop calls the command a hundred times: it starts at once, and a program needs msgspec alone."""
    code = """
import sys
sys.argv[1:] = ["api", "gateways"]
import hub.entry
try:
    hub.entry.main()
except SystemExit as end:
    print(end.code)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    status, loaded = done.stdout.splitlines()
    assert status == "2"
    heavy = {"sqlalchemy", "litestar", "asyncio", "cryptography", "nacl", "structlog", "httpx", "hub.cli", "aiomqtt"}
    assert not heavy & set(loaded.split()), "and the environment may be empty"
