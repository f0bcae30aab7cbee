"""An inbox bounded in bytes takes what fits, and as much again once that is taken out; who waits hears of all."""

import asyncio

from mqtt.inbox import Inbox
from mqtt.packets import Incoming


def message(size: int) -> Incoming:
    return Incoming("a", bytes(size))


def test_what_does_not_fit_is_refused_until_there_is_room() -> None:
    inbox = Inbox(1000)
    assert inbox.put(message(600))
    assert not inbox.put(message(401))
    assert inbox.put(message(400))
    first = inbox.take()
    assert first is not None
    assert len(first.payload) == 600
    assert inbox.put(message(600))
    assert inbox.held == 1000


async def test_whoever_waits_goes_on_with_a_message_or_when_the_connection_is_gone() -> None:
    inbox = Inbox()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(inbox.wait(gone))
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.put(message(1))
    await waiting
    assert inbox.take() == message(1)
    assert inbox.take() is None
    waiting = asyncio.create_task(inbox.wait(gone))
    await asyncio.sleep(0)
    gone.set_result(None)
    await waiting
    await inbox.wait(gone)


async def test_who_gives_up_waiting_keeps_nobody_else_from_it() -> None:
    inbox = Inbox()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(inbox.wait(gone))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    inbox.put(message(1))
    await inbox.wait(gone)
    assert inbox.take() is not None
