"""The calls of generic_iec6205621 over real sessions on pseudo-terminals, with a meter in each mode."""

import asyncio
import datetime as dt
import itertools
import json
import pathlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agent.clocks import Clock
from agent.conversation import NoAnswer, SessionError
from agent.lines import LineWorker
from agent.links import open_link
from agent.runs import Run, RunResult
from agent.session import Session, WrongMeter, open_session
from agent.settings import MeterPassword
from agent.simulator.bus import VirtualBus, serve_pty, virtual_bus
from agent.simulator.electricity import ElectricityMeter
from contexts.catalogue import check_call, find_call
from contexts.meters import Answer, Moment
from protocol import reports
from protocol.iec62056 import UnreadableValue
from protocol.plans import Line, SeriesMapping
from tests.parts.wires import BREAK, NOW, QUICK, DictMemory, device_on, heard, line_at

CONTEXT = "generic_iec6205621"
MODES = ["ELECTRIC-A", "ELECTRIC-B", "ELECTRIC-C"]
BERLIN = ZoneInfo("Europe/Berlin")


def bus_of(model: str, **settings: Any) -> VirtualBus:  # noqa: ANN401 - what virtual_bus takes
    return virtual_bus(f"1:4711:{model}", **{"seed": 7, "now": lambda: NOW, **settings})


def electric(bus: VirtualBus) -> ElectricityMeter:
    [meter] = bus.everybody
    assert isinstance(meter, ElectricityMeter)
    return meter


def told(truth: pathlib.Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in truth.read_text().splitlines()]


async def call(session: Session, name: str, **kwargs: object) -> Answer:
    return await find_call(CONTEXT, name).run(session, Moment(NOW, NOW), check_call(CONTEXT, name, kwargs))


@asynccontextmanager
async def session_for(
    bus: VirtualBus,
    name: str,
    *,
    serial: str | None = None,
    mappings: Sequence[SeriesMapping] = (),
    memory: DictMemory | None = None,
    **settings: Any,  # noqa: ANN401 - what open_session takes
) -> AsyncIterator[Session]:
    """A session for that call over a pseudo-terminal."""
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint)
        device = device_on(line, serial=serial)
        device = msgspec.structs.replace(device, mappings=list(mappings))
        link = await open_link(endpoint, line.rate)
        try:
            given = {"memory": memory or DictMemory(), "now": lambda: NOW, "times": QUICK, **settings}
            async with open_session(link, line, device, manner=find_call(CONTEXT, name).manner, **given) as session:
                yield session
        finally:
            await asyncio.sleep(0.1)  # what was said last is under way to the meter
            await link.aclose()


@pytest.mark.parametrize("model", MODES)
async def test_a_readout_in_every_mode_is_what_the_meter_shows(model: str, tmp_path: pathlib.Path) -> None:
    bus = bus_of(model, truth=tmp_path / "truth", log=tmp_path / "log")
    memory = DictMemory()
    async with session_for(bus, "read_readout", serial="04711", memory=memory) as session:
        answer = await call(session, "read_readout")

    truth = told(tmp_path / "truth")
    assert truth
    assert [(value.series, str(value.value), value.unit) for value in answer.values] == [
        (line["single"], str(Decimal(line["value"])), line["unit"]) for line in truth
    ]
    assert answer.problems == []
    assert answer.events == []
    assert heard(tmp_path / "log").endswith(BREAK)
    assert memory.rate is None  # the line was left at its opening rate
    assert answer.result["identification"] == model


async def test_values_have_the_times_that_the_meter_gives_them() -> None:
    async with session_for(bus_of("ELECTRIC-C"), "read_readout") as session:
        answer = await call(session, "read_readout")

    times = {value.series: value.timestamp for value in answer.values}
    assert times["1-0:1.8.0"] is None
    assert times["1-0:1.6.1"] == dt.datetime(2025, 3, 1, 11, 15, tzinfo=BERLIN)
    assert times["1-0:1.8.0*62"] == dt.datetime(2025, 3, 1, tzinfo=BERLIN)
    assert times["1-0:1.8.0*61"] == dt.datetime(2025, 2, 1, tzinfo=BERLIN)


async def test_only_what_is_named_and_what_is_missing_is_told() -> None:
    mapping = SeriesMapping(0, "2.8.0", "delivered")
    async with session_for(bus_of("ELECTRIC-C"), "read_readout", mappings=[mapping]) as session:
        answer = await call(session, "read_readout", registers=["1.8.0", "2.8.0", "0.1.0", "1.8.7", "0.9.1"])

    assert [value.series for value in answer.values] == ["1-0:0.1.0", "1-0:1.8.0", "delivered"]
    assert answer.result["texts"] == {"1-0:0.9.1": "103010"}
    assert answer.problems == ["the meter does not show 1.8.7"]


async def test_an_error_register_is_an_event() -> None:
    bus = bus_of("ELECTRIC-A")
    electric(bus).error = "00000040"
    async with session_for(bus, "read_readout") as session:
        answer = await call(session, "read_readout", registers=["1.8.0"])

    [event] = answer.events
    assert (event.code, event.timestamp) == ("F.F:00000040", NOW)


@pytest.mark.parametrize("model", MODES)
@pytest.mark.parametrize("command", ["R1", "R5"])
async def test_a_single_register_in_every_mode(model: str, command: str) -> None:
    async with session_for(bus_of(model), "read_register", serial="4711") as session:
        answer = await call(session, "read_register", address="1.8.0", command=command, verify="twice")
        again = await call(session, "read_register", address="1-0:2.8.0")

    assert [value.unit for value in [*answer.values, *again.values]] == ["kWh", "kWh"]


async def test_what_a_meter_does_not_have_fails_with_its_own_words() -> None:
    async with session_for(bus_of("ELECTRIC-C"), "read_register") as session:
        with pytest.raises(UnreadableValue, match="ER01"):
            await call(session, "read_register", address="1.8.9")
        assert (await call(session, "read_register", address="1.8.1")).values


async def test_a_password_is_said_once() -> None:
    codes = {4: "31415926"}
    bus = bus_of("ELECTRIC-C", locked=True, codes=codes)
    async with session_for(bus, "read_register", serial="4711", access=MeterPassword("31415926")) as session:
        assert (await call(session, "read_register", address="1.8.0")).values
    bus = bus_of("ELECTRIC-C", locked=True, codes=codes)
    with pytest.raises(SessionError, match="did not take the password") as failure:
        async with session_for(bus, "read_register", access=MeterPassword("27182818")):
            pass
    assert "27182818" not in str(failure.value)


@pytest.mark.parametrize("name", ["read_readout", "read_register"])
@pytest.mark.parametrize("model", MODES)
async def test_another_meter_than_the_planned_one_is_not_read(model: str, name: str) -> None:
    with pytest.raises(WrongMeter, match="serial number 4711, the plan expects 4712"):
        async with session_for(bus_of(model), name, serial="4712"):
            pass


async def test_a_meter_that_shows_no_number_is_not_taken_for_the_planned_one() -> None:
    bus = bus_of("ELECTRIC-C")
    electric(bus).shown_serial = ""
    with pytest.raises(SessionError, match="shows no serial number"):
        async with session_for(bus, "read_readout", serial="4711"):
            pass
    bus = bus_of("ELECTRIC-C")
    electric(bus).shown_serial = ""
    async with session_for(bus, "read_readout") as session:
        assert (await call(session, "read_readout")).values


@pytest.mark.parametrize(
    "fault",
    [
        "corrupt_bcc=0.3",
        "parity_error=0.3",
        "nul_noise",
        "split_answers",
        "one_byte_at_a_time",
        "echo",
        "parity_none",
        "line_noise",
        "no_crlf",
        "trailing_blanks",
        "slow_maker",
    ],
)
@pytest.mark.parametrize("model", MODES)
async def test_the_line_may_do_what_lines_do(model: str, fault: str, tmp_path: pathlib.Path) -> None:
    bus = bus_of(model, truth=tmp_path / "truth", faults=[fault], seed=3)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, echo=fault == "echo")
        link = await open_link(endpoint, line.rate)
        manner = find_call(CONTEXT, "read_readout").manner
        try:
            async with open_session(
                link, line, device_on(line), manner=manner, memory=DictMemory(), now=lambda: NOW, times=QUICK
            ) as session:
                answer = await call(session, "read_readout")
        finally:
            await link.aclose()
    truth = {line["single"]: Decimal(line["value"]) for line in told(tmp_path / "truth")}
    assert {value.series: value.value for value in answer.values} == truth


async def test_a_readout_that_never_ends_well_fails_and_leaves_the_line() -> None:
    with pytest.raises((SessionError, NoAnswer)):
        async with session_for(bus_of("ELECTRIC-B", faults=["corrupt_bcc=1"]), "read_readout"):
            pass


async def test_values_that_move_on_are_told_where_two_readouts_must_agree() -> None:
    moments = itertools.count()

    def later() -> dt.datetime:
        return NOW + dt.timedelta(seconds=next(moments) * 10)

    async with session_for(bus_of("ELECTRIC-C", now=later), "read_readout") as session:
        answer = await call(session, "read_readout", registers=["1.6.1", "1.8.0"], verify="twice")

    assert [value.series for value in answer.values] == ["1-0:1.6.1"]
    assert answer.problems == ["1-0:1.8.0 was not the same in two of 5 readouts"]


async def test_a_line_serves_meters_of_both_kinds_each_in_its_own_manner(tmp_path: pathlib.Path) -> None:
    results: list[RunResult] = []
    done = asyncio.Event()

    def ended(result: RunResult) -> None:
        results.append(result)
        if len(results) == 5:
            done.set()

    bus = virtual_bus("1:4711:ELECTRIC-C", "2:4712:EK280", "3:4713:ELECTRIC-B", log=tmp_path / "log")
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint)
        first, gas, second = (device_on(line, address) for address in "123")
        worker = _worker(line, ended)
        for device, context, name, kwargs in (
            (first, CONTEXT, "read_readout", {}),
            (first, CONTEXT, "read_register", {"address": "1.8.0"}),
            (gas, "generic_lis200", "read_single_value", {"address": "2:300"}),
            (second, CONTEXT, "read_readout", {"registers": ["1.8.0"]}),
            (first, CONTEXT, "read_readout", {"registers": ["2.8.0"]}),
        ):
            worker.submit(Run(uuid.uuid4(), device, context, name, kwargs, tick=NOW, task=uuid.uuid4()))
        task = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert [(result.outcome, result.cause) for result in results] == [(reports.DONE, "")] * 5
    # Both readouts of the first meter share one session, its register has another.
    assert heard(tmp_path / "log").count(b"/?1!") == 2


def _worker(line: Line, ended: Callable[[RunResult], None]) -> LineWorker:
    return LineWorker(
        line,
        memory=DictMemory(),
        clock=Clock(),
        passwords={},
        on_started=lambda _: None,
        on_result=ended,
        times=QUICK,
    )
