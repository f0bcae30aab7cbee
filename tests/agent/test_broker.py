"""The connection to the broker: a cancellation is never lost in it."""

import asyncio
import contextlib

import aiomqtt
import pytest

from agent.broker import BrokerError, _translated


@pytest.mark.parametrize("error", [None, aiomqtt.MqttError("gone")])
async def test_a_cancellation_that_the_client_swallows_still_counts(error: Exception | None) -> None:
    """wait_for of Python 3.11 does so; the uplink would live on half, without its senders."""

    async def publish() -> None:
        with _translated("broker:1"):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            if error is not None:
                raise error

    task = asyncio.create_task(publish())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_client_names_the_broker() -> None:
    with pytest.raises(BrokerError, match=r"the broker broker:1: gone"), _translated("broker:1"):
        raise aiomqtt.MqttError("gone")
