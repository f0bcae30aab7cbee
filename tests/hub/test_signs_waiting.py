"""Life signs that wait in the relay: of each gateway the newest true one is heard, and they are bounded in bytes."""

import asyncio
import datetime as dt
import time

from hub.signs_waiting import GATHER_SECONDS, KEPT_SECONDS, MANY_SIGNS, SIGNS_AT_ONCE, LifeSign, Signs
from mqtt.connection import Incoming
from protocol.envelopes import Signed, SigningKey
from protocol.reports import Online
from protocol.topics import Channel, topic_for
from protocol.wire import decode, encode

KEY = SigningKey.generate()
AT = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
PLENTY = 1 << 20


def said(
    number: int,
    *,
    session: int = 100,
    depth: int = 0,
    sequence: int = 0,
    online: bool = True,
    retained: bool = False,
) -> Incoming:
    """Make a life sign; those of the first ten gateways are of one size."""
    name = f"gw-{number}"
    sign = Online(
        name, online=online, session=session, store=bytes(16), software="", at=AT, depth=depth, sequence=sequence
    )
    topic = topic_for(name, Channel.ONLINE)
    return Incoming(topic, KEY.seal(topic, encode(sign)), retained=retained)


def forged(number: int, depth: int) -> Incoming:
    """Make one that names the gateway's key and is not signed with it."""
    message = said(number, depth=depth)
    envelope = decode(message.payload, Signed)
    return Incoming(message.topic, encode(Signed(envelope.key, envelope.body, bytes(64))))


SIZE = len(said(0).payload)


def told(heard: list[LifeSign]) -> list[tuple[str, int]]:
    """Which gateways are heard, and the depth that each names."""
    return [(one.sign.gateway, one.sign.depth) for one in heard]


async def test_of_each_gateway_the_newest_is_heard() -> None:
    signs = Signs(PLENTY)
    for depth in range(3):
        for number in range(2):
            assert signs.put(said(number, depth=depth)) == 0
    assert told(await signs.take()) == [("gw-0", 2), ("gw-1", 2)]
    assert signs.bytes == 0


async def test_what_came_out_of_order_is_put_right() -> None:
    """A message may come again: what was said after it knew of more."""
    signs = Signs(PLENTY)
    signs.put(said(0, sequence=6, depth=1))
    signs.put(said(0, sequence=5, depth=9))
    assert told(await signs.take()) == [("gw-0", 1)]


async def test_what_the_broker_kept_is_older_than_what_is_said_now() -> None:
    signs = Signs(PLENTY)
    signs.put(said(0, depth=1, retained=True))
    signs.put(said(0, depth=2))
    signs.put(said(1, depth=2))
    signs.put(said(1, depth=1, retained=True))
    signs.put(said(2, depth=1, retained=True))
    heard = await signs.take()
    assert told(heard) == [("gw-0", 2), ("gw-1", 2), ("gw-2", 1)]
    assert [one.retained for one in heard] == [False, False, True]


async def test_a_will_and_another_session_are_heard_by_themselves() -> None:
    signs = Signs(PLENTY)
    signs.put(said(0))
    signs.put(said(0, online=False))
    signs.put(said(0, session=101))
    heard = [(one.sign.session, one.sign.online) for one in await signs.take()]
    assert heard == [(100, True), (100, False), (101, True)]


async def test_a_forged_sign_keeps_no_true_one_from_being_heard() -> None:
    signs = Signs(PLENTY)
    signs.put(said(0, depth=1))
    signs.put(said(0, depth=2))
    signs.put(forged(0, depth=3))
    signs.put(forged(1, depth=4))
    assert told(await signs.take()) == [("gw-0", 2)]
    assert signs.bytes == 0


async def test_what_is_none_is_dropped() -> None:
    signs = Signs(PLENTY)
    assert signs.put(Incoming(said(1).topic, said(0).payload)) == 0
    assert signs.put(Incoming(said(1).topic, b"?")) == 0
    assert signs.put(Incoming(said(1).topic, b"")) == 0
    assert signs.bytes == 0


async def test_the_oldest_go_when_too_many_wait() -> None:
    signs = Signs(5 * SIZE)
    # Older ones of the same gateways go unnoticed.
    assert sum(signs.put(said(number, depth=depth)) for depth in range(3) for number in range(5)) == 0
    assert sum(signs.put(said(number)) for number in range(5, 8)) == 3
    assert signs.bytes == 5 * SIZE
    assert told(await signs.take()) == [("gw-3", 2), ("gw-4", 2), ("gw-5", 0), ("gw-6", 0), ("gw-7", 0)]
    assert signs.bytes == 0


async def test_what_could_not_be_noted_comes_before_what_came_since() -> None:
    """Of one connection the later sign is what holds: depth and receipts of the one before it are past."""
    signs = Signs(5 * SIZE)
    for number in range(3):
        signs.put(said(number))
    failed = await signs.take()
    for number in range(2, 6):
        signs.put(said(number, depth=1))
    assert signs.put_back(failed) == 2
    assert told(await signs.take()) == [("gw-2", 1), ("gw-3", 1), ("gw-4", 1), ("gw-5", 1)]
    assert signs.bytes == 0


async def test_many_that_the_broker_had_kept_wait_for_what_is_said_now() -> None:
    """A relay that connects gets one of each gateway, greets, and is answered by each that is there."""
    signs = Signs(PLENTY)
    there, kept = MANY_SIGNS + 1, 2 * MANY_SIGNS + 2
    for number in range(kept):
        signs.put(said(number, depth=1, retained=True))
    begun = time.monotonic()
    waiting = asyncio.create_task(signs.take())
    await asyncio.sleep(0.1)
    for number in range(there):
        signs.put(said(number, depth=2))
    assert told(await waiting) == [(f"gw-{number}", 2) for number in range(there)]
    assert time.monotonic() - begun < KEPT_SECONDS
    # Of the others nothing newer comes.
    assert told(await signs.take()) == [(f"gw-{number}", 1) for number in range(there, kept)]
    assert signs.bytes == 0


async def test_what_many_say_within_a_second_is_noted_together() -> None:
    signs = Signs(PLENTY)
    count = MANY_SIGNS + 1
    for depth in (1, 2):
        for number in range(count):
            signs.put(said(number, depth=depth))
        if depth == 1:
            # Nobody has waited before.
            assert len(await signs.take()) == count
    waiting = asyncio.create_task(signs.take())
    await asyncio.sleep(0.1)
    for number in range(count):
        signs.put(said(number, depth=3))
    assert not waiting.done()
    assert {depth for _, depth in told(await waiting)} == {3}
    # As many as one transaction takes wait for nobody.
    begun = time.monotonic()
    signs.put(said(0, depth=4))
    waiting = asyncio.create_task(signs.take())
    for number in range(SIGNS_AT_ONCE):
        signs.put(said(number, depth=4))
    assert len(await waiting) == SIGNS_AT_ONCE
    assert time.monotonic() - begun < GATHER_SECONDS


async def test_a_fleet_whose_signs_come_one_by_one_is_noted_in_groups_too() -> None:
    signs = Signs(PLENTY)
    some = MANY_SIGNS // 2
    for depth in range(3):
        for number in range(some):
            signs.put(said(number, depth=depth))
        # So far they are few within a second.
        assert len(await signs.take()) == some
    signs.put(said(0, depth=3))
    waiting = asyncio.create_task(signs.take())
    await asyncio.sleep(0.1)
    signs.put(said(1, depth=3))
    assert told(await waiting) == [("gw-0", 3), ("gw-1", 3)]


async def test_one_is_waited_for() -> None:
    signs = Signs(5)
    waiting = asyncio.create_task(signs.take())
    await asyncio.sleep(0)
    # Larger than the bound, but alone: it is heard.
    assert signs.put(said(1)) == 0
    assert told(await waiting) == [("gw-1", 0)]
