"""The load of the bench ``ingest``: a process that publishes signed batches and hears their receipts, at little cost.

It speaks MQTT 5 over one plain socket, because a client's library would take more of the processors than the relay
that is measured: what it publishes was signed, and made into packets, before it says that it is ready. It subscribes to
every gateway's receipts and keeps a window of so many batches without receipt for each gateway, as agents do; with
``--rate`` it publishes so many batches a second whatever is receipted, and afterwards sends again, within windows, what
has no receipt, until everything has.

Input: ``go``. Output, one JSON object a line: ``{"ready": true}``; then seconds from the first publish to the last
receipt, how many batches, how many were sent again, and at what second how many had their receipt.
"""

import argparse
import json
import pathlib
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from mqtt.packets import frame
from protocol.envelopes import Signed
from protocol.readings import BatchName, name_from_properties
from protocol.reports import Receipt, decode_receipt
from protocol.topics import Channel, parse_topic, topic_for

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9
AGAIN_SECONDS = 3.0
"""After so many seconds without any receipt everything that has none is sent again."""

PATIENCE = 120.0
_RECEIVE_MAXIMUM = 0x21
_SIZES = {0x01: 1, 0x11: 4, 0x12: -1, 0x13: 2, 0x15: -1, 0x16: -1, 0x17: 1, 0x19: 1, 0x1A: -1, 0x1C: -1, 0x1F: -1}
_SIZES |= {0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
_LONGEST = 2**28
"""More than any packet has (1.5.5): the hub's are of its own bounds."""


def _length(value: int) -> bytes:
    """Return a variable byte integer (MQTT 5, 1.5.5)."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + _length(len(body)) + body


class Packed(msgspec.Struct, array_like=True):
    """A delivery as it is handed to this process: gateway, payload and user properties."""

    gateway: str
    payload: bytes
    properties: tuple[tuple[str, str], ...]


class Wire:
    """One connection to the broker: packets out as they are, packets in one by one."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = bytearray()
        client = _text("MQTT") + bytes([5, 2]) + struct.pack(">H", 600) + b"\0" + _text("ingest-load")
        self.send(_packet(0x10, client))
        kind, _, body = next(iter(self.packets(PATIENCE)))
        if kind != CONNACK or body[1]:
            raise RuntimeError(f"the broker refuses: {body.hex()}")
        self.in_flight = _receive_maximum(body[2:])

    def send(self, data: bytes) -> None:
        """Send it all."""
        self._socket.sendall(data)

    def packets(self, seconds: float) -> Iterator[tuple[int, int, bytes]]:
        """Wait at most so long for something to come; yield kind, flags and body of all that has come."""
        while not (found := self._take()):
            self._socket.settimeout(max(seconds, 0.0001))
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                return
            finally:
                self._socket.settimeout(PATIENCE)
            if not data:
                raise RuntimeError("the broker closed the connection")
            self._held += data
        yield from found

    def _take(self) -> list[tuple[int, int, bytes]]:
        found = []
        at, held = 0, self._held
        while place := frame(held, at, _LONGEST):
            begin, end = place
            found.append((held[at] >> 4, held[at] & 15, bytes(held[begin:end])))
            at = end
        del held[:at]
        return found


def _receive_maximum(properties: bytes) -> int:
    """Return how many publishes may be without PUBACK, as the CONNACK says (3.2.2.3.3)."""
    at = 1
    while at < len(properties):
        kind = properties[at]
        size = _SIZES[kind]
        if kind == _RECEIVE_MAXIMUM:
            return int.from_bytes(properties[at + 1 : at + 3], "big")
        at += 1 + (size if size > 0 else 2 + int.from_bytes(properties[at + 1 : at + 3], "big"))
    return 65535


class Load:
    """What is to be published, and how far it has come."""

    def __init__(self, wire: Wire, deliveries: Sequence[Packed], window: int) -> None:
        self._wire = wire
        self._window = window
        self._names: list[BatchName] = []
        self._parts: list[tuple[bytes, bytes]] = []
        self._of: list[str] = []
        self._waiting: dict[str, deque[int]] = {}
        self._flying: dict[str, int] = {}
        self._missing: dict[BatchName, int] = {}
        self._ready: deque[int] = deque()
        self._unacknowledged = 0
        self._next_id = 0
        self.paced = False
        """Whether only ``offer`` has something published, and no receipt makes room for more."""
        self.resent = 0
        for number, one in enumerate(deliveries):
            name = name_from_properties(one.properties)
            properties = b"".join(b"\x26" + _text(key) + _text(value) for key, value in one.properties)
            before = _text(topic_for(one.gateway, Channel.READINGS))
            after = _length(len(properties)) + properties + one.payload
            self._parts.append((b"\x32" + _length(len(before) + 2 + len(after)) + before, after))
            self._names.append(name)
            self._of.append(one.gateway)
            self._waiting.setdefault(one.gateway, deque()).append(number)
            self._missing[name] = number
        self._flying = dict.fromkeys(self._waiting, 0)
        self._order = deque(self._waiting)
        self._subscribe()

    def _subscribe(self) -> None:
        filters = b"".join(_text(topic_for(name, Channel.RECEIPT)) + b"\x01" for name in self._waiting)
        self._wire.send(_packet(0x82, b"\x00\x01\x00" + filters))
        while not any(kind == SUBACK for kind, _, _ in self._wire.packets(PATIENCE)):
            pass

    @property
    def done(self) -> int:
        """How many batches have their receipt."""
        return len(self._names) - len(self._missing)

    def fill_windows(self) -> None:
        """Have every gateway's window full, the gateways in turns."""
        for gateway in self._waiting:
            self._refill(gateway)

    def _refill(self, gateway: str) -> None:
        if self.paced:
            return
        waiting = self._waiting[gateway]
        while waiting and self._flying[gateway] < self._window:
            self._ready.append(waiting.popleft())
            self._flying[gateway] += 1

    def offer(self, count: int) -> bool:
        """Have so many more published, whatever is on its way; return whether there are more."""
        while count > 0 and self._order:
            gateway = self._order[0]
            self._order.rotate(-1)
            if self._waiting[gateway]:
                self._ready.append(self._waiting[gateway].popleft())
                self._flying[gateway] += 1
                count -= 1
            else:
                self._order.remove(gateway)
        return bool(self._order)

    def again(self) -> None:
        """Take back everything that has no receipt: it is sent again, within windows."""
        self._ready.clear()
        for gateway in self._waiting:
            self._waiting[gateway].clear()
            self._flying[gateway] = 0
        for number in self._missing.values():
            self._waiting[self._of[number]].append(number)
        self.resent += len(self._missing)
        self.fill_windows()

    def push(self) -> None:
        """Publish as much of what is ready as the broker lets us."""
        out = []
        while self._ready and self._unacknowledged < self._wire.in_flight:
            before, after = self._parts[self._ready.popleft()]
            self._next_id = self._next_id % 65535 + 1
            out.append(before + struct.pack(">H", self._next_id) + after)
            self._unacknowledged += 1
        if out:
            self._wire.send(b"".join(out))

    def hear(self, seconds: float) -> int:
        """Take in what comes within so many seconds, at most; return how many batches were receipted."""
        before = len(self._missing)
        acknowledgements = []
        for kind, flags, body in self._wire.packets(seconds):
            if kind == PUBACK:
                self._unacknowledged -= 1
            elif kind == PUBLISH:
                size = int.from_bytes(body[:2], "big")
                at = 2 + size
                if flags >> 1 & 3:
                    acknowledgements.append(b"\x40\x02" + body[at : at + 2])
                    at += 2
                at += 1 + body[at]
                self._receipted(parse_topic(body[2 : 2 + size].decode()).gateway, body[at:])
        if acknowledgements:
            self._wire.send(b"".join(acknowledgements))
        return before - len(self._missing)

    def _receipted(self, gateway: str, payload: bytes) -> None:
        message = decode_receipt(msgspec.msgpack.decode(payload, type=Signed).body)
        if not isinstance(message, Receipt):
            return
        for name in message.names:
            if self._missing.pop(name, None) is not None:
                self._flying[gateway] -= 1
        self._refill(gateway)


def run(load: Load, total: int, rate: float) -> dict[str, object]:
    """Publish everything until it is receipted."""
    begun = last = time.perf_counter()
    course: list[tuple[float, int]] = []
    offered, offering = 0, rate > 0
    load.paced = offering
    if not offering:
        load.fill_windows()
    while load.done < total:
        now = time.perf_counter()
        if offering:
            due = int((now - begun) * rate) - offered
            if due > 0:
                offering = load.paced = load.offer(due)
                offered += due
        load.push()
        if load.hear(0.002 if offering else 0.1):
            last = time.perf_counter()
        if not course or last - begun - course[-1][0] >= 1:
            course.append((round(last - begun, 2), load.done))
        if not offering and time.perf_counter() - last > AGAIN_SECONDS:
            load.again()
            last = time.perf_counter()
        if now - begun > PATIENCE * 5:
            raise RuntimeError(f"only {load.done} of {total} batches have their receipt")
    return {"seconds": last - begun, "batches": total, "resent": load.resent, "course": course}


def main(arguments: Sequence[str]) -> int:
    """Publish what a file holds when told to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._ingest_load", description=__doc__)
    parser.add_argument("port", type=int, help="the broker's port on this machine")
    parser.add_argument("file", type=pathlib.Path, help="the deliveries")
    parser.add_argument("--window", type=int, default=8, help="batches without receipt of a gateway (8)")
    parser.add_argument("--rate", type=float, default=0, help="batches a second, whatever is receipted")
    options = parser.parse_args(arguments)
    deliveries = msgspec.msgpack.decode(options.file.read_bytes(), type=list[Packed])
    load = Load(Wire(options.port), deliveries, options.window)
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(run(load, len(deliveries), options.rate)) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
