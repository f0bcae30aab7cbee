"""What a broker sends is read as paho reads it, whole or in pieces, and what is no packet is told from what is one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt.packets import MalformedError, frame, read_publish

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def publish(topic: str, qos: int, payload: bytes, **told: Any) -> bytes:  # noqa: ANN401 - a property's own
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in told.items():
        if value is not None:
            setattr(properties, name, value)
    packed: bytes = properties.pack()  # type: ignore[no-untyped-call]
    encoded = topic.encode()
    return len(encoded).to_bytes(2) + encoded + (b"\x12\x34" if qos else b"") + packed + payload


@given(
    topic=WORDS.filter(bool),
    qos=st.sampled_from([0, 1]),
    retain=st.booleans(),
    payload=st.binary(max_size=300),
    user=st.lists(st.tuples(WORDS, WORDS), max_size=6),
    response=st.none() | WORDS.filter(bool),
    correlation=st.none() | st.binary(min_size=1, max_size=20),
    expiry=st.none() | st.integers(0, 2**32 - 1),
    content=st.none() | WORDS.filter(bool),
)
def test_a_message_is_read_as_paho_reads_it(
    *, topic: str, qos: int, retain: bool, payload: bytes, user: list[tuple[str, str]], response: str | None,
    correlation: bytes | None, expiry: int | None, content: str | None,
) -> None:  # fmt: skip
    head = 0x30 | qos << 1 | retain
    body = publish(
        topic, qos, payload, UserProperty=user or None, ResponseTopic=response, CorrelationData=correlation,
        MessageExpiryInterval=expiry, ContentType=content,
    )  # fmt: skip
    message, packet_id = read_publish(head, body)
    theirs = _packet.decode_publish(head, bytearray(body), MQTTProtocolVersion.MQTTv5)
    assert message.topic.encode() == theirs.topic
    assert message.payload == theirs.payload == payload
    assert message.retained == theirs.retain == retain
    assert packet_id == (theirs.mid.to_bytes(2) if qos else b"")
    assert message.response_topic == getattr(theirs.properties, "ResponseTopic", None) == response
    assert message.correlation == getattr(theirs.properties, "CorrelationData", None) == correlation
    assert list(message.user_properties) == getattr(theirs.properties, "UserProperty", []) == user


@given(st.binary(max_size=60), st.sampled_from([0x30, 0x32, 0x34, 0x36]))
def test_bytes_are_a_message_or_malformed(body: bytes, head: int) -> None:
    try:
        message, _ = read_publish(head, body)
    except MalformedError:
        return
    assert message.topic


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=4), st.integers(0, 60_000))
def test_packets_are_found_as_soon_as_they_are_there(sizes: list[int], there: int) -> None:
    stream = b"".join(bytes([0xD0]) + _length(size) + bytes(size) for size in sizes)
    held, at, found = stream[:there], 0, []
    while (place := frame(held, at, 100_000)) is not None:
        found.append(place[1] - place[0])
        at = place[1]
    ends = [sum(1 + len(_length(size)) + size for size in sizes[: number + 1]) for number in range(len(sizes))]
    assert found == sizes[: sum(end <= len(held) for end in ends)]


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])


def test_a_length_without_end_is_malformed() -> None:
    with pytest.raises(MalformedError):
        frame(b"\x30\xff\xff\xff\xff\x01", 0, 1_000_000)


def test_a_packet_that_is_too_long_is_malformed_at_its_length() -> None:
    assert frame(b"\x30" + _length(997), 0, 1000) is None
    with pytest.raises(MalformedError, match="1001 bytes"):
        frame(b"\x30" + _length(998), 0, 1000)
