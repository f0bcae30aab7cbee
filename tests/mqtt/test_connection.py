"""The connection to a broker: a cancellation is never lost in it, and none is made up."""

import asyncio
import contextlib

import aiomqtt
import pytest

from mqtt.addresses import BrokerAddress
from mqtt.connection import Access, BrokerError, Outgoing, RefusedError, _translated, connect
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


async def test_a_message_that_the_broker_refuses_is_told_and_the_connection_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """MQTT 5, 3.4.2.1: 0x87 is "not authorized". Once in the log for many; raised where the hub notes what is there."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(CONNACK)
        for number in range(1, 4):
            await reader.read(1000)
            writer.write(b"\x40\x04" + number.to_bytes(2) + b"\x87\x00" if number < 3 else b"\x40\x02\x00\x03")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with connect(Access(BrokerAddress("127.0.0.1", port), answer=2.0), None) as connection:
            await connection.publish(Outgoing("a/b", b"1"))
            connection.refusals = True
            with pytest.raises(RefusedError, match="refuses a message on a/b: Not authorized"):
                await connection.publish(Outgoing("a/b", b"2"))
            await connection.publish(Outgoing("a/b", b"3"))
    assert [record.getMessage() for record in caplog.records] == [
        f"the broker 127.0.0.1:{port} refused 1 messages, at last on a/b: Not authorized"
    ]
