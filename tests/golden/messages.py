"""The messages whose bytes are kept: one of each kind that travels, with every field filled.

Everything is fixed (ids, times, keys), so that the bytes are the same wherever they are made.
"""

import dataclasses
import datetime as dt
import decimal
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from protocol.commands import DONE, Command, CommandUpdate
from protocol.envelopes import SigningKey, open_envelope
from protocol.meter_keys import gateway_sealing_key, open_keys
from protocol.plans import (
    CallerGrant,
    Device,
    Line,
    Problem,
    PushMeter,
    Receiver,
    SeriesMapping,
    Task,
    plan_digest,
    read_plan,
    render_plan,
)
from protocol.readings import FROM_GATEWAY, FROM_METER, NewMeterReading, batch_of, checked_batch
from protocol.reports import (
    COMMS,
    WRONG_METER,
    Hello,
    LineFigures,
    LossRecord,
    MeterSystemEvent,
    Online,
    PlanApplied,
    Receipt,
    Resend,
    RunReport,
    UndecodablePush,
    decode_online,
    decode_receipt,
    decode_report,
)
from protocol.topics import Channel, topic_for
from protocol.wire import decode, encode

KEY = SigningKey(bytes(range(32)))
"""A private key that everyone knows: good for golden bytes and nothing else."""

STORE = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
AT = dt.datetime(2026, 11, 22, 6, 0, tzinfo=dt.UTC)
LATER = dt.datetime(2026, 11, 22, 6, 0, 7, 250_000, tzinfo=dt.UTC)
GATEWAY = "substation-7"


def _id(number: int) -> uuid.UUID:
    return uuid.UUID(int=0xA0000000000040008000000000000000 + number)


DEVICE, LINE, TASK, COMMAND, RUN = (_id(number) for number in range(1, 6))
SEALED = bytes.fromhex(
    "019053bfd8b3a158f81a8516fbfa2828de1bbccbd8f718c131edf46a444f1b8e338902c44f03896b07863cc44e73a5a7"
    "6d90c5f0ef3230c8eeae520de7b27b1e6c695501f8c3c1cce7e63cc667c2ef47e098033f0873698486694ff0a13ce5da"
    "ec3718b2db8345adfcfb54b0765464d3c81b8f78dd3d33a539dc"
)
"""Keys of the meter for the gateway; sealing is never the same twice, so these were sealed once."""

READINGS = [
    NewMeterReading("m-1", "2:300", AT, decimal.Decimal("3481.9070"), "m3", DEVICE, LATER, FROM_METER, -1.5, RUN),
    NewMeterReading("m-1", "7:310/3", AT, decimal.Decimal("-0.010"), "bar"),
    NewMeterReading("m-1", "6:210_1", LATER, decimal.Decimal("1E+3"), provenance=FROM_GATEWAY),
]
CALL = Command(
    COMMAND,
    GATEWAY,
    "generic_lis200",
    "read_single_value",
    {"address": "2:300"},
    AT,
    300,
    device=DEVICE,
    meter="m-1",
    delay_seconds=5,
    store=STORE,
    cancels=_id(6),
    background=True,
    priority=7,
)
REPORTS: dict[str, msgspec.Struct] = {
    "run": RunReport(
        RUN, DEVICE, WRONG_METER, AT, LATER, TASK, COMMAND, AT, "the meter says 4711", 96, 5120, AT, 3, COMMS
    ),
    "command_update": CommandUpdate(
        _id(7), COMMAND, DONE, LATER, 3, 12, "dispatcher", "no cause", READINGS[:1], {"deviation": -2}, CALL
    ),
    "plan_applied": PlanApplied(
        _id(8), 7, bytes(range(16)), AT, 3, 11, [Problem("task", str(TASK), "schedule 'lunar' is none of ...")]
    ),
    "event": MeterSystemEvent(_id(9), DEVICE, "m-1", AT, "0x8103", "Clock set", "The clock was set", LATER),
    "loss": LossRecord(_id(10), DEVICE, "m-1", "2:300", AT, LATER, 17, "the disk budget is spent"),
    "push": UndecodablePush(
        *(_id(12), _id(11), "p1", LATER, "the checksum is 1234, the telegram's own is 4321", b"/ISK5"),
        *(812, "10.0.0.7", "E0026000024561214", 3),
    ),
}
PLAN = render_plan(
    GATEWAY,
    7,
    AT,
    lines=[Line(LINE, "north", "/dev/serial/by-id/usb-1", 9600, True, "even", True, True)],  # noqa: FBT003 - in wire order
    devices=[
        Device(
            DEVICE,
            "m-1",
            LINE,
            "Europe/Copenhagen",
            "0001",
            "4711",
            [TASK],
            [SeriesMapping(0, "2:300", "7-0:13.83.0")],
        )
    ],
    tasks=[
        Task(TASK, "quarterly", "quarterly", 60, "generic_lis200", "read_archive_by_offset_seconds", {"archive": 3})
    ],
    callers=[CallerGrant("dispatcher", KEY.public, ["generic_lis200.read_single_value"], LATER)],
    receivers=[
        Receiver(
            *(_id(11), "p1", "dsmr_p1", "socket://10.0.0.7:8023", {"raster": "quarter_hour"}),
            [
                PushMeter(
                    *(DEVICE, "m-1", "E0026000024561214", "Europe/Amsterdam"),
                    [SeriesMapping(0, "24.2.1", "7-0:3.0.0")],
                    SEALED,
                )
            ],
        )
    ],
)
BATCH = batch_of(STORE, 41, [encode(reading) for reading in READINGS])
REPORT_BATCH = batch_of(STORE, 7, [encode(report) for report in REPORTS.values()])


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of golden bytes: how they are made now, and how whatever version made them is read."""

    make: Callable[[], bytes]
    read: Callable[[bytes], Any]


def _read_batch(data: bytes) -> Any:  # noqa: ANN401 - described for people
    batch = checked_batch(data)
    return [batch.name, [decode(row, NewMeterReading) for row in batch.rows]]


def _read_reports(data: bytes) -> Any:  # noqa: ANN401 - described for people
    batch = checked_batch(data)
    return [batch.name, [decode_report(row) for row in batch.rows]]


def _topic() -> str:
    return topic_for(GATEWAY, Channel.READINGS)


LINES = [LineFigures(LINE, "north", AT, 12, 81.25, 70_144, 3, {"damaged": 2, "no_answer": 1}, {"m-2": 1}, ["m-2"])]
ONLINE = Online(
    *(GATEWAY, True, 3, STORE, "metergate-agent 0.1.0", AT, 7, plan_digest(b""), 43, 12, 3, AT, False, "ok"),
    lines=LINES,
    sealing_key=gateway_sealing_key(KEY).public,
)

KINDS: dict[str, Kind] = {
    "readings": Kind(lambda: encode(BATCH), _read_batch),
    "report": Kind(lambda: encode(REPORT_BATCH), _read_reports),
    **{
        name: Kind(lambda report=report: encode(report), decode_report)  # type: ignore[misc]
        for name, report in REPORTS.items()
    },
    "command": Kind(lambda: encode(CALL), lambda data: decode(data, Command)),
    "plan": Kind(lambda: PLAN, read_plan),
    "receipt": Kind(
        lambda: encode(Receipt("readings", [BATCH.name, REPORT_BATCH.name], LATER, "quarantined")), decode_receipt
    ),
    "resend": Kind(lambda: encode(Resend(STORE, "report", 3, LATER)), decode_receipt),
    "online": Kind(lambda: encode(ONLINE), decode_online),
    "meter_keys": Kind(lambda: SEALED, lambda data: open_keys(gateway_sealing_key(KEY), data, GATEWAY, DEVICE)),
    "hello": Kind(lambda: encode(Hello(AT, "relay-1")), lambda data: decode(data, Hello)),
    "envelope": Kind(lambda: KEY.seal(_topic(), encode(BATCH)), lambda data: open_envelope(_topic(), data)),
}


def described(value: object) -> Any:  # noqa: ANN401, PLR0911 - whatever JSON can show, one return per kind of it
    """Show a decoded message with its field names, for the JSON beside the bytes."""
    if isinstance(value, msgspec.Struct):
        fields = {name: described(getattr(value, name)) for name in value.__struct_fields__}
        return {"": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, list):
        return [described(item) for item in value]
    if isinstance(value, (bytes, msgspec.Raw)):
        return bytes(value).hex()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value


def same_content(name: str, data: bytes) -> bytes:
    """What must be equal of two renderings: of a plan not how zlib packed it, which differs between its versions."""
    return zlib.decompress(data) if name == "plan" else data
