"""A line's worker on real pseudo-terminals and sockets: order, lending, silence, cancellation, every kind of end."""

import asyncio
import datetime as dt
import pathlib
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.clocks import Clock
from agent.conversation import Times
from agent.lines import Limits, LineWorker
from agent.runs import Run
from agent.settings import MeterPassword
from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from agent.simulator.faults import Silent
from protocol import reports
from protocol.plans import Device, Line
from tests.parts.wires import BREAK, NOW, QUICK, DictMemory, device_on, heard, line_at
from tests.parts.workers import Results, at_work

LIS200 = "generic_lis200"
ARCHIVE = {"start_date": "2025-03-01T00:00:00Z", "archive_number": 3, "control_position": 3}


class Site(Results):
    """A worker with what it was told and what it told."""

    def __init__(self, line: Line, **settings: Any) -> None:  # noqa: ANN401 - what LineWorker takes
        super().__init__()
        self.line, self.memory = line, DictMemory()
        self.started: list[Run] = []
        arguments = {"memory": self.memory, "clock": Clock(), "passwords": {}, "times": QUICK, **settings}
        self.worker = LineWorker(line, on_started=self.started.append, on_result=self._ended, **arguments)

    def read(self, device: Device, address: str = "2:300", **settings: Any) -> Run:  # noqa: ANN401 - fields of Run
        return self.submit(device, "read_single_value", {"address": address}, **settings)

    def read_archive(self, device: Device, **settings: Any) -> Run:  # noqa: ANN401 - fields of Run
        return self.submit(device, "read_archive_by_date", ARCHIVE, **settings)

    def submit(self, device: Device, call: str, kwargs: dict[str, Any], *, on_demand: bool = False, **more: Any) -> Run:  # noqa: ANN401 - fields of Run
        owner = {"command": uuid.uuid4()} if on_demand else {"task": uuid.uuid4(), "tick": NOW}
        run = Run(uuid.uuid4(), device, LIS200, call, kwargs, **{**owner, **more})
        self.worker.submit(run)
        return run


@asynccontextmanager
async def working(line: Line, **settings: Any) -> AsyncIterator[Site]:  # noqa: ANN401 - what LineWorker takes
    site = Site(line, **settings)
    async with at_work(site.worker):
        yield site


def bus_of(*specs: str, **settings: Any) -> VirtualBus:  # noqa: ANN401 - what virtual_bus takes
    return virtual_bus(*specs, **{"seed": 7, "now": lambda: NOW, "language": "german", "history_days": 1, **settings})


def two_meters(**settings: Any) -> VirtualBus:  # noqa: ANN401 - what virtual_bus takes
    return bus_of("1:4711:EK280", "2:4712:EK280", **settings)


async def test_all_that_is_due_on_a_meter_is_one_session_and_the_line_is_given_back(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    async with serve_pty(two_meters(log=log)) as endpoint:
        line = line_at(endpoint)
        first, second = device_on(line, "1", "4711"), device_on(line, "2", "4712")
        async with working(line) as site:
            runs = [site.read(first), site.read(second), site.read(first, "7:310"), site.read_archive(first)]
            results = [await site.result_of(run) for run in runs]
            assert [result.outcome for result in results] == [reports.DONE] * 4
            assert [result.run for result in site.results] == [runs[0], runs[2], runs[3], runs[1]]
            assert site.started == [runs[0], runs[2], runs[3], runs[1]]
            values = [result.answer.values[0] for result in results[:3] if result.answer]
            assert [(value.series, value.unit) for value in values] == [
                ("2:300", "m3"),
                ("2:300", "m3"),
                ("7:310", "bar"),
            ]
            assert all(result.line_bytes > 30 and result.started for result in results)
            await asyncio.sleep(0.3)
            assert site.memory.rate is None
            async with working(line) as other:
                assert (await other.result_of(other.read(first))).outcome == reports.DONE
    assert heard(log).count(b"/?1!") == 2
    assert heard(log).count(b"/?2!") == 1


async def test_commands_come_first_and_nothing_comes_before_its_time() -> None:
    async with serve_tcp(two_meters()) as endpoint:
        line = line_at(endpoint)
        device = device_on(line)
        site = Site(line)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1.0)
        late = site.read(device, not_before=later)
        second = site.read(device, tick=NOW + dt.timedelta(minutes=15))
        first = site.read(device)
        command = site.read(device, on_demand=True)
        urgent = site.read(device, on_demand=True, priority=5)
        task = asyncio.create_task(site.worker.run())
        assert (await site.result_of(late)).ended >= later
        assert [result.run for result in site.results] == [urgent, command, first, second, late]
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("address", ["1", "2"])
async def test_a_command_overtakes_an_archive_readout_that_then_brings_every_row_once(address: str) -> None:
    bus = two_meters(throttle=True, opening_rate=19200, fixed_rate=True, history_days=2)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=19200, fixed_rate=True)
        device = device_on(line)
        async with working(line, times=Times(block=0.5)) as site:
            archive = site.read_archive(device)
            await asyncio.sleep(1.0)
            begun = asyncio.get_running_loop().time()
            command = site.read(device_on(line, address), on_demand=True)
            assert (await site.result_of(command)).outcome == reports.DONE
            assert asyncio.get_running_loop().time() - begun < 3.0
            assert archive.id not in [result.run.id for result in site.results]
            result = await site.result_of(archive)
    assert result.outcome == reports.DONE
    assert result.answer is not None
    got = [value.timestamp for value in result.answer.values if value.series == "2:300"]
    assert len(got) == len(set(got)) == len({row.clock for row in bus.meters[0].archives.rows(3)})


async def test_a_silent_meter_fails_with_its_name_is_left_alone_and_probed_and_its_neighbour_is_read(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "log"
    bus = bus_of("1:4711:EK280", "2:4712:EK280", log=log)
    bus._conversations[1]._faults = [Silent(None, "")]
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint)
        well, silent = device_on(line, "1"), device_on(line, "2")
        async with working(line, limits=Limits(back_off=1.5)) as site:
            runs = [site.read(silent), site.read(silent), site.read(well)]
            results = [await site.result_of(run) for run in runs[:2]]
            assert [result.outcome for result in results] == [reports.FAILED, reports.FAILED]
            assert all(f"meter-2 (address 2) on {endpoint} does not answer" in result.cause for result in results)
            assert heard(log).count(b"/?2!") == QUICK.tries

            # A command asks at once, with few calls; its failure doubles the pause, in which a run waits.
            waiting = site.read(silent)
            command = await site.result_of(site.read(silent, on_demand=True))
            assert command.outcome == reports.FAILED
            assert (await site.result_of(runs[2])).outcome == reports.DONE
            await asyncio.sleep(1.0)
            assert heard(log).count(b"/?2!") <= QUICK.tries + 2
            assert waiting.id not in [result.run.id for result in site.results]
            bus._conversations[1]._faults = []
            result = await site.result_of(waiting)
            assert result.outcome == reports.DONE
            assert result.started is not None
            assert result.started - command.ended >= dt.timedelta(seconds=2.5)
            assert (await site.result_of(site.read(silent), 2)).outcome == reports.DONE


async def test_a_queued_run_is_cancelled_at_once_and_an_executing_one_after_what_it_says(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "log"
    bus = two_meters(throttle=True, opening_rate=9600, fixed_rate=True, log=log)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=9600, fixed_rate=True)
        device = device_on(line)
        async with working(line, times=Times(block=0.5)) as site:
            archive, queued = site.read_archive(device), site.read(device_on(line, "2"))
            await asyncio.sleep(1.0)
            assert site.worker.cancel(queued.id)
            assert (await site.result_of(queued, 0.1)).outcome == reports.CANCELLED
            assert site.worker.cancel(archive.id)
            result = await site.result_of(archive, 5)
            assert (result.outcome, result.answer) == (reports.CANCELLED, None)
            assert not site.worker.cancel(archive.id)
            assert (await site.result_of(site.read(device), 10)).outcome == reports.DONE
        await asyncio.sleep(0.5)
    assert heard(log).count(BREAK) == 2


async def test_a_stopped_worker_reports_what_it_was_doing_as_interrupted_and_says_goodbye(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "log"
    bus = two_meters(throttle=True, opening_rate=9600, fixed_rate=True, log=log)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=9600, fixed_rate=True)
        async with working(line, times=Times(block=0.5)) as site:
            archive = site.read_archive(device_on(line))
            await asyncio.sleep(1.0)
        assert [(result.run, result.outcome) for result in site.results] == [(archive, reports.INTERRUPTED)]
        assert site.memory.rate is None
        await asyncio.sleep(0.5)
    assert heard(log).endswith(BREAK)


async def test_a_run_has_a_deadline() -> None:
    bus = two_meters(throttle=True, opening_rate=9600, fixed_rate=True)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=9600, fixed_rate=True)
        async with working(line, times=Times(block=0.5), limits=Limits(run=1.0)) as site:
            result = await site.result_of(site.read_archive(device_on(line)))
            assert result.outcome == reports.FAILED
            assert "not done within 1 s" in result.cause
            assert result.kind == reports.COMMS


async def test_a_port_that_is_not_there_fails_what_is_due_and_is_tried_again_later(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "port"
    line = line_at(str(path))
    device = device_on(line)
    async with working(line) as site:
        runs = [site.read(device), site.read(device_on(line, "2"))]
        for run in runs:
            result = await site.result_of(run, 1)
            assert (result.outcome, result.kind) == (reports.FAILED, reports.COMMS)
            assert f"on {path}: no such port; check the cable" in result.cause
        async with serve_pty(two_meters(), link=path):
            assert (await site.result_of(site.read(device))).outcome == reports.DONE


async def test_a_connection_that_breaks_fails_the_run_and_the_next_one_connects_anew() -> None:
    bus = two_meters()
    async with serve_tcp(bus) as endpoint, _gate(endpoint) as (gate, connections):
        line = line_at(gate)
        device = device_on(line)
        async with working(line, times=Times(block=0.1)) as site:
            archive = site.read_archive(device)
            await asyncio.sleep(0.4)
            connections[0].close()
            result = await site.result_of(archive)
            assert result.outcome == reports.FAILED
            assert f"on {line.endpoint}: the other side has closed the connection" in result.cause
            assert (await site.result_of(site.read(device))).outcome == reports.DONE


async def test_values_that_were_read_before_the_line_went_down_are_kept() -> None:
    bus = two_meters(throttle=True, opening_rate=9600, fixed_rate=True)
    async with serve_tcp(bus) as endpoint, _gate(endpoint) as (gate, connections):
        line = line_at(gate, rate=9600, fixed_rate=True)
        async with working(line) as site:
            addresses = ["2:300", *(f"{instance}:999" for instance in range(1, 41))]
            values = site.submit(device_on(line), "read_values", {"addresses": addresses})
            await asyncio.sleep(1.5)
            connections[0].close()
            result = await site.result_of(values)
            assert result.outcome == reports.FAILED
            assert "the other side has closed the connection" in result.cause
            assert result.answer is not None
            assert [value.series for value in result.answer.values] == ["2:300"]
            assert "objects were not read" in result.answer.problems[-1]
            assert (await site.result_of(site.read(device_on(line)))).outcome == reports.DONE


@asynccontextmanager
async def _gate(endpoint: str) -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """A device server in front of ``endpoint``, and the connections to it, which the test may close."""
    connections: list[asyncio.StreamWriter] = []
    forwards: list[asyncio.Task[None]] = []
    host, _, port = endpoint.removeprefix("socket://").rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, here))
                group.create_task(_pump(there, writer))
        except* OSError:
            pass
        finally:
            here.close()
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        forwards.append(asyncio.create_task(forward(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        listening: socket.socket = server.sockets[0]
        yield f"socket://127.0.0.1:{listening.getsockname()[1]}", connections
    for connection in connections:
        connection.close()
    await asyncio.gather(*forwards)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def test_a_call_that_is_wrong_is_refused_without_a_word_on_the_line(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    async with serve_pty(two_meters(log=log)) as endpoint:
        line = line_at(endpoint)
        async with working(line) as site:
            run = site.submit(device_on(line), "read_single_value", {"addres": "2:300"})
            result = await site.result_of(run, 1)
            assert (result.outcome, result.started) == (reports.REFUSED, None)
            assert "task_kwargs.addres" in result.cause
    assert heard(log) == b""


async def test_another_meter_and_a_refusal_and_a_locked_meter_are_told_apart() -> None:
    async with serve_pty(two_meters(locked=True, codes={3: "3", 4: "4444"})) as endpoint:
        line = line_at(endpoint)
        passwords = {"opened": MeterPassword("4444"), "shut": MeterPassword("1111")}
        async with working(line, passwords=passwords) as site:
            refused = await site.result_of(site.read(device_on(line)))
            wrong = await site.result_of(site.read(device_on(line, serial="9999", name="opened")))
            shut = await site.result_of(site.read(device_on(line, name="shut")))
            good = device_on(line, serial="4711", name="opened")
            absent, fine = site.read(good, "9:999"), site.read(good)
            told = [await site.result_of(absent), await site.result_of(fine)]
        assert refused.outcome == reports.FAILED
        assert f"on {endpoint}: the meter refused with #0018: no right to read" in refused.cause
        assert wrong.outcome == reports.WRONG_METER
        assert shut.outcome == reports.FAILED
        assert "lock 4" in shut.cause
        assert "#0017: wrong access code" in shut.cause
        assert [result.outcome for result in told] == [reports.FAILED, reports.DONE]
        assert [result.kind for result in (refused, wrong, shut, *told)] == [reports.DEVICE, "", *2 * ["device"], ""]
        assert "#0002: object not available" in told[0].cause


async def test_another_meter_at_the_address_is_an_outcome_of_its_own() -> None:
    async with serve_pty(two_meters()) as endpoint:
        line = line_at(endpoint)
        async with working(line) as site:
            result = await site.result_of(site.read(device_on(line, serial="4799")))
        assert (result.outcome, result.answer) == (reports.WRONG_METER, None)
        assert "serial number 4711, the plan expects 4799" in result.cause


async def test_a_new_plan_moves_the_line_between_runs() -> None:
    async with serve_pty(two_meters()) as before, serve_tcp(bus_of("1:4720:EK280")) as after:
        line = line_at(before)
        device = device_on(line)
        async with working(line) as site:
            assert (await site.result_of(site.read(device))).outcome == reports.DONE
            site.worker.replace(Line(line.id, line.name, after))
            result = await site.result_of(site.read(device, "1:180"))
            assert result.answer is not None
            assert result.answer.result["text"] == "4720"


async def test_an_archives_readings_know_how_far_the_meters_clock_was_off(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    bus = virtual_bus("1:4011220:EK280", seed=7, history_days=1, drift=42, log=log)
    async with serve_tcp(bus) as endpoint, working(line_at(endpoint)) as site:
        device = device_on(site.line)
        before = await site.result_of(site.read(device))
        archive = await site.result_of(site.read_archive(device))
        again = await site.result_of(site.read_archive(device))
    assert before.clock_offset is None, "a single value does not pay for the clock"
    assert archive.clock_offset == pytest.approx(42, abs=2)
    assert again.clock_offset == archive.clock_offset
    assert heard(log).count(b"1:400.0(1)") == 1


async def test_two_meters_that_were_swapped_on_a_bus_are_wrong_meters_and_nothing_of_them_is_stored() -> None:
    async with serve_pty(bus_of("1:4712:EK280", "2:4711:EK280")) as endpoint:
        line = line_at(endpoint)
        first, second = device_on(line, "1", "4711"), device_on(line, "2", "4712")
        async with working(line) as site:
            runs = [site.read(first), site.read_archive(first), site.read(second)]
            results = [await site.result_of(run) for run in runs]
            assert [result.outcome for result in results] == [reports.WRONG_METER] * 3
            assert all(result.answer is None for result in results)
            assert "serial number 4712, the plan expects 4711" in results[0].cause
            assert not site.memory.layouts
