"""Thinning: of what a meter pushes every second, the first payload at or after each slot of a raster.

What is left out is superfluous, not lost: the meter says the same counter again. A payload's own time decides, and it
keeps that time. What was taken survives a restart, so that the middle of a slot is not taken for its beginning.
"""

import datetime as dt

import msgspec

from protocol.rasters import Raster

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


def _name(raster: Raster) -> str:
    """A raster as text: what was taken of another says nothing of this one."""
    return f"{raster.interval}+{raster.anchor_seconds} {raster.zone}"
