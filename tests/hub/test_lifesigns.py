"""Life signs that wait in the relay: bounded, and the newest are kept."""

import asyncio

from hub.connection import Incoming
from hub.lifesigns import Signs


def sign(number: int) -> Incoming:
    """Make a message of ten bytes."""
    return Incoming("amr", b"%010d" % number, retained=False, properties=())


async def test_the_oldest_go_when_too_many_wait() -> None:
    signs = Signs(50)
    assert sum(signs.put(sign(number)) for number in range(8)) == 3
    assert signs.bytes == 50
    assert [await signs.take() for _ in range(5)] == [sign(number) for number in range(3, 8)]
    assert signs.bytes == 0


async def test_one_is_waited_for() -> None:
    signs = Signs(5)
    waiting = asyncio.create_task(signs.take())
    await asyncio.sleep(0)
    # Larger than the bound, but alone: it is heard.
    assert signs.put(sign(1)) == 0
    assert await waiting == sign(1)
