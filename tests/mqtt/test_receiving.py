"""What reads instead of paho, against a real Mosquitto: what a broker does to a connection, it survives or tells."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from benchmarks.mosquitto import Mosquitto, mosquitto
from mqtt.addresses import BrokerAddress
from mqtt.connection import Access, BrokerError, Connection, Incoming, Outgoing, connect
from mqtt.packets import frame
from mqtt.receiving import Receiving
from protocol.wire import MAX_MESSAGE_BYTES

LOGIN = ("relay", "right")


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with mosquitto(login=LOGIN) as running:
        yield running


def access(broker: Mosquitto, password: str = LOGIN[1], keepalive: int = 20) -> Access:
    return Access(BrokerAddress("127.0.0.1", broker.port, user=LOGIN[0]), password, keepalive=keepalive)


@contextlib.asynccontextmanager
async def subscribed(broker: Mosquitto, *filters: str, keepalive: int = 20) -> AsyncIterator[Connection]:
    async with connect(access(broker, keepalive=keepalive), None) as connection:
        await connection.subscribe(filters)
        yield connection


async def test_a_message_comes_with_all_that_was_said_beside_it(broker: Mosquitto) -> None:
    async with subscribed(broker, "a/#") as connection:
        user = [("name", "ä"), ("name", "2")]
        said = Outgoing("a/b", b"1", expiry=60, correlation=b"\x00\x01", response_topic="r/s", user_properties=user)
        await connection.publish(said)
        message = await anext(connection.messages())
        assert message == Incoming(
            "a/b", b"1", response_topic="r/s", correlation=b"\x00\x01", user_properties=tuple(user)
        )


async def test_messages_of_any_size_come_in_order_and_whole(broker: Mosquitto) -> None:
    """The largest takes several reads; the small ones between them come many at a read."""
    sizes = [1, MAX_MESSAGE_BYTES, *range(200), MAX_MESSAGE_BYTES, 0, 70_000]
    async with subscribed(broker, "sizes") as connection:

        async def publish() -> None:
            for number, size in enumerate(sizes):
                await connection.publish(Outgoing("sizes", number.to_bytes() * size, correlation=b"%d" % number))

        publishing = asyncio.create_task(publish())
        messages = connection.messages()
        for number, size in enumerate(sizes):
            message = await anext(messages)
            assert message.correlation == b"%d" % number
            assert message.payload == number.to_bytes() * size
        await publishing


async def test_an_idle_connection_lives_longer_than_its_keepalive(broker: Mosquitto) -> None:
    """Paho pings by when something was last heard; the broker would end it after one and a half times that."""
    async with subscribed(broker, "idle", keepalive=1) as connection:
        await asyncio.sleep(2.6)
        await connection.publish(Outgoing("idle", b"1"))
        assert (await anext(connection.messages())).payload == b"1"


async def test_a_second_connection_of_the_same_name_ends_the_first(broker: Mosquitto) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(connect(access(broker), "same"))
        await first.subscribe(["taken"])
        waiting = asyncio.ensure_future(anext(first.messages()))
        second = await stack.enter_async_context(connect(access(broker), "same"))
        with pytest.raises(BrokerError):
            await asyncio.wait_for(waiting, 5)
        await second.publish(Outgoing("taken", b"1"))
        with pytest.raises(BrokerError):
            await first.publish(Outgoing("taken", b"1"))


async def test_a_wrong_password_is_told(broker: Mosquitto) -> None:
    with pytest.raises(BrokerError, match=r"[Nn]ot authori[sz]ed"):
        async with connect(access(broker, "wrong"), None):
            pass


async def test_after_unsubscribing_nothing_comes(broker: Mosquitto) -> None:
    async with subscribed(broker, "on", "off") as connection:
        await connection.unsubscribe(["off"])
        await connection.publish(Outgoing("off", b"0"))
        await connection.publish(Outgoing("on", b"1"))
        assert (await anext(connection.messages())).topic == "on"


async def test_no_more_is_in_flight_than_the_broker_allows(broker: Mosquitto) -> None:
    """Mosquitto announces 20 unless told otherwise; all are acknowledged for all that."""
    async with subscribed(broker, "many") as connection:
        client = connection._client
        publishing = [asyncio.ensure_future(connection.publish(Outgoing("many", b"1"))) for _ in range(200)]
        most = 0
        while not all(one.done() for one in publishing):
            most = max(most, len(client.acknowledged))
            await asyncio.sleep(0)
        await asyncio.gather(*publishing)
        assert 0 < most <= 20


async def test_messages_that_came_before_the_broker_went_are_still_handed_out() -> None:
    with mosquitto() as broker:
        async with connect(Access(BrokerAddress("127.0.0.1", broker.port)), None) as connection:
            await connection.subscribe(["last"])
            for number in range(3):
                await connection.publish(Outgoing("last", b"%d" % number))
            await asyncio.sleep(0.1)
            broker.kill()
            messages = connection.messages()
            assert [(await anext(messages)).payload for _ in range(3)] == [b"0", b"1", b"2"]
            with pytest.raises(BrokerError):
                await asyncio.wait_for(anext(messages), 5)


def test_what_is_used_of_paho_is_there() -> None:
    """Another version of paho may have none of it, and would receive nothing or never write."""
    client = PahoClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.__class__ = Receiving
    assert isinstance(client, Receiving)
    methods = ("_sock_recv", "_loop_rc_handle", "_packet_handle", "_packet_queue", "_do_on_publish")
    assert [name for name in methods if not callable(getattr(client, name, None))] == []
    assert {"command", "remaining_length", "packet"} <= client._in_packet.keys()
    assert client._out_messages == {}
    assert isinstance(client._last_bytes_received, float)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.lists(st.integers(1, 40), min_size=1))
def test_however_a_stream_is_cut_the_same_messages_come(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(_publish(number, payload) for number, payload in enumerate(payloads))
    client = Fed(stream, cuts)
    while client.rest:
        assert client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
    assert [message.payload for message in client.taken] == payloads
    assert client.acknowledged == [number + 1 for number in range(len(payloads))]


def _publish(number: int, payload: bytes) -> bytes:
    body = b"\x00\x01t" + (number + 1).to_bytes(2) + b"\x00" + payload
    size = len(body)
    return b"\x32" + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + body


class Fed(Receiving):
    """Reads from a stream that is cut into pieces in place of a socket, and keeps what it would write."""

    def __init__(self, stream: bytes, cuts: list[int]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.rest, self._cuts = stream, itertools.cycle(cuts)
        self.taken: list[Incoming] = []
        self.acknowledged: list[int] = []
        self.held, self.longest, self.take = bytearray(), 1000, self.taken.append
        self._sock = object()  # type: ignore[assignment]  # there is one, as far as paho looks

    def _sock_recv(self, bufsize: int) -> bytes:
        size = min(bufsize, next(self._cuts))
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

    def _packet_queue(self, command: int, packet: bytes | bytearray, *_others: object) -> MQTTErrorCode:
        held, at = packet, 0
        while (place := frame(held, at, self.longest)) is not None:
            assert held[at] == command == 0x40
            self.acknowledged.append(int.from_bytes(held[place[0] : place[1]]))
            at = place[1]
        assert at == len(held)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def __del__(self) -> None:
        """Nothing to close."""
