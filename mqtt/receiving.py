"""paho's client, which reads what has come all at once.

paho reads a packet in four calls of the system, one packet for each turn of the event loop, and takes a PUBLISH apart
at great length; a relay spent more on that than on everything else, and received faster than it looked. So reading is
ours; what is no message and no PUBACK paho handles as ever. One read is 64 KiB at most, then everybody else has a turn.
"""

import time
from collections.abc import Callable

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt.packets import PUBACK, PUBLISH, Incoming, MalformedError, frame, read_publish

READ_BYTES = 64 * 1024

_KIND = 0xF0
_REASON = 2
_FAILURE = 0x80

_FINE = MQTTErrorCode.MQTT_ERR_SUCCESS
_SUCCESS = ReasonCode(PacketTypes.PUBACK)
_NOTHING = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]  # paho leaves its constructor untyped


class Receiving(PahoClient):
    """``take`` is called with each message; it is acknowledged afterwards, whatever became of it."""

    take: Callable[[Incoming], object]
    held: bytearray
    """What has come of a packet that is not all there."""
    longest: int
    """Bytes of a packet, at most: what the broker was told."""

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - paho's
        """Take in what has come, up to ``READ_BYTES``."""
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            data = self._sock_recv(READ_BYTES)
        except BlockingIOError:
            return _FINE
        except OSError:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        self._last_bytes_received = time.monotonic()
        self.held += data
        code = self._read_packets()
        return self._loop_rc_handle(code) if code else code

    def _read_packets(self) -> MQTTErrorCode:
        held, at = self.held, 0
        acknowledgements = bytearray()
        code = _FINE
        try:
            while not code and self._sock is not None and (place := frame(held, at, self.longest)):
                head, body = held[at], bytes(held[place[0] : place[1]])
                at = place[1]
                if head & _KIND == PUBLISH:
                    message, packet_id = read_publish(head, body)
                    self.take(message)
                    if packet_id:
                        acknowledgements += bytes((PUBACK, 2)) + packet_id
                elif head == PUBACK:
                    code = self._acknowledge(body)
                else:
                    code = self._handle(head, body)
        except (MalformedError, MalformedPacket):
            code = MQTTErrorCode.MQTT_ERR_PROTOCOL
        del held[:at]
        if acknowledgements and self._sock is not None:
            # One after another in one piece: to paho it is a packet like any other.
            self._packet_queue(PUBACK, bytes(acknowledgements), 0, 0)
        return code

    def _acknowledge(self, body: bytes) -> MQTTErrorCode:
        """Have paho tell whoever waits for a PUBACK (3.4); of what it says beside the id only a refusal counts."""
        mid = int.from_bytes(body[:2])
        if mid not in self._out_messages:
            return _FINE
        if len(body) > _REASON and body[_REASON] >= _FAILURE:
            return self._handle(PUBACK, body)
        return self._do_on_publish(mid, _SUCCESS, _NOTHING)

    def _handle(self, head: int, body: bytes) -> MQTTErrorCode:
        """Have paho handle a packet as if it had read it."""
        self._in_packet["command"] = head
        self._in_packet["remaining_length"] = len(body)
        self._in_packet["packet"] = bytearray(body)
        try:
            return self._packet_handle()
        finally:
            self._in_packet["command"] = 0
