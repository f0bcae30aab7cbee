"""The relay's connection to its broker: where that is, and that nobody waits for a PUBACK that cannot come."""

import asyncio
import contextlib

import pytest

from hub.connection import connect, read_url
from mqtt.connection import BrokerError
from tests.parts.silent_brokers import CONNACK, silent_broker


def test_a_url_says_where_the_broker_is_and_who_comes() -> None:
    access = read_url("mqtts://relay:p%40ss@broker.example")
    assert (str(access.address), access.address.tls) == ("broker.example:8883", True)
    assert (access.address.user, access.password) == ("relay", "p@ss")


@pytest.mark.parametrize("answer", [b"", CONNACK])
async def test_a_broker_that_takes_nothing_any_more_is_left_quietly(answer: bytes) -> None:
    """Before its first answer, and with megabytes on their way: whoever publishes is told, and nothing stays behind."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with silent_broker(answer) as port:
        access = read_url(f"mqtt://127.0.0.1:{port}")._replace(answer=0.2)
        with pytest.raises(BrokerError, match="timed out"):
            async with connect(access, 1_000_000) as connection:
                await asyncio.gather(*(connection.publish("a", bytes(200_000)) for _ in range(60)))
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert not told


async def test_who_waits_for_a_puback_is_told_that_the_connection_is_lost() -> None:
    async with contextlib.AsyncExitStack() as broker:
        port = await broker.enter_async_context(silent_broker(CONNACK))
        async with connect(read_url(f"mqtt://127.0.0.1:{port}")._replace(answer=10.0), 1_000_000) as connection:
            publishing = asyncio.create_task(connection.publish("a", b"1"))
            await asyncio.sleep(0.05)
            assert not publishing.done()
            await broker.aclose()
            with pytest.raises(BrokerError, match="lost while publishing"):
                await publishing
