"""What is expected of a meter, as far as its configuration says it. Pure functions, no database.

Rules, the first that says something about a series counts:
- The config's own ``expectations``: this series, on this raster, whoever brings it (polled, pushed or both).
- A task that reads an archive brings the series of that archive: those that a mapping gives this archive, and those
  whose names have it (``7:310/3``). Archive 3 of a LIS-200 meter has hours, 7 gas days, 1 and 2 months (LIS-200 fact
  sheet 3.4); a meter with another measuring period, or another archive, says so in its config.
- A task that reads single values brings them when it runs. They have no time of their own: each run's tick, with its
  offset, is a slot, and a value fills the latest one before it. Of several tasks the most frequent counts.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from contexts.catalogue import CallError, check_call, find_call
from protocol.rasters import Raster, local_anchor

FROM_CONFIG, FROM_ARCHIVE, FROM_TASK = "config", "archive", "task"

ARCHIVES = {1: ("month", 6 * 3600), 2: ("month", 6 * 3600), 3: ("hour", None), 7: ("gas_day", None)}
"""The archives of LIS-200 meters whose raster is known: interval and anchor (None: as the zone has it)."""

SCHEDULED = {
    "quarterly": "quarter_hour",
    "hourly": "hour",
    "daily": "day",
    "weekly": "week",
    "monthly": "month",
    "yearly": "year",
}
"""The interval that a schedule's ticks are apart; all in UTC."""

_MOST_ANCHORED = 86_400
_LIS200 = "generic_lis200"


class ExpectedSeries(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One series that the meters of a config should have.

    ``anchor_seconds``: null for where the interval begins where the meter stands. ``archive``: where the meter can be
    asked for it again; null when nowhere.
    """

    series: Annotated[str, Meta(min_length=1, max_length=50)]
    interval: str
    anchor_seconds: Annotated[int, Meta(ge=0)] | None = None
    archive: Annotated[int, Meta(ge=1, le=99)] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Polled:
    """A task as far as it says what is expected."""

    context: str
    call: str
    kwargs: Mapping[str, Any]
    schedule: str
    offset_seconds: int

    @property
    def archive(self) -> int | None:
        """The archive that it reads; None when it reads none."""
        number = self.kwargs.get("archive_number")
        return number if self.call.startswith("read_archive") and isinstance(number, int) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What a meter's expectations follow from."""

    zone: str
    series: frozenset[str]
    mappings: Sequence[Mapping[str, Any]] = ()
    expectations: Sequence[Mapping[str, Any]] = ()
    tasks: Sequence[Polled] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """A series and its raster; ``momentary`` as in ``hub.models.LedgerRaster``."""

    series: str
    raster: Raster
    origin: str
    archive: int | None = None
    momentary: bool = False


def raster_of(interval: str, anchor_seconds: int | None, zone: str) -> Raster:
    """Return the raster; without an anchor it begins where the interval begins in the zone.

    Raises:
        ContractError: when there is no such raster.
    """
    anchored = local_anchor(interval, zone) if anchor_seconds is None else anchor_seconds
    return Raster(interval, anchored, zone)


def expected_of(setup: Setup) -> dict[str, Expected]:
    """Return what is expected of the meter, by series."""
    found: dict[str, Expected] = {}
    for told in setup.expectations:
        if told["series"] in setup.series:
            raster = raster_of(told["interval"], told["anchor_seconds"], setup.zone)
            found[told["series"]] = Expected(told["series"], raster, FROM_CONFIG, told["archive"])
    for kind in (_archived, _momentary):
        # The most frequent first; of equal ones always the same.
        for one in sorted(kind(setup), key=lambda one: (one.raster.seconds, one.raster.anchor_seconds, one.series)):
            found.setdefault(one.series, one)
    return found


def _archived(setup: Setup) -> Iterable[Expected]:
    for archive in {task.archive for task in setup.tasks if task.context == _LIS200}:
        if archive not in ARCHIVES:
            continue
        raster = raster_of(*ARCHIVES[archive], setup.zone)
        mapped = {entry["series"] for entry in setup.mappings if entry["archive"] == archive}
        for series in setup.series:
            if series in mapped or series.endswith(f"/{archive}"):
                yield Expected(series, raster, FROM_ARCHIVE, archive)


def _momentary(setup: Setup) -> Iterable[Expected]:
    named = {(entry["archive"], entry["source"]): entry["series"] for entry in setup.mappings}
    for task in setup.tasks:
        raster = ticks_of(task)
        if raster is None:
            continue
        for source in _sources(task):
            series = named.get((0, source), source)
            if series in setup.series:
                yield Expected(series, raster, FROM_TASK, momentary=True)


def ticks_of(task: Polled) -> Raster | None:
    """Return the raster of a task's runs; an offset as long as the period is the next tick."""
    interval = SCHEDULED.get(task.schedule)
    if interval is None:
        return None
    period = Raster(interval).seconds
    # Beyond a day an anchor would be on the wall clock of the wrong day now and then; UTC has no such changes.
    offset = task.offset_seconds % period
    return Raster(interval, min(offset, 27 * _MOST_ANCHORED - 1))


def _sources(task: Polled) -> tuple[str, ...]:
    try:
        return find_call(task.context, task.call).sources(check_call(task.context, task.call, task.kwargs))
    except CallError:
        # Saved when it could be run; what cannot be run any more brings nothing.
        return ()
