"""The plan: everything that one gateway should run, as one whole, retained document.

A plan is judged item by item: a line, device, task or caller that this agent cannot understand becomes a problem in
``PlanApplied`` and is left out; the rest runs. On the wire a plan is zlib-compressed MessagePack.
"""

import datetime as dt
import hashlib
import uuid
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from protocol.wire import Checked, ContractError, Instant, MeterName, Name, Revision, Text, Word, decode, encode, plain

MAX_PLAN_BYTES = 4 * 1024 * 1024
"""Bound on the decompressed document, so that a small message cannot fill a small gateway's memory."""

UUID_BYTES = 16

PARITIES = ("auto", "even", "none")
MISSED_POLICIES = ("default", "skip", "latest", "each")
"""What to do with runs that could not start in time; ``default`` coalesces archive reads into one."""

Rate = Annotated[int, msgspec.Meta(ge=50, le=4_000_000)]


class Line(Checked, frozen=True, array_like=True):
    """One serial port or TCP endpoint: ``/dev/serial/by-id/...`` or ``socket://host:port``.

    ``rate`` is the opening rate in baud; ``fixed_rate`` means that it is never changed (wired ports, TCP).
    ``parity`` is ``auto``, ``even`` or ``none`` and is made in the protocol core; ports are opened 8N1.
    """

    id: uuid.UUID
    name: Name
    endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    rate: Rate = 300
    fixed_rate: bool = False
    parity: str = "auto"
    wake_up: bool = False
    echo: bool = False

    def __post_init__(self) -> None:
        """Refuse what no agent can do."""
        super().__post_init__()
        if self.parity not in PARITIES:
            raise ContractError(f"parity {self.parity[:20]!r} is none of {', '.join(PARITIES)}")


class SeriesMapping(Checked, frozen=True, array_like=True):
    """Gives a quantity another series name, such as an OBIS code.

    ``archive`` 0 stands for a single read and for totals; ``source`` is the meter's own name of it: a LIS-200 address
    such as ``2:300``, the id of a register such as ``1.8.0``.
    """

    archive: int
    source: str
    series: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]


class Device(Checked, frozen=True, array_like=True):
    """A meter device as the gateway needs it; ``tasks`` has each task once, however it reached the meter."""

    id: uuid.UUID
    name: MeterName
    line: uuid.UUID
    timezone: str
    address: str = ""
    serial: str | None = None
    tasks: list[uuid.UUID] = msgspec.field(default_factory=list)
    mappings: list[SeriesMapping] = msgspec.field(default_factory=list)


class Task(Checked, frozen=True, array_like=True):
    """How and when to poll. Schedule, context, call and policy are text: what is unknown is left out, not fatal."""

    id: uuid.UUID
    name: Name
    schedule: Word
    run_offset_seconds: int
    context: Word
    call: Word
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    missed: Word = "default"


class CallerGrant(Checked, frozen=True, array_like=True):
    """Who may invoke calls on this gateway over MQTT: ``allowed`` has ``context.call`` or ``context.*``."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    allowed: list[str]
    expires: Instant | None = None

    def allows(self, context: str, call: str) -> bool:
        """Whether the grant covers the call."""
        return f"{context}.{call}" in self.allowed or f"{context}.*" in self.allowed


class PushMeter(Checked, frozen=True, array_like=True):
    """A meter whose values come through a receiver; ``identity`` is what its payloads call it.

    ``device`` and ``name`` are the meter device's, ``timezone`` that of its clock; ``mappings`` have archive 0.
    ``keys`` are what its payloads are opened with, sealed for the gateway of the plan (``protocol.meter_keys``).
    """

    device: uuid.UUID
    name: MeterName
    identity: Annotated[str, msgspec.Meta(max_length=50)]
    timezone: str
    mappings: list[SeriesMapping] = msgspec.field(default_factory=list)
    keys: Annotated[bytes, msgspec.Meta(max_length=512)] = b""


class Receiver(Checked, frozen=True, array_like=True):
    """Where what meters push comes in, and who takes it apart.

    ``receiver`` and ``kwargs`` are text and values that the agent judges, as a task's; ``endpoint`` is a serial port,
    ``socket://``, ``listen://`` or ``udp://`` with host and port, or ``mqtt:`` with a name.
    """

    id: uuid.UUID
    name: Name
    receiver: Word
    endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    meters: list[PushMeter] = msgspec.field(default_factory=list)


class GatewayPlan(Checked, frozen=True, array_like=True):
    """The whole document. The items stay raw until ``read_plan`` judges each of them."""

    gateway: Word
    revision: Revision
    issued: Instant
    lines: list[msgspec.Raw] = msgspec.field(default_factory=list)
    devices: list[msgspec.Raw] = msgspec.field(default_factory=list)
    tasks: list[msgspec.Raw] = msgspec.field(default_factory=list)
    callers: list[msgspec.Raw] = msgspec.field(default_factory=list)
    receivers: list[msgspec.Raw] = msgspec.field(default_factory=list)


class Problem(Checked, frozen=True, array_like=True):
    """One item of a plan that is not run, and why.

    ``kind`` is line, device, task, caller or receiver; ``item`` its UUID or name, or ``#0``, ``#1``, ... by its
    position in the plan when not even that can be read.
    """

    kind: Word
    item: Word
    text: Text


class Plan(msgspec.Struct, frozen=True):
    """A plan as decoded: what can run, and the problems of the rest. Not a wire struct."""

    gateway: str
    revision: int
    issued: dt.datetime
    digest: bytes
    lines: dict[uuid.UUID, Line]
    devices: dict[uuid.UUID, Device]
    tasks: dict[uuid.UUID, Task]
    callers: dict[str, CallerGrant]
    receivers: dict[uuid.UUID, Receiver]
    problems: list[Problem]


_Item = TypeVar("_Item", Line, Device, Task, CallerGrant, Receiver)


def render_plan(
    gateway: str,
    revision: int,
    issued: dt.datetime,
    *,
    lines: Sequence[Line | msgspec.Raw],
    devices: Sequence[Device | msgspec.Raw],
    tasks: Sequence[Task | msgspec.Raw],
    callers: Sequence[CallerGrant | msgspec.Raw],
    receivers: Sequence[Receiver | msgspec.Raw] = (),
) -> bytes:
    """Render the compressed document that goes, signed, on the channel ``plan``; of items, or of such encoded."""

    def raw(items: Sequence[Any]) -> list[msgspec.Raw]:
        return [item if isinstance(item, msgspec.Raw) else msgspec.Raw(encode(item)) for item in items]

    items = (raw(one) for one in (lines, devices, tasks, callers, receivers))
    plan = GatewayPlan(gateway, revision, issued, *items)
    return zlib.compress(encode(plan), 9)


def plan_digest(body: bytes) -> bytes:
    """The digest of a rendered plan that PlanApplied and Online repeat: 16 bytes of SHA-256."""
    return hashlib.sha256(body).digest()[:16]


def _item_id(data: msgspec.Raw, position: int) -> str:
    """Name an item that did not decode, as well as its first field allows."""
    try:
        fields = plain(data)
    except ContractError:
        fields = None
    match fields:
        case [bytes() as first, *_] if len(first) == UUID_BYTES:
            return str(uuid.UUID(bytes=first))
        case [str() as first, *_] if first.isprintable():
            return first[:63]
    return f"#{position}"


def read_plan(body: bytes) -> Plan:
    """Decompress and decode a plan, item by item.

    Raises:
        ContractError: when the document as a whole cannot be read, or is larger than MAX_PLAN_BYTES.
    """
    engine = zlib.decompressobj()
    try:
        document = engine.decompress(body, MAX_PLAN_BYTES + 1)
    except zlib.error as error:
        raise ContractError(f"the plan cannot be decompressed: {error}") from error
    if len(document) > MAX_PLAN_BYTES:
        raise ContractError(f"the plan is larger than {MAX_PLAN_BYTES} bytes when decompressed")
    if not engine.eof:
        raise ContractError("the plan is cut short")
    plan = decode(document, GatewayPlan)
    problems: list[Problem] = []

    def judged(kind: str, raw: list[msgspec.Raw], item_type: type[_Item]) -> list[_Item]:
        items = []
        for position, data in enumerate(raw):
            try:
                items.append(decode(data, item_type))
            except ContractError as error:
                problems.append(Problem(kind, _item_id(data, position), str(error)))
        return items

    return Plan(
        gateway=plan.gateway,
        revision=plan.revision,
        issued=plan.issued,
        digest=plan_digest(body),
        lines={line.id: line for line in judged("line", plan.lines, Line)},
        devices={device.id: device for device in judged("device", plan.devices, Device)},
        tasks={task.id: task for task in judged("task", plan.tasks, Task)},
        callers={caller.name: caller for caller in judged("caller", plan.callers, CallerGrant)},
        receivers={receiver.id: receiver for receiver in judged("receiver", plan.receivers, Receiver)},
        problems=problems,
    )
