"""A tape of what went over the broker, to be played again: old receipts, repeated batches, whatever a fault may do."""

import contextlib
import threading
from collections.abc import Iterator

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 10.0


class Tape:
    """Records every message of a topic filter; ``play`` publishes them all once more, as they were."""

    def __init__(self, port: int, topic_filter: str) -> None:
        self.messages: list[tuple[str, bytes, paho.MQTTMessage]] = []
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(topic_filter, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE)

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message))

    def play(self) -> int:
        """Publish what was recorded until now again, with its user properties; return how much that was."""
        recorded = list(self.messages)
        for topic, payload, message in recorded:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if message.properties is not None:
                properties.UserProperty = getattr(message.properties, "UserProperty", [])
            self._client.publish(topic, payload, qos=1, properties=properties).wait_for_publish(PATIENCE)
        return len(recorded)

    def end(self) -> None:
        """Stop recording."""
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def tape(port: int, topic_filter: str) -> Iterator[Tape]:
    """Record for the length of the block."""
    running = Tape(port, topic_filter)
    try:
        yield running
    finally:
        running.end()
