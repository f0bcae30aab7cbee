"""Every receiver, given what anybody may send it: values that can be stored, or the bytes with a cause; never an error.

Rules: an input is tried as it is, at once and in pieces, and once more behind what keeps strangers out: a P1 telegram
with the right CRC, a DLMS APDU in a whole wrapper, plain and ciphered with the right key. Promised: nothing is raised,
every value makes a reading of the contract, what is undecodable has bytes of the input and a cause without an end, and
a decoder that was ended has nothing left.
"""

import datetime as dt
import itertools
import pathlib
import re
import struct
import uuid
import zoneinfo
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.simulator.pushing import ModeDMeter, P1Meter
from agent.simulator.pushing_dlms import CipheredDlmsMeter, DlmsMeter
from benchmarks._fuzz_targets import Notes, Target, broken_unless
from protocol.readings import NewMeterReading
from protocol.wire import encode
from receivers.catalogue import check_receiver, find_receiver
from receivers.p1_telegrams import crc16
from receivers.receiver import MAX_CAUSE, Arrival, Intake, KnownMeter, Meters, Pushed

AT = dt.datetime(2026, 10, 25, 1, 30, 5, tzinfo=dt.UTC)
TRANSCRIPTS = pathlib.Path(__file__).parents[1] / "tests" / "receivers" / "transcripts"
TITLE = bytes.fromhex("4d4d4d0000bc614e")
KEYS = {"encryption": bytes(range(16)), "authentication": bytes(range(0xD0, 0xE0))}
ZONE = zoneinfo.ZoneInfo("Europe/Amsterdam")
PIECES = (1, 7, 64, 3, 300)
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|[\dA-F]{8,}|\d+")
_TELEGRAM = re.compile(rb"(/[^/!]*!)[0-9A-Fa-f]{0,4}\r?\n?")

Forms = Callable[[bytes], Iterable[bytes]]


def _target(name: str, endpoint: str, kwargs: dict[str, object], forms: Forms, seeds: Iterable[bytes]) -> Target:
    """Make the target of one receiver; ``forms`` are what an input is tried as."""
    receiver = find_receiver(name)
    typed = check_receiver(name, endpoint, kwargs)
    meters = Meters([KnownMeter(TITLE.hex(), "m-1", ZONE, KEYS), KnownMeter("E0017", "m-2", ZONE)])
    whole = list(seeds)

    def run(data: bytes, notes: Notes) -> None:
        intake: Intake = receiver.open(typed, meters, data[:40])
        for form in forms(data):
            _given(intake, [form], form, notes)
            ends = list(itertools.accumulate(itertools.islice(itertools.cycle(PIECES), len(form))))
            pieces = [form[begin:end] for begin, end in itertools.pairwise([0, *ends]) if form[begin:end]]
            if endpoint.startswith("/dev/"):
                _given(intake, pieces, form, notes)
        receiver.open(typed, meters, intake.kept())

    return Target(name, lambda: whole, run)


def _given(intake: Intake, pieces: Iterable[bytes], form: bytes, notes: Notes) -> None:
    decoder = intake.connection()
    found = [arrival for piece in pieces for arrival in decoder.receive(piece, AT)] + decoder.end(AT)
    broken_unless(decoder.end(AT) == [], "a decoder that was ended has something left")
    notes.events_per_byte = max(notes.events_per_byte, len(found) / max(1, len(form)))
    for arrival in found:
        _judged(arrival, notes)


def _judged(arrival: Arrival, notes: Notes) -> None:
    if isinstance(arrival, Pushed):
        encode(
            NewMeterReading(
                meter=arrival.meter or "p",
                series=arrival.series,
                timestamp=arrival.timestamp or AT,
                value=arrival.value,
                unit=arrival.unit,
                device=uuid.UUID(int=1),
                collected=arrival.collected or arrival.came,
                clock_offset=arrival.clock_offset,
            )
        )
        notes.reached.add((arrival.series[:12], arrival.unit, arrival.timestamp is None, bool(arrival.meter)))
        return
    broken_unless(0 < len(arrival.cause) <= MAX_CAUSE, "an undecodable payload has no cause, or one without an end")
    notes.reached.add(_PARTICULARS.sub("#", arrival.cause)[:90])


def _as_they_are(data: bytes) -> Iterable[bytes]:
    yield data


def _telegrams(data: bytes) -> Iterable[bytes]:
    yield data
    yield _TELEGRAM.sub(lambda found: found[1] + f"{crc16(found[1]):04X}\r\n".encode("ascii"), data)


def _apdus(data: bytes) -> Iterable[bytes]:
    """As datagrams: the input, an APDU, the content of an envelope, a DataNotification of anybody and of a meter."""
    yield data
    for apdu in (data, _ciphered(data), b"\x0f\0\0\0\1\0" + data, _ciphered(b"\x0f\0\0\0\1\0" + data)):
        yield struct.pack(">HHHH", 1, 1, 1, len(apdu)) + apdu


def _ciphered(apdu: bytes) -> bytes:
    control, counter = b"\x30", struct.pack(">I", len(apdu))
    hidden = AESGCM(KEYS["encryption"]).encrypt(TITLE + counter, apdu, control + KEYS["authentication"])[:-4]
    content = control + counter + hidden
    return b"\xdb\x08" + TITLE + b"\x82" + struct.pack(">H", len(content)) + content


def _real(folder: str) -> list[bytes]:
    paths = sorted(path for path in (TRANSCRIPTS / folder).iterdir() if path.suffix != ".md")
    return [bytes.fromhex(path.read_text()) if path.suffix == ".hex" else path.read_bytes() for path in paths]


PUSHES = (
    _target(
        "dsmr_p1",
        "/dev/ttyS1",
        {"raster": None, "checksum": "optional"},
        _telegrams,
        [*_real("dsmr_p1"), P1Meter(1, "E0017").payload(AT)],
    ),
    _target(
        "iec62056_push",
        "/dev/ttyS1",
        {"raster": None},
        _as_they_are,
        [
            *_real("iec62056_push"),
            ModeDMeter(1, "4711").payload(AT),
            b"\x021-0:1.8.0(12*kWh)(2610250230)\r\n!\r\n\x03&",
        ],
    ),
    _target(
        "dlms_push",
        "udp://0.0.0.0:4059",
        {"security": "none"},
        _apdus,
        [
            *_real("dlms_push"),
            DlmsMeter(1, "E0017").payload(AT),
            DlmsMeter(1, "E0017").payload(AT)[26:],
            CipheredDlmsMeter(1, TITLE.hex()).payload(AT),
        ],
    ),
    _target(
        "amr_um",
        "mqtt:others",
        {},
        _as_they_are,
        [
            b'[{"meter":"m","series":"1-0:1.8.0","timestamp":"2026-11-22T07:00:00+01:00","value":"1.50","unit":"kWh"}]',
            b'{"meter":"m","series":"s","timestamp":"2026-11-22T07:00:00Z","value":1e3,"collected":"2026-11-22T07:00:00Z"}',
        ],
    ),
)
