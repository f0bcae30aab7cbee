"""The two lanes of a relay: nobody waits long for a small one, neither starves, and groups fit the database's speed."""

import asyncio
import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from hub.ingest import Delivery
from hub.lanes import GROUP_DELIVERIES, GROUP_SECONDS, LEAST_BYTES, MOST_BYTES, SMALL_BYTES, Lanes
from protocol.topics import Channel, topic_for

NOW = dt.datetime(2026, 11, 22, 17, tzinfo=dt.UTC)
BULK = 60 * 1024


def delivery(size: int, channel: Channel = Channel.READINGS) -> Delivery:
    return Delivery(topic_for("gw-1", channel), bytes(size), (), NOW)


async def test_what_is_small_and_what_reports_passes_a_backlog_by() -> None:
    lanes = Lanes(1 << 24)
    for _ in range(100):
        assert lanes.put(delivery(BULK), Channel.READINGS)
    backlog = await lanes.take()
    assert {len(one.payload) for one in backlog} == {BULK}
    fresh, result = delivery(100), delivery(BULK, Channel.REPORT)
    lanes.put(fresh, Channel.READINGS)
    lanes.put(result, Channel.REPORT)
    assert await lanes.take() == [fresh, result]
    assert {len(one.payload) for one in await lanes.take()} == {BULK}


async def test_an_endless_stream_of_small_ones_lets_every_second_group_be_of_the_backlog() -> None:
    lanes = Lanes(1 << 24)
    for _ in range(10):
        lanes.put(delivery(BULK), Channel.READINGS)
    kinds = []
    for _ in range(6):
        for _ in range(GROUP_DELIVERIES):
            lanes.put(delivery(SMALL_BYTES), Channel.READINGS)
        kinds.append(len((await lanes.take())[0].payload) == BULK)
    assert kinds.count(True) == 3


async def test_beyond_its_limit_nothing_is_taken_in() -> None:
    lanes = Lanes(1000)
    assert lanes.put(delivery(1000), Channel.READINGS)
    assert not lanes.put(delivery(1), Channel.READINGS)
    assert lanes.bytes == 1000
    assert len(await lanes.take()) == 1
    assert lanes.bytes == 0
    assert lanes.put(delivery(1), Channel.READINGS)


async def test_an_empty_one_waits_for_the_next_delivery() -> None:
    lanes = Lanes(1000)
    taking = asyncio.ensure_future(lanes.take())
    await asyncio.sleep(0)
    assert not taking.done()
    lanes.put(delivery(10), Channel.READINGS)
    assert len(await taking) == 1


async def _settle(lanes: Lanes, fixed: float, per_byte: float) -> float:
    """Store a backlog with a database that takes so many seconds; return what a group takes in the end."""
    seconds = 0.0
    for _ in range(40):
        while lanes.put(delivery(BULK), Channel.READINGS):
            pass
        size = sum(len(one.payload) for one in await lanes.take())
        seconds = fixed + per_byte * size
        lanes.stored(seconds, size)
    return seconds


async def test_groups_become_as_large_as_fit_into_their_time() -> None:
    quick, slow, stuck = Lanes(1 << 24), Lanes(1 << 24), Lanes(1 << 24)
    assert 0.5 * GROUP_SECONDS < await _settle(quick, 0.02, 1e-6 / 3) < 1.5 * GROUP_SECONDS
    assert 0.5 * GROUP_SECONDS < await _settle(slow, 0.02, 1e-6) < 1.5 * GROUP_SECONDS
    assert slow.group_bytes < quick.group_bytes <= MOST_BYTES
    # Where a commit alone takes longer, groups do not become single deliveries: that would make it worse.
    await _settle(stuck, 1.0, 1e-6)
    assert stuck.group_bytes == LEAST_BYTES


@given(st.lists(st.tuples(st.integers(1, 70_000), st.booleans(), st.sampled_from(["", "take", "fail"])), max_size=80))
def test_everything_comes_out_once_and_in_the_order_of_its_lane(steps: list[tuple[int, bool, str]]) -> None:
    async def go() -> None:
        lanes, put, taken = Lanes(1 << 24), list[Delivery](), list[Delivery]()
        for size, report, do in steps:
            channel = Channel.REPORT if report else Channel.READINGS
            put.append(delivery(size, channel))
            assert lanes.put(put[-1], channel)
            if do == "take":
                taken += await lanes.take()
            elif do == "fail":
                group, waits = await lanes.take(), lanes.bytes
                lanes.put_back(group)
                assert lanes.bytes == waits + sum(len(one.payload) for one in group)
                assert (await lanes.take())[0] is group[0]
                lanes.put_back(group)
        while lanes.bytes:
            taken += await lanes.take()
        assert sorted(map(id, put)) == sorted(map(id, taken))
        bulk = [one for one in put if len(one.payload) > SMALL_BYTES and "report" not in one.topic]
        assert [one for one in taken if any(one is other for other in bulk)] == bulk

    asyncio.run(go())
