"""Receivers at work: what meters push is stored once with its provenance, through faults, restarts and full disks."""

import asyncio
import datetime as dt
import pathlib
import uuid

import pytest

from agent import reception
from agent.duties import judge
from agent.simulator.pushing import Hazards, ModeDMeter, P1Meter, PushingMeter, Way
from agent.simulator.pushing_ways import Outlet, outlet
from protocol.plans import PushMeter, Receiver, read_plan, render_plan
from protocol.readings import FROM_PUSH, NewMeterReading
from tests.parts.receiving import AT, GAS, METER, ZONE, Gateway, connected, gateway, p1, until


async def all_heard(one: Gateway, size: int) -> None:
    await until(lambda: one.receiving.figures()[0].bytes == size)


async def push(out: Outlet, meter: PushingMeter, at: dt.datetime) -> None:
    await out.send(meter.payload(at))


async def test_a_telegram_becomes_readings_of_its_meters_with_their_own_times(tmp_path: pathlib.Path) -> None:
    meter = P1Meter(1, "E0017")
    async with outlet("serve:127.0.0.1:0") as out, gateway(tmp_path, p1(out.place)) as one:
        await connected(out)
        await push(out, meter, AT)
        await until(one.readings)
        low, high, gas = one.readings()
        assert (low.device, low.meter, low.series) == (METER, "house 7", "energy low")
        assert (high.series, high.timestamp, high.provenance) == ("1-0:1.8.2", AT, FROM_PUSH)
        assert (gas.device, gas.series, gas.timestamp) == (GAS, "24.2.1", AT.replace(second=0))
        assert [(row.value, row.unit) for row in (low, high, gas)] == [(s.value, s.unit) for s in meter.said(AT)]
        assert (low.collected, low.clock_offset, low.run) == (AT, 0.0, None)


async def test_a_serial_port_is_opened_at_the_receivers_rate(tmp_path: pathlib.Path) -> None:
    async with outlet("pty") as out, gateway(tmp_path, p1(out.place, rate=9600)) as one:
        await until(lambda: one.opened)
        await asyncio.sleep(0.05)
        await push(out, P1Meter(1, "E0017"), AT)
        await until(one.readings)
        assert one.opened == [f"{out.place} 9600"]


async def test_through_loss_doubles_cuts_noise_and_restarts_each_slot_has_one_reading(tmp_path: pathlib.Path) -> None:
    """Every ten seconds for two hours of the meter's time; the way and the gateway are restarted meanwhile."""
    meter = P1Meter(3, "E0017", gas=False)
    way = Way(Hazards(loss=0.1, double=0.1, swap=0.05, cut=0.02, noise=0.02), seed=3)
    times = [AT.replace(second=0) + dt.timedelta(seconds=10 * step) for step in range(720)]
    expected = {said.timestamp: said.value for at in times for said in meter.said(at) if said.series == "1-0:1.8.1"}
    found: list[NewMeterReading] = []
    async with outlet("serve:127.0.0.1:0") as out:
        for half in (times[:400], times[400:]):
            async with gateway(tmp_path, p1(out.place, raster="quarter_hour")) as one:
                await connected(out)
                sent = 0
                for step, at in enumerate(half):
                    for payload in way.passes(meter.payload(at)):
                        await out.send(payload)
                        sent += len(payload)
                    if step in {200, len(half) - 1}:
                        await all_heard(one, sent)
                        await out.restart()
                        await connected(out)
                await until(lambda: one.receiving.figures()[0].readings)
                await asyncio.sleep(2 * reception.GATHER)
                found = [row for row in one.readings() if row.series == "energy low"]
    assert {row.timestamp: row.value for row in found}.items() <= expected.items()
    taken = [row.timestamp.replace(minute=row.timestamp.minute // 15 * 15, second=0) for row in found]
    assert len(taken) == len(set(taken)), "a slot was taken twice"
    assert len(taken) == 8
    assert all(row.timestamp - slot < dt.timedelta(minutes=3) for row, slot in zip(found, taken, strict=True))


async def test_strangers_are_told_by_what_they_call_themselves(tmp_path: pathlib.Path) -> None:
    async with outlet("serve:127.0.0.1:0") as out, gateway(tmp_path, p1(out.place)) as one:
        await connected(out)
        await push(out, P1Meter(1, "E9999", gas=False), AT)
        await until(one.readings)
        assert {(row.device, row.meter) for row in one.readings()} == {(None, "E9999")}


async def test_what_is_no_telegram_is_reported_with_its_bytes_and_bounded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "MOST_REPORTS", 3)
    async with outlet("serve:127.0.0.1:0") as out, gateway(tmp_path, p1(out.place, raster=None)) as one:
        await connected(out)
        whole = P1Meter(1, "E0017").payload(AT)
        for _ in range(50):
            await out.send(whole.replace(b"230.1", b"230.2"))
        await until(lambda: one.receiving.figures()[0].undecodable == 50)
        await until(lambda: len(one.refused()) == 3)
        first = one.refused()[0]
        assert (first.name, first.count, first.size) == ("p1", 1, len(whole) - 6)
        assert b"230.2" in first.payload
        assert "damaged" in first.cause
        assert first.source == out.place
        assert not one.readings()


async def test_an_endpoint_that_is_away_is_told_and_opened_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.receiving._FIRST_WAIT", 0.05)
    async with outlet("serve:127.0.0.1:0") as out:
        place = out.place
    async with gateway(tmp_path, p1(place)) as one:
        await until(one.receiving.trouble)
        assert "receiver p1: connection refused" in one.receiving.trouble()
        async with outlet(f"serve:{place.removeprefix('socket://')}") as out:
            await connected(out)
            await until(lambda: not one.receiving.trouble())
            await push(out, P1Meter(1, "E0017"), AT)
            await until(one.readings)
        await until(one.receiving.trouble)
        assert len(one.opened) >= 2


async def test_a_plan_that_changes_a_receiver_begins_it_anew_and_one_without_it_ends_it(
    tmp_path: pathlib.Path,
) -> None:
    async with outlet("serve:127.0.0.1:0") as out, gateway(tmp_path, p1(out.place, "E0018")) as one:
        await connected(out)
        changed = p1(out.place, raster=None)
        one.receiving.keep({changed.id: changed}, {})
        await until(lambda: len(one.opened) == 2)
        await connected(out)
        await push(out, P1Meter(1, "E0017", gas=False), AT)
        await until(lambda: METER in {row.device for row in one.readings()})
        one.receiving.keep({}, {})
        await until(lambda: not one.receiving.figures())
        await until(lambda: not out._writers)  # type: ignore[attr-defined]  # of the device server


async def test_meters_call_a_port_many_at_a_time(tmp_path: pathlib.Path) -> None:
    async with outlet("serve:127.0.0.1:0") as out:
        port = out.place.rpartition(":")[2]
    async with gateway(tmp_path, p1(f"listen://127.0.0.1:{port}", raster=None)) as one:
        await until(lambda: one.receiving.figures() and not one.receiving.trouble())
        await asyncio.sleep(0.1)
        async with outlet(f"tcp:127.0.0.1:{port}") as first, outlet(f"tcp:127.0.0.1:{port}") as second:
            payload = P1Meter(1, "E0017", gas=False).payload(AT)
            await first.send(payload[:100])
            await second.send(P1Meter(1, "E0018", gas=False).payload(AT))
            await asyncio.sleep(0.05)
            await first.send(payload[100:])
            await until(lambda: len(one.readings()) == 4)
        assert {row.meter for row in one.readings()} == {"house 7", "E0018"}


async def test_while_the_clock_is_not_believed_only_what_has_a_time_of_its_own_is_taken(
    tmp_path: pathlib.Path,
) -> None:
    meter = PushMeter(METER, "m-1", "0272031312565", ZONE)
    receiver = Receiver(uuid.uuid4(), "d0", "iec62056_push", "", {"raster": None}, [meter])
    async with outlet("serve:127.0.0.1:0") as out, outlet("serve:127.0.0.1:0") as other:
        undated = Receiver(receiver.id, "d0", "iec62056_push", other.place, receiver.kwargs, [meter])
        async with gateway(tmp_path, p1(out.place), undated) as one:
            one.believed = False
            await connected(out)
            await connected(other)
            await push(out, P1Meter(1, "E0017", gas=False), AT)
            await push(other, ModeDMeter(1, "0272031312565"), AT)
            await until(lambda: one.receiving.figures()[1].undated == 2)
            await until(one.readings)
            assert {row.meter for row in one.readings()} == {"house 7"}
            assert {(row.collected, row.clock_offset) for row in one.readings()} == {(None, None)}
            one.believed = True
            await push(other, ModeDMeter(1, "0272031312565"), AT)
            await until(lambda: "m-1" in {row.meter for row in one.readings()})
            dated, _ = [row for row in one.readings() if row.meter == "m-1"]
            assert (dated.timestamp, dated.provenance, dated.device) == (AT, "gateway", METER)


async def test_while_the_disk_is_full_nothing_is_lost_that_was_taken(tmp_path: pathlib.Path) -> None:
    meter = P1Meter(1, "E0017", gas=False)
    async with outlet("serve:127.0.0.1:0") as out, gateway(tmp_path, p1(out.place, raster=None)) as one:
        await connected(out)
        one.store._db.execute("PRAGMA max_page_count = 1")
        times = [AT + dt.timedelta(seconds=step) for step in range(60)]
        for at in times:
            await push(out, meter, at)
        await until(lambda: one.store.fault)
        assert len(one.readings()) < 120
        one.store._db.execute("PRAGMA max_page_count = 100000")
        await until(lambda: len(one.readings()) == 120)
        assert {row.timestamp for row in one.readings()} == set(times)


def test_a_receiver_that_this_version_cannot_run_is_a_problem_and_the_rest_runs() -> None:
    good = p1("socket://10.0.0.7:23")
    strange = [
        Receiver(uuid.UUID(int=8), "later", "telepathy", "udp://0.0.0.0:1"),
        Receiver(uuid.UUID(int=9), "wrong", "dsmr_p1", "udp://0.0.0.0:1"),
        Receiver(uuid.UUID(int=10), "odd", "dsmr_p1", "/dev/x", {}, [PushMeter(METER, "m", "", "Mars/Olympus")]),
    ]
    body = render_plan("gw-1", 3, AT, lines=[], devices=[], tasks=[], callers=[], receivers=[good, *strange])
    roster = judge(read_plan(body))
    assert roster.receivers == {good.id: good}
    told = {problem.item: problem.text for problem in roster.problems}
    assert set(told) == {str(one.id) for one in strange}
    assert "'telepathy' is no known receiver" in told[str(uuid.UUID(int=8))]
    assert {problem.kind for problem in roster.problems} == {"receiver"}
