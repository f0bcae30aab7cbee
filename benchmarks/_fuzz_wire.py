"""Every decoder of what comes over MQTT, given every message: only ``ContractError``; what was decoded travels.

Rules: an input is tried as a payload, as the body of a rightly signed envelope, and as text, by all decoders, whatever
it was the golden message of.
"""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterable

import msgspec

from benchmarks._fuzz_targets import Notes, Target, broken_unless
from protocol.commands import Command, CommandUpdate
from protocol.envelopes import Signed, SigningKey, open_envelope
from protocol.plans import read_plan
from protocol.readings import NewMeterReading, checked_batch, name_from_properties
from protocol.reports import Hello, decode_online, decode_receipt, decode_report
from protocol.schedules import check_schedule
from protocol.topics import Channel, check_gateway_id, parse_topic, topic_for
from protocol.wire import MAX_MESSAGE_BYTES, ContractError, decode, encode, parse_decimal, plain

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
KEY = SigningKey(bytes(range(32)))
TOPIC = "amr"
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|[\d.+-]+")
"""What of an error's text differs from input to input."""

BODIES: tuple[Callable[[bytes], object], ...] = (
    *(checked_batch, read_plan, decode_report, decode_receipt, decode_online, plain),
    *(lambda body, kind=kind: decode(body, kind) for kind in (Command, CommandUpdate, Hello, NewMeterReading, Signed)),
)
READ_TEXTS: tuple[Callable[[str], object], ...] = (
    *(parse_topic, check_gateway_id, check_schedule, parse_decimal),
    lambda text: name_from_properties([tuple(part.partition("=")[::2]) for part in text.split("&")]),
)


def _run(data: bytes, notes: Notes) -> None:
    body = data
    with contextlib.suppress(ContractError):
        body = open_envelope(TOPIC, data).body
    _read(body, notes)
    if len(data) < MAX_MESSAGE_BYTES // 2:
        signed = open_envelope(TOPIC, KEY.seal(TOPIC, data))
        broken_unless(signed.body == data and signed.key == KEY.public, "a signed body is not what was signed")
    text = data.decode("utf-8", "replace")
    for reader in READ_TEXTS:
        with contextlib.suppress(ContractError, ValueError):
            reader(text)
            notes.reached.add(("text", READ_TEXTS.index(reader)))


def _read(body: bytes, notes: Notes) -> None:
    for index, decoder in enumerate(BODIES):
        try:
            message = decoder(body)
        except ContractError as error:
            notes.reached.add((index, _PARTICULARS.sub("#", str(error))[:90]))
            continue
        notes.reached.add((index, type(message)))
        if isinstance(message, msgspec.Struct) and not isinstance(message, Signed):
            again = encode(message)
            broken_unless(
                encode(msgspec.msgpack.decode(again, type=type(message))) == again,
                f"{type(message).__name__} is not what it was when it travels again",
            )


def _seeds() -> Iterable[bytes]:
    for path in sorted(GOLDEN.glob("*/*.bin")):
        data = path.read_bytes()
        yield data
        with contextlib.suppress(ContractError):
            yield decode(data, Signed).body
    yield topic_for("gateway-1", Channel.READINGS).encode()
    yield b"-12.50E-3"


WIRE = Target("wire", _seeds, _run, share=50)
