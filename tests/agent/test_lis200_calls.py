"""The calls of generic_lis200 over a real session with each simulated model, compared with what the meter holds."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agent.links import open_link
from agent.session import Session, open_session
from agent.settings import MeterPassword
from agent.simulator.archives import Row
from agent.simulator.bus import VirtualBus, serve_tcp, virtual_bus
from agent.simulator.personas import PERSONAS, Content
from contexts.calls import CallError
from contexts.catalogue import check_call, find_call
from contexts.lis200_columns import TOTALS
from contexts.lis200_times import candidates
from contexts.meters import Answer, Moment
from protocol.iec62056.lis200 import parse_datetime
from tests.parts.wires import NOW, QUICK, DictMemory, device_on, line_at

BERLIN = ZoneInfo("Europe/Berlin")
ARCHIVES = [(model, archive.number) for model, persona in PERSONAS.items() for archive in persona.archives]
LOGS = [
    (model, archive.number)
    for model, persona in PERSONAS.items()
    for archive in persona.archives
    if archive.content in {Content.EVENTS, Content.CHANGES}
]


@pytest.mark.parametrize(
    ("kind", "numbers"), [("EK", {1, 2, 3, 4, 5, 7, 10}), ("TC", {1, 3, 4, 5, 7}), ("DL", {1, 2, 3, 4, 5, 7, 10})]
)
def test_every_archive_that_the_sources_agree_on_is_among_those_read_here(kind: str, numbers: set[int]) -> None:
    assert numbers <= {number for model, number in ARCHIVES if model.startswith(kind)}


def bus_of(model: str, **settings: Any) -> VirtualBus:  # noqa: ANN401 - what virtual_bus takes
    return virtual_bus(f"1:4711:{model}", **{"seed": 7, "now": lambda: NOW, **settings})


@asynccontextmanager
async def session_on(bus: VirtualBus, **settings: Any) -> AsyncIterator[Session]:  # noqa: ANN401 - what open_session takes
    async with serve_tcp(bus) as endpoint:
        line = line_at(endpoint)
        link = await open_link(endpoint, line.rate)
        try:
            given = {"memory": DictMemory(), "now": lambda: NOW, "times": QUICK, **settings}
            async with open_session(link, line, device_on(line), **given) as session:
                yield session
        finally:
            await link.aclose()


async def call(session: Session, name: str, believed: bool = True, **kwargs: object) -> Answer:  # noqa: FBT001, FBT002 - a test's switch
    found = find_call("generic_lis200", name)
    moment = Moment(NOW, NOW, clock_believed=believed)
    return await found.run(session, moment, check_call("generic_lis200", name, kwargs))


def meant(archive: int, row: Row) -> dict[str, tuple[Decimal, dt.datetime]]:
    """The readings that a row holds, by the simulator's own word."""
    stamp = dt.datetime.fromtimestamp(row.clock, dt.UTC)
    readings = {}
    for source, text in row.values.items():
        own = row.times.get(source)
        at = candidates(BERLIN, parse_datetime(own))[0] if own else stamp
        name = source if source.partition(":")[2] in TOTALS else f"{source}/{archive}"
        readings[name] = (Decimal(text), at)
    return readings


@pytest.mark.parametrize(("model", "archive"), ARCHIVES)
async def test_every_archive_of_every_model_is_read_as_it_is_and_once(model: str, archive: int) -> None:
    content = next(one.content for one in PERSONAS[model].archives if one.number == archive)
    bus = bus_of(model, history_days=65 if content is Content.MONTHS else 4)
    memory = DictMemory()
    async with session_on(bus, memory=memory) as session:
        first = await call(session, "read_archive_since_last", archive_number=archive)
        assert first.archive == archive
        assert first.held is not None
        memory.marks[session.device.id, archive] = first.held
        again = await call(session, "read_archive_since_last", archive_number=archive)

    rows = bus.meters[0].archives.rows(archive)
    assert rows
    assert not first.problems
    assert first.result["rows"] == len(rows)
    expected = {(name, at, value) for row in rows for name, (value, at) in meant(archive, row).items()}
    assert {(value.series, value.timestamp, value.value) for value in first.values} == expected
    assert (again.values, again.events, again.result["rows"]) == ([], [], 0)


@pytest.mark.parametrize(("model", "archive"), LOGS)
async def test_every_entry_of_every_log_is_an_event_with_its_meaning(model: str, archive: int) -> None:
    bus = bus_of(model, history_days=9)
    async with session_on(bus) as session:
        answer = await call(session, "read_events", archive_number=archive)

    rows = bus.meters[0].archives.rows(archive)
    assert len(answer.events) == len(rows) > 1
    for row, event in zip(rows, answer.events, strict=True):
        assert event.timestamp == dt.datetime.fromtimestamp(row.clock, dt.UTC)
        if row.changed is None:
            assert event.code == f"0x{row.event:04X}"
            assert event.title.endswith((": appeared", ": ended", "before it", "after it"))
        else:
            parameter, old, new = row.changed
            assert event.code == f"{int(parameter[:4])}:{parameter[-3:]}"
            assert f"from {old!r} to {new!r}; open locks: customer" in event.content


async def test_the_log_book_is_found_by_the_model() -> None:
    for model, archive in (("EK260", 4), ("TC220", 4), ("DL240", 10)):
        async with session_on(bus_of(model)) as session:
            assert (await call(session, "read_events")).archive == archive


async def test_a_warning_is_an_event_of_the_rows_that_show_it() -> None:
    bus = bus_of("EK280", history_days=4)
    async with session_on(bus) as session:
        answer = await call(session, "read_archive_since_last", archive_number=3)

    shown = [row.groups[14] for row in bus.meters[0].archives.rows(3)]
    edges = sum(before != after for before, after in pairwise(shown))
    told = [event for event in answer.events if event.code in {"St.6:2+", "St.6:2-", "St.6:6+", "St.6:6-"}]
    assert len(told) == edges > 0
    assert {event.title.rpartition(":")[0] for event in told} <= {"T warning limits", "pressure sensor error"}


@pytest.mark.parametrize("model", PERSONAS)
async def test_who_a_meter_is_and_several_of_its_values(model: str) -> None:
    total = "1:202" if PERSONAS[model].channels else "2:300"
    async with session_on(bus_of(model)) as session:
        identity = await call(session, "read_identity")
        values = await call(session, "read_values", addresses=[total, "9:999", "1:181", "2:100"])

    assert identity.result["identification"] == identity.result["type"] == model
    assert identity.result["serial_number"] == "4711"
    assert identity.result["software_version"] == PERSONAS[model].version
    assert not identity.problems
    (reading,) = values.values
    assert reading.series == total
    assert reading.answered == NOW
    assert len(values.problems) == 1
    assert "9:999: the meter refused with #0002" in values.problems[0]
    assert values.result["values"][2]["text"] == model


@pytest.mark.parametrize("model", ["EK280", "DL240"])
async def test_a_clock_is_set_behind_its_lock_which_is_closed_again(model: str) -> None:
    bus = bus_of(model, drift=-42, codes={3: "3333", 4: "4444"})
    meter = bus.meters[0]
    async with session_on(bus, access=MeterPassword("3333", lock=3)) as session:
        answer = await call(session, "set_time")
        again = await call(session, "set_time")

    assert answer.result["drift_seconds"] == pytest.approx(-42, abs=0.1)
    assert answer.result["set"] is True
    assert abs(answer.result["remaining_seconds"]) <= 1
    assert again.result["set"] is False
    assert abs(meter.clock - NOW.timestamp()) <= 1
    assert not meter.locks.is_open(3, asyncio.get_running_loop().time())


async def test_a_clock_behind_a_closed_lock_is_told_and_left() -> None:
    bus = bus_of("EK280", drift=42)
    async with session_on(bus) as session:
        answer = await call(session, "set_time")
        with pytest.raises(CallError, match="not confirmed"):
            await call(session, "set_time", believed=False)

    assert answer.result["set"] is False
    assert answer.result["drift_seconds"] == pytest.approx(42, abs=0.1)
    assert "#0019" in answer.problems[0]


async def test_a_change_of_the_clock_is_told_with_before_and_after() -> None:
    bus = bus_of("EK280", drift=-1800, codes={3: "3333", 4: "4444"})
    async with session_on(bus, access=MeterPassword("3333", lock=3)) as session:
        await call(session, "set_time", force=True)
        rows = await call(session, "read_archive_since_last", archive_number=3)
        trail = await call(session, "read_events", archive_number=5)

    (told,) = [event for event in rows.events if event.code == "0x8203" and "clock" in event.content]
    assert "clock 2025-03-12 10:00:10 -> 2025-03-12 10:30:10" in told.content
    assert "1:400 (clock) changed from '2025-03-12,10:00:10'" in trail.events[-1].content
