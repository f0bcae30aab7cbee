"""A tape of what went over the broker, to be played again: old receipts, repeated batches, whatever a fault may do.

It hears nothing of what it plays itself, and goes on when the broker comes back.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE = 10.0
MOST_MESSAGES = 20_000


class Recorded(NamedTuple):
    """One message as it went over the wire."""

    topic: str
    payload: bytes
    user_properties: tuple[tuple[str, str], ...]


class Tape:
    """Records the messages of topic filters, and plays them, as they were or as the caller made them."""

    def __init__(self, port: int, *topic_filters: str) -> None:
        self.messages: list[Recorded] = []
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        options = SubscribeOptions(qos=1, noLocal=True)
        filters = [(topic_filter, options) for topic_filter in topic_filters]
        self._client.on_connect = lambda client, *_: client.subscribe(filters)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not self._ready.wait(PATIENCE):
            raise RuntimeError(f"the broker on port {port} did not answer the tape within {PATIENCE:g} s")

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        pairs = getattr(message.properties, "UserProperty", []) if message.properties is not None else []
        if len(self.messages) >= MOST_MESSAGES:
            del self.messages[: MOST_MESSAGES // 2]
        self.messages.append(Recorded(message.topic, bytes(message.payload), tuple(pairs)))

    def play(self, messages: Iterable[Recorded] | None = None) -> int:
        """Publish these, or else all that was recorded until now; return how many the broker took."""
        sent = []
        for message in list(self.messages if messages is None else messages):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = list(message.user_properties)
            if self._client.is_connected():
                sent.append(self._client.publish(message.topic, message.payload, qos=1, properties=properties))
        until = time.monotonic() + PATIENCE
        for info in sent:
            # Both say that the connection has gone before the message did.
            with contextlib.suppress(ValueError, RuntimeError):
                info.wait_for_publish(max(0.01, until - time.monotonic()))
        return sum(info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and info.is_published() for info in sent)

    def end(self) -> None:
        """Stop recording."""
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def tape(port: int, *topic_filters: str) -> Iterator[Tape]:
    """Record for the length of the block."""
    running = Tape(port, *topic_filters)
    try:
        yield running
    finally:
        running.end()
