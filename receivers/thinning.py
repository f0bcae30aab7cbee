"""Thinning: of what a meter pushes every second, the first payload at or after each slot of a raster.

What is left out is superfluous, not lost: the meter says the same counter again. A payload's own time decides, and it
keeps that time. What was taken survives a restart, so that the middle of a slot is not taken for its beginning.
Here is also what all receivers that thin are told (``ThinnedKwargs``), and what their connections share.
"""

import datetime as dt
from typing import Annotated, Generic, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from protocol.iec62056.data_lines import Obis
from protocol.kwargs import KwargsError
from protocol.rasters import INTERVALS, Raster
from protocol.wire import ContractError
from receivers.receiver import Meters

MOST_KEYS = 512
"""Meters whose slots are remembered; of more, those that were silent longest are forgotten."""

LATE = dt.timedelta(minutes=2)
"""A payload that is at most so much older than the one before it was overtaken."""


class Thinning:
    """Which slots are taken, per key (a meter). Without a raster everything passes."""

    def __init__(self, raster: Raster | None, kept: bytes = b"") -> None:
        self.raster = raster
        self._taken: dict[str, int] = {}
        self._latest: dict[str, dt.datetime] = {}
        if raster is not None and kept:
            try:
                named, self._taken = msgspec.msgpack.decode(kept, type=tuple[str, dict[str, int]])
            except msgspec.DecodeError:
                named = ""
            if named != _name(raster):
                self._taken = {}

    def slot(self, instant: dt.datetime) -> int | None:
        """The slot that an instant lies in; None without a raster."""
        return None if self.raster is None else self.raster.slot_at_or_before(instant)

    def takes(self, key: str, instant: dt.datetime) -> bool:
        """Whether this is the first of its slot; if so, the slot is taken."""
        slot = self.slot(instant)
        if slot is None:
            return True
        taken, latest = self._taken.get(key), self._latest.get(key, instant)
        self._latest[key] = instant
        if taken == slot:
            return False
        if taken is not None and slot < taken and latest - instant <= LATE:
            # It was overtaken on its way. One that is older still is of a clock that was put back: slots begin anew.
            self._latest[key] = latest
            return False
        self._taken.pop(key, None)
        self._taken[key] = slot
        if len(self._taken) > MOST_KEYS:
            silent = next(iter(self._taken))
            del self._taken[silent]
            self._latest.pop(silent, None)
        return True

    def kept(self) -> bytes:
        """What is taken, for the next start; empty when there is nothing."""
        if self.raster is None or not self._taken:
            return b""
        return msgspec.msgpack.encode((_name(self.raster), self._taken))


Interval = Annotated[
    str | None,
    msgspec.Meta(description="an interval of which the first payload is taken (quarter_hour, hour, ...), or null"),
]
Zone = Annotated[
    str, msgspec.Meta(description="the IANA zone of a meter that the plan does not have, such as Europe/Amsterdam")
]
Registers = Annotated[
    list[str] | None,
    msgspec.Meta(description="OBIS ids to take, or null for all that the receiver takes by itself"),
]


class ThinnedKwargs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every receiver that thins may be told."""

    raster: Interval = "quarter_hour"
    timezone: Zone = "UTC"
    registers: Registers = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            KwargsError: naming the key.
        """
        if self.raster is not None and self.raster not in INTERVALS:
            raise KwargsError("raster", f"{self.raster[:20]!r} is none of {', '.join(INTERVALS)}")
        try:
            Raster("hour", 0, self.timezone)
        except ContractError as error:
            raise KwargsError("timezone", str(error)) from error
        for text in self.registers or ():
            try:
                self.check_register(text)
            except ValueError as error:
                raise KwargsError("registers", str(error)) from error

    def check_register(self, text: str) -> None:
        """Refuse what names no register.

        Raises:
            ValueError: saying what does.
        """
        Obis.parse(text)


K = TypeVar("K", bound=ThinnedKwargs)


class ThinningIntake(Generic[K]):
    """What all connections of one receiver share; with ``connection`` a ``receivers.receiver.Intake``."""

    def __init__(self, kwargs: K, meters: Meters, kept: bytes) -> None:
        self.kwargs = kwargs
        self.meters = meters
        self.thinning = Thinning(None if kwargs.raster is None else Raster(kwargs.raster, 0, kwargs.timezone), kept)
        self.superfluous = 0

    def zone(self, identity: str) -> ZoneInfo:
        """The zone of the meter that a payload calls so."""
        known = self.meters.find(identity)
        return ZoneInfo(self.kwargs.timezone) if known is None else known.zone

    def kept(self) -> bytes:
        """Which slots are taken."""
        return self.thinning.kept()


def _name(raster: Raster) -> str:
    """A raster as text: what was taken of another says nothing of this one."""
    return f"{raster.interval}+{raster.anchor_seconds} {raster.zone}"
