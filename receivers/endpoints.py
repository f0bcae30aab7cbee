"""Where pushes come in, as text: one form per way, taken apart in one place.

``/dev/...`` is a serial port; ``socket://HOST:PORT`` a TCP connection that the gateway makes (a device server, a P1
bridge); ``listen://HOST:PORT`` a TCP port that meters call; ``udp://HOST:PORT`` one for their datagrams;
``mqtt:NAME`` messages on the gateway's own broker connection. An address to listen on may be ``0.0.0.0`` or ``[::]``.
"""

import dataclasses
import enum
import re
import urllib.parse

from receivers.receiver import ReceiverError, Transport

MAX_ENDPOINT = 255
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_FORMS = "/dev/..., socket://HOST:PORT, listen://HOST:PORT, udp://HOST:PORT or mqtt:NAME"


class Way(enum.Enum):
    """How an endpoint is opened."""

    SERIAL = "serial"
    CONNECT = "socket"
    LISTEN = "listen"
    DATAGRAMS = "udp"
    BROKER = "mqtt"

    @property
    def transport(self) -> Transport:
        """What a receiver gets over it."""
        return {Way.DATAGRAMS: Transport.DATAGRAM, Way.BROKER: Transport.MESSAGE}.get(self, Transport.STREAM)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint taken apart: ``host`` and ``port`` of a network's, ``name`` of a port's path or a topic's word."""

    text: str
    way: Way
    host: str = ""
    port: int = 0
    name: str = ""


def parse_endpoint(text: str) -> Endpoint:
    """Take an endpoint apart.

    Raises:
        ReceiverError: naming ``endpoint`` and the forms that there are.
    """
    if not text.isprintable() or not 0 < len(text) <= MAX_ENDPOINT:
        raise ReceiverError("endpoint", f"expected {_FORMS}, at most {MAX_ENDPOINT} printable characters")
    if text.startswith("/"):
        return Endpoint(text, Way.SERIAL, name=text)
    if text.startswith("mqtt:"):
        name = text.removeprefix("mqtt:")
        if not _NAME.fullmatch(name):
            raise ReceiverError("endpoint", f"{text!r}: a name [a-z0-9][a-z0-9-]{{0,62}} follows mqtt:")
        return Endpoint(text, Way.BROKER, name=name)
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ReceiverError("endpoint", f"{text!r} cannot be read ({error}); expected {_FORMS}") from error
    if parts.scheme not in {"socket", "listen", "udp"}:
        raise ReceiverError("endpoint", f"{text!r} is none of {_FORMS}")
    if not host or not port or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ReceiverError("endpoint", f"{text!r}: expected {parts.scheme}://HOST:PORT and nothing else")
    return Endpoint(text, Way(parts.scheme), host, port)
