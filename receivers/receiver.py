"""What a receiver is made of; ``receivers.catalogue`` lists them all.

A receiver is to what meters push what a context is to a task: one module, with a ``Receiver`` as ``RECEIVER``. Its
kwargs are a msgspec struct that forbids unknown fields: its fields, with the description in their ``msgspec.Meta``,
are the documentation, the check of the hub's 422 and of the agent's refusal, and the typed argument of ``open``.

Rules:
- Sans-io: bytes and instants in, ``Pushed`` and ``Undecodable`` out. Nothing waits, nothing raises for what came over
  the wire: whatever a payload is, it becomes values or an ``Undecodable`` with the cause.
- Bounded: a decoder holds at most ``MAX_BUFFER`` bytes, an intake grows with the meters that it is told of, never
  with what strangers send.
- Every payload is judged by itself: one that is strange costs that one, and the next one is found again.
- Values are exact: the text or the integer with its scaler becomes ``Decimal``, never a float.
- What is pushed twice comes out twice: equal readings are one reading at the hub. Only what a raster leaves out, and
  what a security rule refuses (a replayed invocation counter), does not come out.
"""

import dataclasses
import datetime as dt
import decimal
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec

MAX_BUFFER = 64 * 1024
"""Bytes that a decoder keeps of a payload that has not ended; a longer one is ``Undecodable``."""

MAX_CAUSE = 300
"""Characters of a cause, which may repeat what came."""

MAX_KEPT = 64 * 1024
"""Bytes of ``Intake.kept``."""


class ReceiverError(ValueError):
    """A receiver that cannot be had as asked; ``field`` names the key (``endpoint``, ``receiver_kwargs.raster``)."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


class Transport(enum.Enum):
    """How payloads come; ``receivers.endpoints`` says which endpoint is which."""

    STREAM = "a serial port, or a TCP connection that the gateway makes or is called on"
    DATAGRAM = "UDP: each datagram by itself"
    MESSAGE = "MQTT: each message by itself"


class Identity(enum.Enum):
    """By which field of a meter device the payloads name it."""

    SERIAL = "manufacturer_serial"
    SYSTEM_TITLE = "dlms_system_title"
    NAME = "name"


@dataclasses.dataclass(frozen=True, slots=True)
class Pushed:
    """One value that a meter pushed.

    Attributes:
        meter: What the payload calls the meter (equipment id, system title, serial number, name), as it does; empty
            when it does not say. The agent finds the device by it, in ``Meters``; of what is nobody's, the hub has the
            staging.
        series: The meter's own name of the quantity, such as an OBIS id; the agent maps it (``PushMeter.mappings``).
        value: Exact, within the contract's bounds (``protocol.wire.checked_decimal``).
        unit: Normalised: ``kWh``, ``m3``, ``V``.
        timestamp: Aware UTC if the payload says when it was measured; None: the instant that it came.
        came: The gateway's UTC when the payload had come, as it was given to ``receive``.
        collected: When somebody else collected it, where the payload says so (``amr_um``); None: ``came``.
        clock_offset: The meter's clock minus the gateway's in seconds, where the payload says what time it is.
    """

    meter: str
    series: str
    value: decimal.Decimal
    unit: str
    timestamp: dt.datetime | None
    came: dt.datetime
    collected: dt.datetime | None = None
    clock_offset: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Undecodable:
    """Bytes that are no payload, or not one that may be taken; the agent quarantines them (it cuts what is long).

    ``cause`` is a sentence for people, without a secret, cut to ``MAX_CAUSE``; ``meter`` is the identity, where that
    much could be read.
    """

    payload: bytes
    cause: str
    came: dt.datetime
    meter: str = ""

    def __post_init__(self) -> None:
        """Cut the cause."""
        if len(self.cause) > MAX_CAUSE:
            object.__setattr__(self, "cause", f"{self.cause[: MAX_CAUSE - 3]}...")


Arrival = Pushed | Undecodable


@dataclasses.dataclass(frozen=True, slots=True)
class KnownMeter:
    """A meter of the plan as a receiver may need it.

    ``identity`` is that field of the meter device that ``Receiver.identity`` names, as people wrote it; ``keys`` are
    its secrets by kind (``protocol.meter_keys.MeterKeys``), never logged.
    """

    identity: str
    name: str
    zone: ZoneInfo
    keys: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)


class Meters:
    """The meters of one receiver, found by what a payload calls them: capitals, blanks and dashes do not matter.

    A payload that names no meter is of the only meter, if there is only one and it has no identity of its own. Of any
    other payload ``anyone`` is the meter, where there is that (nobody knows the meters that a technician listens to).
    """

    def __init__(self, meters: Sequence[KnownMeter] = (), anyone: KnownMeter | None = None) -> None:
        self._known = {plain_identity(meter.identity): meter for meter in meters}
        self._nameless = meters[0] if len(meters) == 1 else None
        self._anyone = anyone

    def find(self, identity: str) -> KnownMeter | None:
        """The meter, or None if the plan does not have it."""
        plain = plain_identity(identity)
        return (self._known.get(plain) if plain else self._nameless) or self._anyone

    def __iter__(self) -> Iterator[KnownMeter]:
        return iter(self._known.values())


def plain_identity(text: str) -> str:
    """An identity without what people write differently: ``E-0026 0000`` and ``e00260000`` are one."""
    return "".join(character for character in text.upper() if character not in " -\t\0")


class Decoder(Protocol):
    """Takes the bytes of one connection, port, datagram or message apart. Never raises for what came."""

    def receive(self, data: bytes, at: dt.datetime) -> list[Arrival]:
        """What these bytes ended: values and what could not be read, in the order they came; ``at`` is aware UTC."""

    def end(self, at: dt.datetime) -> list[Arrival]:
        """Nothing more comes (closed, or silent for ``Receiver.silence``): judge what is left, begin anew."""


class Intake(Protocol):
    """One receiver of the plan at work: what its connections share (meters, keys, counters, what a raster took)."""

    superfluous: int
    """Payloads that the raster left out, since it was opened."""

    def connection(self) -> Decoder:
        """A decoder with an empty buffer: one per connection or port; one per datagram or message."""

    def kept(self) -> bytes:
        """What must survive a restart (invocation counters, slots that are taken), at most ``MAX_KEPT`` bytes.

        Asked for after ``receive`` and ``end``, and stored together with what those brought; empty: nothing.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver.

    Attributes:
        name: As ``receiver`` of the REST resource and of the plan has it.
        description: For people, one sentence.
        kwargs: The struct of its ``receiver_kwargs``.
        open: ``open(kwargs, meters, kept)``: begin; ``kept`` is what ``Intake.kept`` said last, ``b""`` at first, and
            of an older version perhaps: what cannot be read of it is as if it had never been.
        transports: Over what it can come.
        identity: How its payloads name a meter.
        rate: Baud of a serial port with these kwargs; ports are opened 8N1, parity is of ``protocol.iec62056``.
        port: The usual port number, for hints.
        ciphered: Whether its payloads may need keys.
        silence: Seconds without a byte on a stream after which ``end`` is called; None: only when it closes.
    """

    name: str
    description: str
    kwargs: type[msgspec.Struct]
    open: Callable[[Any, Meters, bytes], Intake]
    transports: frozenset[Transport]
    identity: Identity = Identity.SERIAL
    rate: Callable[[Any], int] = lambda _kwargs: 9600
    port: int | None = None
    ciphered: bool = False
    silence: float | None = None
