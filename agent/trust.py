"""Whether this gateway's clock is believed. A gateway with a wrong clock must do no harm.

The clock is believed if the kernel says that it is synchronised, or it agrees within 5 minutes with the hub's time in
a receipt for a batch that this process sent, or it lies between the last *confirmed* time and 30 days after it. Only
the first two confirm a time, and only confirmed times move that floor. On the settable clock of demos, tests and
benchmarks the time is what somebody chose, and believed unless they ask for it to be judged.

What a clock that is not believed leaves is *the least time*: it is surely no earlier than the last confirmed time, nor
than the hub's time in such a receipt, and the time since then. Commands that had expired by then have expired.
"""

import contextlib
import ctypes
import datetime as dt
import functools
from collections.abc import Callable

from agent.clocks import Clock
from agent.storage_faults import StoreFullError
from agent.store import Store

AGREES_WITHIN = dt.timedelta(minutes=5)
CARRIES_FOR = dt.timedelta(days=30)
CONFIRM_EVERY = dt.timedelta(minutes=10)
_KEY = "confirmed"
_HEARD = "hub_time"

_TIME_ERROR = 5
"""Return value of adjtimex(2): the clock is not synchronised."""

_STA_UNSYNC = 0x0040
_TIMEX_BYTES = 256
"""More than ``struct timex`` has on any architecture; ``status`` is its int at the fifth long."""


def kernel_synchronised() -> bool:
    """Ask the kernel, by adjtimex(2) without a change, whether something keeps its clock in step."""
    adjtimex = _adjtimex()
    if adjtimex is None:
        return False
    # modes = 0 only reads.
    timex = (ctypes.c_char * _TIMEX_BYTES)()
    state = adjtimex(ctypes.byref(timex))
    # struct timex begins: unsigned modes; long offset, freq, maxerror, esterror; int status.
    status = ctypes.c_int.from_buffer(timex, 5 * ctypes.sizeof(ctypes.c_long)).value
    return 0 <= state < _TIME_ERROR and not status & _STA_UNSYNC


@functools.cache
def _adjtimex() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "adjtimex", None)


class ClockTrust:
    """Judges the clock, and keeps the floor in the store."""

    def __init__(self, clock: Clock, store: Store, synchronised: Callable[[], bool] = kernel_synchronised) -> None:
        self._clock = clock
        self._store = store
        self._synchronised = synchronised
        self._confirmed = store.get_instant(_KEY)
        # The hub's time that is kept; the latest time that is known to have been, and the monotonic instant of it.
        self._heard = store.get_instant(_HEARD)
        known = [instant for instant in (self._confirmed, self._heard) if instant is not None]
        self._least = (max(known), clock.monotonic()) if known else None
        # What the clock showed when the hub agreed, and the monotonic instant of it.
        self._agreed: tuple[dt.datetime, float] | None = None
        self._seen = (clock.now(), clock.monotonic())

    def believed(self) -> bool:
        """Judge the clock now."""
        return not self.doubt()

    def doubt(self) -> str:
        """Return why the clock is not believed, for people; empty when it is."""
        if not self._clock.judged:
            return ""
        now = self._clock.now()
        stands_in = self._clock.synchronised()
        synchronised = self._synchronised() if stands_in is None else stands_in
        if synchronised or self._still_agrees(now):
            self._confirm(now)
            return ""
        if self._confirmed is None:
            return "the clock was never confirmed: the kernel does not say synchronised and no hub has answered yet"
        if self._confirmed <= now <= self._confirmed + CARRIES_FOR:
            return ""
        return (
            f"the clock shows {now:%Y-%m-%dT%H:%M:%SZ}, not between the last confirmed time "
            f"{self._confirmed:%Y-%m-%dT%H:%M:%SZ} and 30 days after it"
        )

    def hear(self, hub_time: dt.datetime) -> None:
        """Compare with the hub's time in an authenticated receipt for a batch that this process sent."""
        now = self._clock.now()
        agrees = abs(now - hub_time) <= AGREES_WITHIN
        if agrees:
            self._agreed = (now, self._clock.monotonic())
            self._confirm(now)
        # It cannot be an old one, so it also puts right what was known before.
        self._least = (hub_time, self._clock.monotonic())
        if not agrees or (self._heard is not None and self._heard > hub_time):
            self._heard = self._keep(_HEARD, hub_time, self._heard)

    def least_time(self) -> dt.datetime | None:
        """Return what time it is at least, whatever the clock shows; None if this store never knew any."""
        return None if self._least is None else self._evenly(*self._least)

    def _still_agrees(self, now: dt.datetime) -> bool:
        """Whether the clock has gone on evenly since the hub agreed: a later jump needs a new agreement."""
        if self._agreed is None:
            return False
        shown, monotonic = self._agreed
        return abs(now - self._evenly(shown, monotonic)) <= AGREES_WITHIN

    def moved(self) -> bool:
        """Whether somebody has set the clock since this was last asked."""
        now = self._clock.now()
        before, self._seen = self._seen, (now, self._clock.monotonic())
        return abs(now - self._evenly(*before)) > AGREES_WITHIN

    def _evenly(self, shown: dt.datetime, monotonic: float) -> dt.datetime:
        """Return what a clock that nobody has set shows now."""
        return shown + dt.timedelta(seconds=(self._clock.monotonic() - monotonic) * self._clock.rate)

    def _confirm(self, now: dt.datetime) -> None:
        self._confirmed = self._keep(_KEY, now, self._confirmed)
        self._least = (now, self._clock.monotonic())

    def _keep(self, key: str, instant: dt.datetime, before: dt.datetime | None) -> dt.datetime:
        """Keep a time for the next start, unless one of little before is kept; return which one is."""
        if before is not None and dt.timedelta(0) <= instant - before < CONFIRM_EVERY:
            return before
        with contextlib.suppress(StoreFullError), self._store.transaction():
            self._store.put(key, instant.timestamp())
        return instant
