"""What a broker sends, taken apart: packets out of a stream of bytes, and a PUBLISH into what we need of it.

paho looks through all names of all properties for each property that it decodes: with the four user properties of a
batch that costs more than to check its signature. All numbers of sections are MQTT 5's.
"""

import struct
from typing import NamedTuple

PUBLISH, PUBACK = 0x30, 0x40
"""Kinds of packets, as the upper half of the first byte has them (2.1.2)."""

_QOS = 0x06
_RETAIN = 0x01
_LONGEST = 4
"""Bytes of a variable byte integer, at most (1.5.5)."""

_RESPONSE_TOPIC, _CORRELATION, _SUBSCRIPTION, _USER = 0x08, 0x09, 0x0B, 0x26
_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}
_CONTENT_TYPE = 0x03
"""The properties of a PUBLISH (3.3.2.3), and how many bytes those have whose length is fixed."""

_short = struct.Struct(">H").unpack_from


class MalformedError(Exception):
    """The broker sent what is no packet, or none that it may send us."""


class Incoming(NamedTuple):
    """A message from the broker, with what MQTT 5 says beside the payload."""

    topic: str
    payload: bytes
    retained: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


def frame(held: bytes | bytearray, start: int, longest: int) -> tuple[int, int] | None:
    """Return where the body of the packet that begins at ``start`` begins and ends; None while it is not all there.

    Raises:
        MalformedError: when its length is none, or the whole packet has more than ``longest`` bytes.
    """
    size = shift = 0
    at = start + 1
    while at < len(held):
        byte = held[at]
        size |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            if at + size - start > longest:
                raise MalformedError(f"a packet has {at + size - start} bytes, more than {longest}")
            return (at, at + size) if at + size <= len(held) else None
        shift += 7
        if shift == 7 * _LONGEST:
            raise MalformedError("a packet's length has more than four bytes")
    return None


def read_publish(head: int, body: bytes) -> tuple[Incoming, bytes]:
    """Take a PUBLISH apart (3.3): the message, and its packet id, which is empty with QoS 0.

    Raises:
        MalformedError: when it is none, or has QoS 2, which nobody asked for.
    """
    qos = head & _QOS
    if qos not in {0x00, 0x02}:
        raise MalformedError("a message has QoS 2 or 3")
    try:
        at = 2 + _short(body, 0)[0]
        topic = body[2:at].decode()
        packet_id = b""
        if qos:
            packet_id = body[at : at + 2]
            at += 2
        size, at = _variable(body, at)
        said = _properties(body, at, at + size) if size else _NOTHING
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise MalformedError(f"a message cannot be read: {error}") from error
    if at + size > len(body) or not topic:
        raise MalformedError("a message's properties are longer than they say, or it has no topic")
    return Incoming(topic, body[at + size :], bool(head & _RETAIN), *said), packet_id


_Said = tuple[str | None, bytes | None, tuple[tuple[str, str], ...]]
"""Response topic, correlation, user properties."""

_NOTHING: _Said = (None, None, ())


def _properties(body: bytes, at: int, end: int) -> _Said:
    response_topic: str | None = None
    correlation: bytes | None = None
    user: list[tuple[str, str]] = []
    while at < end:
        kind = body[at]
        at += 1
        if kind == _USER:
            # As ``_text`` does it, twice, but without a call: each batch has four of these.
            middle = at + 2 + (body[at] << 8 | body[at + 1])
            last = middle + 2 + (body[middle] << 8 | body[middle + 1])
            user.append((body[at + 2 : middle].decode(), body[middle + 2 : last].decode()))
            at = last
        elif kind == _RESPONSE_TOPIC:
            told, at = _text(body, at)
            response_topic = told.decode()
        elif kind == _CORRELATION:
            correlation, at = _text(body, at)
        else:
            at = _after(kind, body, at)
    if at != end:
        raise MalformedError("a message's properties are longer than they say")
    return response_topic, correlation, tuple(user)


def _after(kind: int, body: bytes, at: int) -> int:
    """Return where a property ends that is nothing to us."""
    if kind in _FIXED:
        return at + _FIXED[kind]
    if kind == _SUBSCRIPTION:
        return _variable(body, at)[1]
    if kind == _CONTENT_TYPE:
        return _text(body, at)[1]
    raise MalformedError(f"a message has the unknown property {kind:#04x}")


def _text(body: bytes, at: int) -> tuple[bytes, int]:
    """Return bytes with their length before them (1.5.4), and where they end."""
    begin = at + 2
    end = begin + _short(body, at)[0]
    return body[begin:end], end


def _variable(body: bytes, at: int) -> tuple[int, int]:
    """Return a variable byte integer (1.5.5), and where it ends."""
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift == 7 * _LONGEST:
            raise MalformedError("a length has more than four bytes")
