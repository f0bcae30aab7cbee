"""The connection to a broker: a cancellation is never lost in it, and none is made up."""

import asyncio
import contextlib

import aiomqtt
import pytest

from mqtt.addresses import BrokerAddress
from mqtt.connection import Access, BrokerError, Outgoing, _translated, connect
from tests.parts.silent_brokers import CONNACK, silent_broker


@pytest.mark.parametrize("error", [None, aiomqtt.MqttError("gone")])
async def test_a_cancellation_that_the_client_swallows_still_counts(error: Exception | None) -> None:
    """wait_for of Python 3.11 does so; the uplink would live on half, without its senders, and a relay not end."""

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


@pytest.mark.parametrize("answer", [b"", CONNACK])
async def test_a_broker_that_takes_nothing_any_more_is_left_quietly(answer: bytes) -> None:
    """Before its first answer, and with megabytes on their way: no goodbye can be said, and whoever waited goes on."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with silent_broker(answer) as port:
        for _ in range(2):
            # Twice: the second connection gets the file number of the first.
            with pytest.raises(BrokerError, match="timed out"):
                async with connect(Access(BrokerAddress("127.0.0.1", port), answer=0.2), None) as connection:
                    await asyncio.gather(*(connection.publish(Outgoing("a", bytes(200_000))) for _ in range(60)))
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert not told
