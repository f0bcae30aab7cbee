"""What is to be fetched, in which pieces, when it is tried again, and when it is given up. Pure functions.

Rules:
- Gaps of one archive of one meter are fetched together, whatever series they are of, because a row of an archive has
  all of them. Two gaps with little between them are one *window*: the rows between cost less than another session.
- A window costs at most ``MOST_SECONDS`` of line time, so that no piece is ever much to lose or to wait for.
- What is kept already (waiting, being fetched, paused, given up, cancelled) is not planned again.
- Nothing is planned for a gateway that is away: it may still hold the rows, and cannot be asked anyway.
- What failed is tried again after a pause that doubles, and given up after ``MOST_TRIES``.
"""

import dataclasses
import datetime as dt
import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence

from protocol.rasters import Raster

MOST_SECONDS = 300.0
"""Line time of one window: half an hour of an archive's rows on a slow line, a month of hours on a quick one."""

PAUSES_SECONDS = 1.0
OPENING_CHARACTERS, SESSION_CHARACTERS = 30, 165
"""What a command costs beside its rows: reaction times of both sides; call, identification and option select at the
opening rate; serial number, clock, the question for the rows and the goodbye at the rate after it."""

ROW_CHARACTERS = 165
"""Length of an archive row on the line where no read of this meter has shown it: 18 columns, LIS-200 fact sheet 3.4."""

BITS_PER_CHARACTER = 10
USUAL_RATE = 9600
"""Baud at which a session goes on that began at 300: what the meters of the field agree to."""

FIRST_PAUSE, LONGEST_PAUSE = dt.timedelta(minutes=5), dt.timedelta(hours=12)
MOST_TRIES = 8
"""With pauses that double from 5 minutes: the last try is some eleven hours after the first."""

STEP = dt.timedelta(seconds=1)
"""The resolution of archives' times: windows that follow one another are so far apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Missing slots of one series without a stored one between them, from ``start`` to ``end``, both included."""

    start: dt.datetime
    end: dt.datetime
    raster: Raster

    def within(self, start: dt.datetime, end: dt.datetime) -> tuple[dt.datetime, dt.datetime] | None:
        """Return the first and last of the gap's slots between two instants; None when there is none."""
        first = self.raster.first_slot_at_or_after(max(start, self.start))
        last = self.raster.slot_at_or_before(min(end, self.end))
        return None if first > last else (self.raster.instant_of(first), self.raster.instant_of(last))


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """An archive of a meter that brings series: on which line, how its rows come, and what is missing of it.

    ``session_seconds`` is line time of a command without its rows, ``row_seconds`` that of a row, ``interval`` the
    time between two rows.
    """

    device: uuid.UUID
    number: int
    gateway: uuid.UUID
    session_seconds: float
    row_seconds: float
    interval: dt.timedelta
    gaps: Sequence[Gap]

    @property
    def key(self) -> tuple[uuid.UUID, int]:
        """Meter and archive."""
        return self.device, self.number


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Rows to be fetched with one command, from ``start`` to ``end``, both included."""

    device: uuid.UUID
    archive: int
    start: dt.datetime
    end: dt.datetime
    cost_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A window that is cared for, or is not to be cared for."""

    start: dt.datetime
    end: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayState:
    """What its last life sign says.

    ``delivered``: what it stored before this instant is here; None: nobody knows. ``said`` and ``oldest`` are by its
    own clock: when it gave the life sign, and when the oldest row was stored that was not here then, if any.
    """

    online: bool
    delivered: dt.datetime | None
    said: dt.datetime | None = None
    oldest: dt.datetime | None = None


def windows(
    archives: Iterable[Archive],
    gateways: Mapping[uuid.UUID, GatewayState],
    kept: Mapping[tuple[uuid.UUID, int], Sequence[Kept]],
) -> list[Window]:
    """Return what is to be fetched and not kept, merged per meter and archive, the newest window of each first."""
    found: list[Window] = []
    for archive in archives:
        gateway = gateways.get(archive.gateway)
        if gateway is None or not gateway.online:
            continue
        spans = _merged(
            slots
            for gap in archive.gaps
            for start, end in _without([(gap.start, gap.end)], kept.get(archive.key, ()))
            if (slots := gap.within(start, end)) is not None
        )
        # What is kept stays apart: a window never covers it.
        pieces = [
            Window(archive.device, archive.number, start, end, cost_of(archive, start, end))
            for joined in _joined(spans, kept.get(archive.key, ()), _worthwhile(archive))
            for start, end in _cut(archive, *joined)
        ]
        found += reversed(pieces)
    return found


def session_seconds(rate: int, *, fixed: bool) -> float:
    """Return the line time of a command without its rows; see ``row_seconds``."""
    characters = OPENING_CHARACTERS / rate + SESSION_CHARACTERS / (rate if fixed else max(rate, USUAL_RATE))
    return round(PAUSES_SECONDS + BITS_PER_CHARACTER * characters, 2)


def row_seconds(rate: int, *, fixed: bool, seen: tuple[int, int] | None) -> float:
    """Return the line time of one row.

    Args:
        rate: Opening rate of the line in baud.
        fixed: Whether that stays; else sessions go on at ``USUAL_RATE``.
        seen: Bytes that reads of this meter's archives moved, and the rows that they brought, if there were any.
    """
    characters = seen[0] / seen[1] if seen and seen[1] else ROW_CHARACTERS
    return characters * BITS_PER_CHARACTER / (rate if fixed else max(rate, USUAL_RATE))


def cost_of(archive: Archive, start: dt.datetime, end: dt.datetime) -> float:
    """Return about how many seconds of line time the window takes."""
    rows = (end - start) / archive.interval + 1
    return round(archive.session_seconds + rows * archive.row_seconds, 1)


def next_try(tries: int, now: dt.datetime) -> dt.datetime | None:
    """Return when to try again after so many tries that failed; None when it is to be given up."""
    if tries >= MOST_TRIES:
        return None
    return now + min(LONGEST_PAUSE, FIRST_PAUSE * (1 << max(0, tries - 1)))


def has_delivered(gateway: GatewayState, since: dt.datetime) -> bool:
    """Whether all that the gateway had at an instant is here: what is missing then still does not wait on it."""
    return gateway.online and gateway.delivered is not None and gateway.delivered > since


def has_delivered_result(gateway: GatewayState, ended: dt.datetime) -> bool:
    """Whether all that a command brought is here, which ended then by the gateway's clock.

    A life sign that was under way when the command ended says nothing of it.
    """
    if not gateway.online or gateway.said is None or gateway.said <= ended:
        return False
    return gateway.oldest is None or gateway.oldest > ended


def _worthwhile(archive: Archive) -> dt.timedelta:
    """Return the longest time between two gaps that are cheaper fetched as one."""
    return archive.interval * (archive.session_seconds / max(archive.row_seconds, 1e-6))


def _merged(pieces: Iterable[tuple[dt.datetime, dt.datetime]]) -> list[tuple[dt.datetime, dt.datetime]]:
    """Return the union of the pieces, in order."""
    spans: list[tuple[dt.datetime, dt.datetime]] = []
    for start, end in sorted(pieces):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _without(
    spans: Iterable[tuple[dt.datetime, dt.datetime]], kept: Sequence[Kept]
) -> list[tuple[dt.datetime, dt.datetime]]:
    """Take out of the spans what is kept."""
    left = list(spans)
    for one in kept:
        cut: list[tuple[dt.datetime, dt.datetime]] = []
        for start, end in left:
            if one.end < start or one.start > end:
                cut.append((start, end))
                continue
            if start < one.start:
                cut.append((start, one.start - STEP))
            if one.end < end:
                cut.append((one.end + STEP, end))
        left = cut
    return left


def _joined(
    spans: Sequence[tuple[dt.datetime, dt.datetime]], kept: Sequence[Kept], apart: dt.timedelta
) -> list[tuple[dt.datetime, dt.datetime]]:
    """Join spans that are cheaper fetched as one, unless something kept lies between them."""
    found: list[tuple[dt.datetime, dt.datetime]] = []
    for start, end in spans:
        if found:
            before = found[-1][1]
            between = any(one.start <= start and one.end >= before for one in kept)
            if start - before <= apart and not between:
                found[-1] = (found[-1][0], end)
                continue
        found.append((start, end))
    return found


def _cut(archive: Archive, start: dt.datetime, end: dt.datetime) -> list[tuple[dt.datetime, dt.datetime]]:
    """Cut a window into pieces that cost no more than one may."""
    rows = max(1, int((MOST_SECONDS - archive.session_seconds) / max(archive.row_seconds, 1e-6)))
    if (end - start) / archive.interval + 1 <= rows:
        return [(start, end)]
    length = max(archive.interval * (rows - 1), STEP)
    pieces = []
    while start <= end:
        last = min(start + length, end)
        pieces.append((start, last))
        start = last + STEP
    return pieces


def total_seconds(planned: Iterable[Window]) -> float:
    """Return what all of it costs."""
    return round(sum(window.cost_seconds for window in planned), 1)


def by_line(planned: Iterable[Window], lines: Mapping[uuid.UUID, uuid.UUID]) -> dict[uuid.UUID, float]:
    """Return the seconds for each line; ``lines`` has the meters'."""
    ordered = sorted(planned, key=lambda window: lines[window.device].int)
    groups = itertools.groupby(ordered, key=lambda window: lines[window.device])
    return {line: total_seconds(some) for line, some in groups}
