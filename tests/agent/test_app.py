"""The whole edge process against a real broker and simulated meters; the hub's end is a relay with its own key."""

import asyncio
import datetime as dt
import pathlib
import uuid
from collections.abc import Callable, Iterator

import msgspec
import pytest

from agent.app import Agent
from agent.clocks import Clock
from agent.settings import Timing
from protocol.commands import FINAL_STATES, Command
from protocol.envelopes import SigningKey
from protocol.plans import Device
from protocol.readings import BatchName
from protocol.reports import Receipt
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.gateways import fast_clock, gateway_settings, meters, running
from tests.parts.mosquitto import Mosquitto, mosquitto
from tests.parts.relay import PATIENCE, Relay, a_device, a_line, a_task, an_archive_task, now, relay


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with mosquitto() as running:
        yield running


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not what():  # noqa: ASYNC110 - what is waited for lies in a file
            await asyncio.sleep(0.05)


@pytest.fixture
def gateway() -> str:
    """Return a gateway id of its own, because the broker keeps retained messages over tests."""
    return f"gw-{uuid.uuid4().hex[:8]}"


def a_command(peer: Relay, meter: str = "meter-1", **changes: object) -> Command:
    fields: dict[str, object] = {
        "id": uuid.uuid4(),
        "gateway": peer.gateway,
        "context": "generic_lis200",
        "call": "read_single_value",
        "kwargs": {"address": "2:300"},
        "issued": now(),
        "ttl_seconds": 30,
        "meter": meter,
    }
    return Command(**(fields | changes))  # type: ignore[arg-type]  # fields by name


async def test_scheduled_readings_reach_the_hub_once_each(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        single, archive = a_task(), an_archive_task("quarterly")
        line = a_line(endpoint)
        # The same task twice runs once.
        devices = [
            a_device(line, "meter-1", "1", [single.id, archive.id, single.id]),
            a_device(line, "meter-2", "2", [single.id]),
        ]
        await hub.plan(3, lines=[line], devices=devices, tasks=[single, archive])
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
            await hub.until(lambda: len([run for run in hub.runs() if run.outcome == "done"]) >= 6)
            await hub.until(lambda: hub.online[-1].depth == 0)
            assert agent.store.readings.aside() == 0
        await hub.until(lambda: not hub.online[-1].online)
        ticks = [(run.task, run.device, run.tick) for run in hub.runs()]
        assert len(ticks) == len(set(ticks))
        assert {run.outcome for run in hub.runs()} <= {"done"}
        assert [applied.revision for applied in hub.applied()] == [3]
        assert not hub.applied()[0].problems
        keys = [(reading.device, reading.series, reading.timestamp) for reading in hub.readings]
        assert len(keys) == len(set(keys))
        total = next(reading for reading in hub.readings if reading.series == "2:300")
        assert total.unit == "m3"
        assert sum(run.readings for run in hub.runs()) == len(hub.readings)


async def test_the_stored_plan_runs_while_hub_and_broker_are_away(gateway: str, tmp_path: pathlib.Path) -> None:
    clock = fast_clock()
    async with meters(clock) as endpoint:
        task, line = a_task(), a_line(endpoint)
        device = a_device(line, tasks=[task.id])
        with mosquitto() as broker:
            place = gateway_settings(tmp_path, broker.url, gateway)
            key = SigningKey.generate()
            async with relay(broker.url, gateway, key) as hub:
                await hub.plan(1, lines=[line], devices=[device], tasks=[task])
                async with running(Agent(place, clock)) as agent:
                    await hub.until(hub.applied)
                    # What has no receipt yet would be told to the next relay once more.
                    await until(lambda: agent.store.reports.depth() == 0)
            broker.kill()
            async with running(Agent(place, clock)) as agent:
                await until(lambda: agent.store.readings.depth() >= 2)
                # The broker comes back, and knows nothing any more.
                broker.start()
                async with relay(broker.url, gateway, key) as hub:
                    await hub.until(lambda: len(hub.readings) >= 2)
                    await hub.until(lambda: hub.online and hub.online[-1].depth == 0)
                    # What of the plan runs is told again: it may be another version of the agent than the last time.
                    assert [applied.revision for applied in hub.applied()] == [1]
        instants = sorted(reading.timestamp for reading in hub.readings)
        assert len(instants) == len(set(instants))


async def test_rows_without_receipt_come_again_and_old_receipts_delete_nothing(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        task, line = a_task(), a_line(endpoint)
        await hub.plan(1, lines=[line], devices=[a_device(line, tasks=[task.id])], tasks=[task])
        hub.receipting = False
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
            # The same batch, unchanged, more than once.
            await hub.until(lambda: len(hub.batches) >= 4)
            names = [batch.name for _, batch in hub.batches]
            assert len(names) > len(set(names))
            forged = BatchName(agent.store.id, names[0].first, names[0].last, bytes(16))
            for channel in (Channel.READINGS, Channel.REPORT):
                await hub.receipt(channel, forged)
            await asyncio.sleep(0.3)
            assert agent.store.reports.through() == 0
            hub.receipting = True
            await hub.until(lambda: agent.store.reports.depth() == 0 and agent.store.readings.depth() == 0)
            # A restored hub asks for the tail.
            seen = len(hub.reports)
            await hub.resend(Channel.REPORT, agent.store.id, 1)
            await hub.until(lambda: len(hub.reports) >= 2 * seen)


async def test_what_a_lost_relay_had_is_sent_again_at_its_last_word(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    """By itself it would be after a minute; a relay that starts or goes says hello, and be it by its will."""
    settings = msgspec.structs.replace(gateway_settings(tmp_path, broker.url, gateway), timing=Timing())
    assert settings.timing.resend > 2 * PATIENCE
    async with relay(broker.url, gateway) as hub:
        hub.receipting = False
        await hub.plan(1)
        async with running(Agent(settings, Clock())) as agent:
            await hub.until(lambda: hub.batches)
            sent = hub.batches[-1][1].name
            hub.receipting = True
            await hub.hello()
            await hub.until(lambda: agent.store.reports.depth() == 0)
            assert [batch.name for _, batch in hub.batches].count(sent) == 2


async def test_a_receipt_from_before_a_resend_delivers_nothing(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    """A hub was restored: what it had receipted before is played again while its rows are on their way once more."""
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        task, line = a_task(), a_line(endpoint)
        await hub.plan(1, lines=[line], devices=[a_device(line, tasks=[task.id])], tasks=[task])
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
            await hub.until(lambda: len(hub.readings) >= 3)
            await hub.plan(2)
            await hub.until(lambda: hub.online[-1].plan_revision == 2 and hub.online[-1].depth == 0)
            stored = len(hub.readings)
            played, hub.receipting = list(hub.receipts), False
            await hub.resend(Channel.READINGS, agent.store.id, 1)
            await until(lambda: agent.store.readings.depth() == stored)
            for channel, name in played:
                await hub.receipt(channel, name)
            await asyncio.sleep(0.5)
            assert agent.store.readings.depth() == stored
            hub.readings.clear()
            hub.receipting = True
            await hub.until(lambda: agent.store.readings.depth() == 0)
            assert len({reading.timestamp for reading in hub.readings}) == stored
            # And a sequence is never used twice.
            assert agent.store.readings.last() >= 2 * stored


class LateClock(Clock):
    """A gateway's clock that is four days late, and that nobody keeps in step."""

    def now(self) -> dt.datetime:
        return super().now() - dt.timedelta(days=4)

    def synchronised(self) -> bool:
        return False


async def test_an_old_receipt_tells_no_time(broker: Mosquitto, gateway: str, tmp_path: pathlib.Path) -> None:
    """Played back by somebody, it agrees with a clock that is as old as it is."""
    clock = LateClock()
    async with relay(broker.url, gateway) as hub:
        await hub.plan(1)
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
            await hub.until(lambda: hub.applied() and agent.store.reports.depth() == 0)
            assert agent.store.get("hub_time") is not None
            channel, name = hub.receipts[0]
            await hub.say(Channel.RECEIPT, encode(Receipt(str(channel), [name], clock.now())))
            await hub.plan(2)
            await hub.until(lambda: len(hub.applied()) == 2 and agent.store.reports.depth() == 0)
            assert agent.store.get("confirmed") is None


async def test_a_command_runs_once_however_often_it_comes(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        line = a_line(endpoint)
        await hub.plan(1, lines=[line], devices=[a_device(line)])
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
            await hub.until(hub.applied)
            command = a_command(hub)
            await hub.command(command)
            await hub.command(command)
            await hub.until(lambda: [update for update in hub.updates(command.id) if update.state == "done"])
            await hub.command(command)
            old = a_command(hub, issued=now() - dt.timedelta(hours=1))
            await hub.command(old)
            foreign = a_command(hub, store=bytes(16))
            await hub.command(foreign)
            wrong = a_command(hub, kwargs={"adress": "2:300"})
            await hub.command(wrong)
            late = a_command(hub, delay_seconds=86_400, ttl_seconds=1)
            await hub.command(late)
            cancelled = a_command(hub, delay_seconds=86_400, ttl_seconds=604_800)
            await hub.command(cancelled)
            await hub.command(a_command(hub, cancels=cancelled.id))
            early = uuid.uuid4()
            await hub.command(a_command(hub, cancels=early))
            await hub.command(a_command(hub, id=early))
            ends = {command.id: "done", old.id: "expired", foreign.id: "refused", wrong.id: "refused"}
            ends |= {late.id: "expired", cancelled.id: "cancelled", early: "cancelled"}

            def ended() -> bool:
                return all(hub.updates(key) and hub.updates(key)[-1].state in FINAL_STATES for key in ends)

            await hub.until(ended)
            assert {key: hub.updates(key)[-1].state for key in ends} == ends
            assert agent.store.id.hex() not in hub.updates(wrong.id)[-1].cause
        assert [update.state for update in hub.updates(command.id)] == ["accepted", "running", "done"]
        assert [reading.series for reading in hub.updates(command.id)[-1].readings] == ["2:300"]
        assert "task_kwargs.adress" in hub.updates(wrong.id)[-1].cause
        assert "store lost" in hub.updates(foreign.id)[-1].cause
        assert [run.command for run in hub.runs()] == [command.id]
        assert len(hub.readings) == 1


async def test_items_that_cannot_run_are_reported_and_the_rest_runs(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        good, strange = a_task(), a_task("fortnightly", name="strange")
        line = a_line(endpoint)
        lost = a_device(a_line("socket://127.0.0.1:1"), "lost")
        device = a_device(line, tasks=[good.id, strange.id])
        await hub.plan(1, lines=[line], devices=[device, lost], tasks=[good, strange])
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)):
            await hub.until(lambda: any(run.outcome == "done" for run in hub.runs()))
            # An older plan, and one of somebody else's hub, change nothing.
            await hub.plan(0)
            await hub.say(Channel.PLAN, await hub.plan(1, lines=[line]), SigningKey.generate())
            await hub.until(lambda: "are ignored" in hub.online[-1].status)
        problems = {problem.item: problem.text for problem in hub.applied()[0].problems}
        assert problems.keys() == {str(strange.id), str(lost.id)}
        assert "fortnightly" in problems[str(strange.id)]
        assert {run.task for run in hub.runs()} == {good.id}


async def test_a_new_plan_moves_meters_and_takes_lines_away(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        task, dead, line = a_task(), a_line("socket://127.0.0.1:1", "dead"), a_line(endpoint)
        device = a_device(dead, tasks=[task.id])
        await hub.plan(1, lines=[dead], devices=[device], tasks=[task])
        async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
            await hub.until(lambda: any(run.outcome == "failed" for run in hub.runs()))
            assert "127.0.0.1:1" in hub.runs()[0].cause
            waits = a_command(hub, delay_seconds=600_000, ttl_seconds=604_800)
            await hub.command(waits)
            await hub.until(lambda: hub.updates(waits.id))
            # The same meter, on the line where it is; then no meter and no line at all.
            moved = Device(device.id, device.name, line.id, device.timezone, device.address, None, device.tasks)
            await hub.plan(2, lines=[line], devices=[moved], tasks=[task])
            await hub.until(lambda: any(run.outcome == "done" for run in hub.runs()))
            await hub.plan(3)
            await hub.until(lambda: [update.state for update in hub.updates(waits.id)] == ["accepted", "cancelled"])
            assert "revision 3" in hub.updates(waits.id)[-1].cause
            await until(lambda: not agent.store.runs.open())
            ended = len(hub.runs())
            await asyncio.sleep(2)
            assert len(hub.runs()) == ended


async def test_batches_are_cut_to_the_broker_s_packets(gateway: str, tmp_path: pathlib.Path) -> None:
    clock = fast_clock()
    with mosquitto(max_packet_size=2048) as broker:
        async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
            task, line = an_archive_task("quarterly"), a_line(endpoint)
            await hub.plan(1, lines=[line], devices=[a_device(line, tasks=[task.id])], tasks=[task])
            async with running(Agent(gateway_settings(tmp_path, broker.url, gateway), clock)) as agent:
                await hub.until(lambda: any(run.outcome == "done" for run in hub.runs()))
                await hub.until(lambda: agent.store.readings.depth() == 0)
            assert max(hub.packets) <= 2048
            assert hub.readings


async def test_a_hanging_broker_is_left_and_met_again(gateway: str, tmp_path: pathlib.Path) -> None:
    clock = fast_clock()
    key = SigningKey.generate()
    with mosquitto() as broker:
        place = gateway_settings(tmp_path, broker.url, gateway, answer=0.5)
        async with meters(clock) as endpoint, running(Agent(place, clock)) as agent:
            async with relay(broker.url, gateway, key) as hub:
                task, line = a_task(), a_line(endpoint)
                await hub.plan(1, lines=[line], devices=[a_device(line, tasks=[task.id])], tasks=[task])
                await hub.until(hub.applied)
            first = agent.store.session
            broker.hang()
            # It goes on polling, notices, and tries again.
            await until(lambda: agent.store.session > first and agent.store.readings.depth() >= 1)
            broker.resume()
            async with relay(broker.url, gateway, key) as hub:
                await hub.until(lambda: hub.readings and hub.online and hub.online[-1].online)
