"""A queue that is bounded in bytes takes what fits, and as much again once that is taken out."""

import asyncio

import aiomqtt
import pytest

from mqtt.queues import bounded


def message(size: int) -> aiomqtt.Message:
    return aiomqtt.Message("a", bytes(size), 1, retain=False, mid=1, properties=None)


async def test_what_does_not_fit_is_refused_until_there_is_room() -> None:
    queue = bounded(1000)()
    queue.put_nowait(message(600))
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait(message(401))
    queue.put_nowait(message(400))
    assert len((await queue.get()).payload) == 600
    queue.put_nowait(message(600))
    assert queue.qsize() == 2
