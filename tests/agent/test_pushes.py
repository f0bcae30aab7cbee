"""Other people's devices and DLMS meters push to a whole agent: over its broker, over UDP with keys of its plan."""

import asyncio
import json
import pathlib
import socket
import struct
import uuid
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.app import Agent
from agent.clocks import Clock
from agent.settings import parse_broker
from mqtt.connection import Access, Outgoing, connect
from protocol.envelopes import SigningKey
from protocol.meter_keys import MeterKeys, gateway_sealing_key, seal_keys
from protocol.plans import PushMeter, Receiver, render_plan
from protocol.reports import UndecodablePush
from protocol.topics import Channel, topic_for
from tests.parts.gateways import gateway_settings, running
from tests.parts.mosquitto import Mosquitto, mosquitto
from tests.parts.relay import Relay, now, relay

METER = uuid.uuid4()
TITLE = bytes.fromhex("4D4D4D0000BC614E")
KEYS = MeterKeys(b"global unicast 1", b"authentication 1")


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with mosquitto() as one:
        yield one


@pytest.fixture
def gateway() -> str:
    """Return a gateway id of its own, because the broker keeps retained messages over tests."""
    return f"gw-{uuid.uuid4().hex[:8]}"


async def plan(peer: Relay, receiver: Receiver, revision: int = 1) -> list[str]:
    """Publish a plan with this receiver alone, and wait until the gateway has it; return what it says is wrong."""
    body = render_plan(peer.gateway, revision, now(), lines=[], devices=[], tasks=[], callers=[], receivers=[receiver])
    await peer.say(Channel.PLAN, body)
    await peer.until(lambda: peer.applied() and peer.applied()[-1].revision == revision)
    return [problem.text for problem in peer.applied()[-1].problems]


async def test_json_on_the_gateways_topic_becomes_readings(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path
) -> None:
    receiver = Receiver(
        uuid.uuid4(), "others", "amr_um", "mqtt:others", {}, [PushMeter(METER, "pump 3", "pump 3", "UTC")]
    )
    at = now().replace(microsecond=0)
    reading = {"meter": "pump 3", "series": "1-0:1.8.0", "timestamp": at.isoformat(), "value": "17.50", "unit": "kWh"}
    strange = reading | {"timestamp": at.replace(tzinfo=None).isoformat()}
    topic = topic_for(gateway, Channel.PUSH, "others")
    async with (
        relay(broker.url, gateway) as peer,
        running(Agent(gateway_settings(tmp_path, broker.url, gateway), Clock())),
    ):
        await plan(peer, receiver)
        async with connect(Access(parse_broker(broker.url)), None) as device:
            await device.publish(Outgoing(topic, json.dumps([reading, strange]).encode()))
            await device.publish(Outgoing(topic_for(gateway, Channel.PUSH, "nobody"), b"{}"))
            await device.publish(Outgoing(topic, b"\xff not JSON"))
        await peer.until(lambda: peer.readings and len(peer.of(UndecodablePush)) >= 2)
        one = peer.readings[0]
        assert (one.device, one.meter, one.series, str(one.value), one.unit) == (
            METER,
            "pump 3",
            "1-0:1.8.0",
            "17.50",
            "kWh",
        )
        assert one.timestamp == at
        assert len(peer.readings) == 1
        causes = " ".join(report.cause for report in peer.of(UndecodablePush))
        assert "timezone" in causes
        assert "malformed" in causes


def datagram(counter: int) -> bytes:
    """A ciphered and authenticated DataNotification with one register, the counter as its value."""
    body = (
        bytes.fromhex("0f0000000100020309060100010800ff06") + struct.pack(">I", counter) + bytes.fromhex("02020f00161e")
    )
    head = b"\x30"
    content = AESGCM(KEYS.encryption).encrypt(TITLE + struct.pack(">I", counter), body, head + KEYS.authentication)
    content = head + struct.pack(">I", counter) + content[:-4]
    apdu = b"\xdb\x08" + TITLE + bytes([len(content)]) + content
    return struct.pack(">HHHH", 1, 1, 1, len(apdu)) + apdu


async def test_a_dlms_meter_is_heard_once_with_the_plans_keys_also_over_a_restart(
    broker: Mosquitto, gateway: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    number, other = uuid.uuid4(), uuid.uuid4()

    def receiver(*sealed: bytes) -> Receiver:
        meters = [
            PushMeter(device, name, title, "Europe/Vienna", [], keys)
            for device, name, title, keys in zip(
                (METER, other), ("feeder 2", "feeder 3"), (TITLE.hex(), "4D4D4D0000000001"), sealed, strict=True
            )
        ]
        return Receiver(number, "dlms", "dlms_push", f"udp://127.0.0.1:{port}", {}, meters)

    settings = gateway_settings(tmp_path, broker.url, gateway)
    values: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as meter:
        # Not connected: a port that is not open yet would be an error, which a meter in the field never sees.
        place = ("127.0.0.1", port)
        async with relay(broker.url, gateway) as peer:
            async with running(Agent(settings, Clock())):
                await peer.until(lambda: peer.online)
                assert not any(sign.sealing_key for sign in peer.online)
                assert await plan(peer, receiver(b"", b"")) == []
                await peer.until(lambda: peer.online[-1].sealing_key)
                while not peer.of(UndecodablePush):
                    meter.sendto(datagram(1000), place)
                    await asyncio.sleep(0.1)
                (own, strange) = peer.online[-1].sealing_key, gateway_sealing_key(SigningKey.generate()).public
                sealed = [seal_keys(own, KEYS, gateway, METER), seal_keys(strange, KEYS, gateway, other)]
                (problem,) = await plan(peer, receiver(*sealed), 2)
                assert problem.startswith("dlms: the keys of feeder 3 cannot be opened: it was sealed for another key")
                while not peer.readings:
                    # Until its port is open.
                    meter.sendto(datagram(1000), place)
                    await asyncio.sleep(0.1)
                for counter in (1002, 1001, 1002, 1001):
                    meter.sendto(datagram(counter), place)
                await peer.until(lambda: len(peer.readings) >= 3)
            async with running(Agent(settings, Clock())):
                while len(peer.readings) < 4 or not played_back(peer):
                    for counter in (1000, 1001, 1002, 10, 1003):
                        meter.sendto(datagram(counter), place)
                    await asyncio.sleep(0.2)
            values = [str(one.value) for one in peer.readings]
            assert {report.meter for report in peer.of(UndecodablePush)} == {TITLE.hex().upper()}
            causes = {report.cause for report in peer.of(UndecodablePush)} - played_back(peer)
            assert all("no encryption key of this meter is known" in cause for cause in causes)
    # What was unacknowledged at the restart may come twice over the wire; its value tells.
    assert sorted(set(values)) == ["1.000", "1.001", "1.002", "1.003"]
    # Neither what the agent keeps nor what it says has a key.
    said = [*contents(tmp_path), *(text.encode() for text in capfd.readouterr())]
    for key in KEYS.by_kind().values():
        assert not any(form in one for one in said for form in (key, key.hex().encode()))


def contents(folder: pathlib.Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


def played_back(peer: Relay) -> set[str]:
    return {report.cause for report in peer.of(UndecodablePush) if "played back" in report.cause}
