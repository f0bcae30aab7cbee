"""``dlms_push``: what DLMS/COSEM meters push as DataNotification over UDP and TCP, plain or ciphered.

Rules:
- The wrapper of IEC 62056-47 frames payloads; port 4059 is the usual one. A meter is known by its system title; what
  is not ciphered by what the payload calls its meter.
- Keys come with the plan, sealed for the gateway. What they do not open, of an unknown title too, is set aside.
- ``security`` says what is taken at least. What is not authenticated can be changed on its way, and played back.
- An invocation counter is taken once per key. The last 64 may come in any order, because datagrams do; a copy of one
  of them is left out as superfluous, one that is older is refused visibly. Counters survive a restart.
Source: IEC 62056-47, IEC 62056-5-3 (Green Book) 9.2.7 and 9.5, IEC 62056-6-2 (Blue Book) 4.4.8.
"""

import dataclasses
import datetime as dt
import decimal
import hashlib
import struct
from collections.abc import Iterator
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from protocol.kwargs import KwargsError
from protocol.wire import ContractError, checked_decimal
from receivers.axdr import Stamp, UnreadableDataError
from receivers.dlms_apdus import (
    CIPHERED,
    TAGS,
    WRAPPER_BYTES,
    WRAPPER_VERSION,
    Ciphered,
    Notification,
    RefusedError,
    apdu_tag,
    open_ciphered,
    read_ciphered,
    read_notification,
)
from receivers.dlms_values import ROW_TIME, SKIPPED, Content, Register, parse_column, read_content
from receivers.local_times import by_arrival, by_season
from receivers.receiver import MAX_BUFFER, Arrival, Identity, Meters, Pushed, Receiver, Transport, Undecodable
from receivers.thinning import Interval, ThinnedKwargs, ThinningIntake

WINDOW = 64
"""How many invocation counters below the highest one may still come."""

MOST_COUNTERS = 2000
"""Meters whose counters are kept; of more, those that were silent longest are forgotten."""

_COUNTER = struct.Struct(">8sIQ")
_SECURITY = ("authenticated", "encrypted", "none")
_LEVEL = {name: len(_SECURITY) - position for position, name in enumerate(_SECURITY)}


class Kwargs(ThinnedKwargs, frozen=True, forbid_unknown_fields=True):
    """What a ``dlms_push`` receiver may be told."""

    raster: Interval = None
    registers: Annotated[
        list[str] | None,
        msgspec.Meta(
            description="OBIS codes to take, or null for all; with scale and unit where the meter has none: "
            "1-0:1.8.0 e-3 kWh"
        ),
    ] = None
    security: Annotated[
        str,
        msgspec.Meta(
            description="what is taken at least: authenticated, encrypted, or none, which takes anybody's word"
        ),
    ] = "authenticated"
    columns: Annotated[
        list[str] | None,
        msgspec.Meta(
            description="what the values are, in order, of meters that do not name them: clock, - or as in registers"
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            KwargsError: naming the key.
        """
        super().__post_init__()
        if self.security not in _SECURITY:
            raise KwargsError("security", f"{self.security[:20]!r} is none of {', '.join(_SECURITY)}")
        for text in self.columns or ():
            try:
                parse_column(text)
            except ValueError as error:
                raise KwargsError("columns", str(error)) from error

    def check_register(self, text: str) -> None:
        """Refuse what is no OBIS code, with or without scale and unit.

        Raises:
            ValueError: saying what is.
        """
        if parse_column(text) in {SKIPPED, ROW_TIME}:
            raise ValueError(f"{text!r} is of columns only")


class Counters:
    """Which invocation counters were taken, per key: the highest, and which of the ``WINDOW`` below it."""

    def __init__(self, kept: bytes = b"") -> None:
        self._taken: dict[bytes, tuple[int, int]] = {}
        if len(kept) % _COUNTER.size == 0:
            self._taken = {key: (highest, seen) for key, highest, seen in _COUNTER.iter_unpack(kept)}

    def is_new(self, key: bytes, counter: int) -> bool | None:
        """Whether the counter was not taken yet; None when it is too old for that to be known."""
        highest, seen = self._taken.get(key, (-1, 0))
        if counter > highest:
            return True
        below = highest - counter
        return None if below >= WINDOW else not seen >> below & 1

    def take(self, key: bytes, counter: int) -> None:
        """Take a new counter."""
        highest, seen = self._taken.pop(key, (-1, 0))
        if counter > highest:
            step = counter - highest
            seen = (seen << step | 1) & (2**WINDOW - 1) if step < WINDOW and highest >= 0 else 1
            highest = counter
        else:
            seen |= 1 << (highest - counter)
        self._taken[key] = (highest, seen)
        if len(self._taken) > MOST_COUNTERS:
            del self._taken[next(iter(self._taken))]

    def kept(self) -> bytes:
        """Return them for the next start."""
        return b"".join(_COUNTER.pack(key, highest, seen) for key, (highest, seen) in self._taken.items())


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """A payload that was opened: whose it is, how well that is shown, and which counter it takes."""

    apdu: bytes
    title: str = ""
    counter: int | None = None
    key: bytes = b""


class PushIntake(ThinningIntake[Kwargs]):
    """What all connections of one receiver share."""

    def __init__(self, kwargs: Kwargs, meters: Meters, kept: bytes) -> None:
        try:
            counters, slots = msgspec.msgpack.decode(kept, type=tuple[bytes, bytes]) if kept else (b"", b"")
        except msgspec.DecodeError:
            counters, slots = b"", b""
        super().__init__(kwargs, meters, slots)
        self._counters = Counters(counters)
        self._columns = [parse_column(text) for text in kwargs.columns or ()]
        self._registers = {column.series: column for column in map(parse_column, kwargs.registers or ())}

    def connection(self) -> "PushDecoder":
        """A decoder with an empty buffer."""
        return PushDecoder(self)

    def kept(self) -> bytes:
        """The invocation counters that are taken, and the slots."""
        counters, slots = self._counters.kept(), super().kept()
        return msgspec.msgpack.encode((counters, slots)) if counters or slots else b""

    def judge(self, frame: bytes, at: dt.datetime) -> Iterator[Arrival]:
        """Judge one payload, wrapper and all."""
        title = ""
        try:
            opened = self._open(frame[WRAPPER_BYTES:])
            if opened is None:
                self.superfluous += 1
                return
            title = opened.title
            notification = read_notification(opened.apdu)
            content = read_content(notification.body, self._columns, self._registers)
        except RefusedError as error:
            yield Undecodable(frame, str(error), at, title or _title_of(frame))
            return
        except (UnreadableDataError, decimal.DecimalException) as error:
            yield Undecodable(frame, f"its data: {error}", at, title)
            return
        if opened.counter is not None:
            # Only now: a key that does not fit, or bytes that mean nothing, must not use up a meter's counters.
            self._counters.take(opened.key, opened.counter)
        yield from self._registers_of(opened.title, notification, content, frame, at)

    def _open(self, apdu: bytes) -> _Opened | None:
        """Open a payload; None when it is a copy of one that was taken."""
        if apdu_tag(apdu) not in CIPHERED:
            self._check_level("none", "it is not ciphered")
            return _Opened(apdu)
        ciphered = read_ciphered(apdu)
        meter = self.meters.find(ciphered.title)
        if meter is None:
            raise RefusedError(f"unknown system title {ciphered.title}: no meter device of the receiver has it")
        level = _level_of(ciphered)
        self._check_level(level, f"{ciphered.title}: it is {'not ciphered' if level == 'none' else 'only encrypted'}")
        if level == "none":
            return _Opened(open_ciphered(ciphered, meter.keys), ciphered.title)
        key = _key_name(ciphered, meter.keys.get(ciphered.kind, b""))
        new = self._counters.is_new(key, ciphered.counter)
        if new is None:
            raise RefusedError(
                f"{ciphered.title}: the invocation counter {ciphered.counter} is older than those that were taken: "
                "played back, or the meter began anew with the same key"
            )
        plain = open_ciphered(ciphered, meter.keys)
        return _Opened(plain, ciphered.title, ciphered.counter, key) if new else None

    def _check_level(self, level: str, what: str) -> None:
        least = self.kwargs.security
        if _LEVEL[level] < _LEVEL[least]:
            raise RefusedError(f"{what}, and security is {least}")

    def _registers_of(
        self, title: str, notification: Notification, content: Content, frame: bytes, at: dt.datetime
    ) -> Iterator[Arrival]:
        meter = title or self._name(content.identity)
        zone = self.zone(meter)
        shown = content.clock or notification.sent
        time = _instant(shown, zone, at)
        offset = None if time is None else (time - at).total_seconds()
        wanted = [one for one in content.registers if not self._registers or one.series in self._registers]
        if not wanted:
            yield Undecodable(frame, "it has no register that is taken", at, meter)
            return
        for stamp, registers in _by_time(wanted):
            instant = _instant(stamp, zone, at) if stamp is not None else time
            if stamp is not None and instant is None:
                yield Undecodable(frame, "the time of a row is invalid by its meter's own word", at, meter)
            elif not self.thinning.takes(meter, instant or at):
                self.superfluous += 1
            else:
                for one in registers:
                    yield _pushed(one, meter, instant, at, offset, frame)

    def _name(self, identity: str) -> str:
        """What a payload without a system title is of: the meter that it names, or else the only one there is."""
        if identity and self.meters.find(identity) is None and self.meters.find("") is not None:
            return ""
        return identity


class PushDecoder:
    """Takes the payloads of one connection, or one datagram, out of their wrappers."""

    def __init__(self, intake: PushIntake) -> None:
        self._intake = intake
        self._buffer = b""
        # Whether the buffer begins where a wrapper was looked for: then what looks like one may be so by chance, and
        # would swallow as much as it says.
        self._guessed = False

    def receive(self, data: bytes, at: dt.datetime) -> list[Arrival]:
        """Judge the payloads that these bytes end."""
        self._buffer += data
        found: list[Arrival] = []
        while len(self._buffer) >= WRAPPER_BYTES:
            length = WRAPPER_BYTES + int.from_bytes(self._buffer[6:8], "big")
            chance = self._guessed and self._buffer[WRAPPER_BYTES:] and self._buffer[WRAPPER_BYTES] not in TAGS
            if not self._buffer.startswith(WRAPPER_VERSION) or length > MAX_BUFFER or chance:
                found.append(self._skip(at))
                continue
            if len(self._buffer) < length:
                break
            frame, self._buffer = self._buffer[:length], self._buffer[length:]
            self._guessed = False
            found += self._intake.judge(frame, at)
        return found

    def end(self, at: dt.datetime) -> list[Arrival]:
        """Judge what is left: a payload that was cut off, and perhaps whole ones behind it."""
        found: list[Arrival] = []
        while self._buffer:
            found.append(self._skip(at, ended=True))
            found += self.receive(b"", at)
        return found

    def _skip(self, at: dt.datetime, *, ended: bool = False) -> Undecodable:
        """Set aside what stands before the next wrapper that may be one."""
        self._guessed = True
        begin = self._buffer.find(WRAPPER_VERSION, 1)
        while begin > 0 and not self._may_begin(begin, ended=ended):
            begin = self._buffer.find(WRAPPER_VERSION, begin + 1)
        if begin < 0 and not ended and self._buffer.endswith(WRAPPER_VERSION[:1]):
            # The other half of a version may be on its way.
            begin = len(self._buffer) - 1
        junk, self._buffer = (self._buffer, b"") if begin < 0 else (self._buffer[:begin], self._buffer[begin:])
        cause = "it ends before its wrapper says" if ended else "it has no wrapper of IEC 62056-47"
        return Undecodable(junk, cause, at)

    def _may_begin(self, begin: int, *, ended: bool) -> bool:
        """Whether a payload may begin here: whole, or as far as it has come."""
        head = self._buffer[begin : begin + WRAPPER_BYTES + 1]
        if len(head) <= WRAPPER_BYTES:
            return not ended
        whole = begin + WRAPPER_BYTES + int.from_bytes(head[6:8], "big") <= len(self._buffer)
        return head[WRAPPER_BYTES] in TAGS and (whole or not ended)


def _level_of(ciphered: Ciphered) -> str:
    if ciphered.authenticated:
        return "authenticated"
    return "encrypted" if ciphered.encrypted else "none"


def _key_name(ciphered: Ciphered, key: bytes) -> bytes:
    """Name the key whose counters count: a meter that was given another one begins anew."""
    return hashlib.sha256(f"{ciphered.title} {ciphered.kind} ".encode() + key).digest()[:8]


def _title_of(frame: bytes) -> str:
    """The system title of what was refused, where it can be read."""
    try:
        return read_ciphered(frame[WRAPPER_BYTES:]).title if frame[WRAPPER_BYTES] in CIPHERED else ""
    except (RefusedError, UnreadableDataError, IndexError):
        return ""


def _by_time(registers: list[Register]) -> Iterator[tuple[Stamp | None, list[Register]]]:
    rows: dict[Stamp | None, list[Register]] = {}
    for one in registers:
        rows.setdefault(one.stamp, []).append(one)
    yield from rows.items()


def _instant(stamp: Stamp | None, zone: ZoneInfo, at: dt.datetime) -> dt.datetime | None:
    """The instant that a meter's clock shows; None when it shows none, or says itself that it is invalid."""
    if stamp is None or not stamp.valid:
        return None
    try:
        if stamp.deviation is not None:
            return (stamp.local + dt.timedelta(minutes=stamp.deviation)).replace(tzinfo=dt.UTC)
        if stamp.summer:
            return by_season(zone, stamp.local, summer=True)
        # Not the other way round: meters that say nothing of summer time leave the bit unset, all summer long.
        return by_arrival(zone, stamp.local, at)
    except OverflowError:
        return None


def _pushed(
    one: Register, meter: str, instant: dt.datetime | None, at: dt.datetime, offset: float | None, frame: bytes
) -> Arrival:
    try:
        return Pushed(meter, one.series, checked_decimal(one.value), one.unit, instant, at, clock_offset=offset)
    except ContractError as error:
        return Undecodable(frame, f"{one.series}: {error}", at, meter)


RECEIVER = Receiver(
    name="dlms_push",
    description="DLMS/COSEM meters that push DataNotifications over UDP or TCP, plain or ciphered",
    kwargs=Kwargs,
    open=PushIntake,
    transports=frozenset({Transport.STREAM, Transport.DATAGRAM}),
    identity=Identity.SYSTEM_TITLE,
    port=4059,
    ciphered=True,
    silence=30.0,
)
