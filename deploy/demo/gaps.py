"""The strip of the meter that pushes, and the gaps in it: by nothing but what the hub answers.

A strip has a character for each quarter of an hour, the oldest first; what a backfill has asked for, and is still to
arrive, is being fetched. A *gap* is quarters in a row that were missing, or being fetched; it is closed when the hub
says of each of them that it is stored, or lost for good, with evidence.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from deploy.demo.expected import instant
from deploy.demo.hub_client import HubClient

QUARTER = dt.timedelta(minutes=15)
STORED, DUE, MISSING, FETCHED, LOST = "stored", "due", "missing", "being_fetched", "unrecoverable"
MARKS = {STORED: "=", DUE: ".", "on_gateway": "-", MISSING: "?", FETCHED: "~", LOST: "x"}
LEGEND = "= stored   . due   ? missing   ~ being fetched   x lost for good"
OPEN, CLOSED = (MISSING, FETCHED), (STORED, LOST)
UNDER_WAY = ("fetching", "settling")
"""States of a backfill that has been sent."""

SHOWN = 48
"""Quarters of an hour that a strip shows: half a day."""


@dataclasses.dataclass(frozen=True)
class Quarter:
    """What the hub says of one quarter of an hour."""

    state: str
    reason: str
    evidence: str


@dataclasses.dataclass
class Gap:
    """Quarters of an hour in a row that were not there when they should have been; when that was first and last so."""

    start: dt.datetime
    end: dt.datetime
    seen: dt.datetime
    closed: dt.datetime | None


class Watch:
    """Looks again and again at one series of one meter, and remembers which quarters were missing, and until when.

    ``until`` is the last quarter of an hour that counts; None while the meter is still to push.
    """

    def __init__(self, hub: HubClient, device: str, series: str, since: dt.datetime) -> None:
        self._hub, self._device, self._series, self._since = hub, device, series, since
        self.until: dt.datetime | None = None
        self.quarters: dict[dt.datetime, Quarter] = {}
        self._seen: dict[dt.datetime, dt.datetime] = {}
        self._closed: dict[dt.datetime, dt.datetime] = {}

    def look(self) -> None:
        """Ask the hub how each quarter of an hour stands, and what it is about."""
        # From a little before: what begins in a moment is in the future, of which the hub is not asked.
        start = (self._since - 4 * QUARTER).isoformat()
        backfills = list(self._hub.all("/v1/backfills", meter_device=self._device))
        asked = {"meter_device": self._device, "series": self._series, "start": start}
        self.take(self._hub.get("/v1/completeness/slots", **asked), backfills)

    def take(self, answers: Iterable[dict[str, Any]], backfills: Iterable[dict[str, Any]]) -> None:
        """Take what the hub has answered: slots as spans, and the backfills of the meter."""
        windows = [(instant(row["start"]), instant(row["end"])) for row in backfills if row["state"] in UNDER_WAY]
        for answer in answers:
            as_of = instant(answer["as_of"])
            for span in answer["spans"]:
                last = instant(span["end"])
                for at in quarters(instant(span["start"]), last if self.until is None else min(last, self.until)):
                    quarter = Quarter(span["state"], span["reason"], span["evidence"])
                    if quarter.state == MISSING and any(start <= at <= end for start, end in windows):
                        quarter = Quarter(FETCHED, "", "")
                    self._note(at, quarter, as_of)

    def _note(self, at: dt.datetime, quarter: Quarter, as_of: dt.datetime) -> None:
        self.quarters[at] = quarter
        if quarter.state in OPEN:
            self._seen.setdefault(at, as_of)
            self._closed.pop(at, None)
        elif at in self._seen and quarter.state in CLOSED:
            self._closed.setdefault(at, as_of)

    def those(self, *states: str) -> list[dt.datetime]:
        """Return the quarters in these states, the oldest first."""
        return [at for at, quarter in sorted(self.quarters.items()) if quarter.state in states]

    def strip(self) -> str:
        """Return when the strip begins, and a character for each quarter of an hour."""
        shown = sorted(self.quarters.items())[-SHOWN:]
        marks = "".join(MARKS.get(quarter.state, "?") for _, quarter in shown)
        return f"{shown[0][0]:%H:%M} {marks}" if shown else ""

    def told(self) -> str:
        """Return in words what is not there, and why."""
        parts = []
        for state, text in ((MISSING, "missing"), (FETCHED, "being fetched"), (LOST, "lost for good")):
            found = self.those(state)
            reasons = sorted({self.quarters[at].reason.replace("_", " ") for at in found} - {""})
            if found:
                parts.append(f"{len(found)} {text}" + (f" ({', '.join(reasons)})" if reasons else ""))
        return ", ".join(parts) or "nothing is missing"

    def gaps(self) -> list[Gap]:
        """Return the gaps that were seen, the oldest first."""
        found: list[Gap] = []
        for at, seen in sorted(self._seen.items()):
            closed = self._closed.get(at)
            if found and found[-1].end + QUARTER == at:
                last = found[-1]
                both = None if last.closed is None or closed is None else max(last.closed, closed)
                found[-1] = Gap(last.start, at, min(last.seen, seen), both)
            else:
                found.append(Gap(at, at, seen, closed))
        return found

    def is_whole(self) -> bool:
        """Whether a gap was seen, and none is open."""
        gaps = self.gaps()
        return bool(gaps) and all(gap.closed for gap in gaps)

    def evidence(self) -> Iterator[tuple[dt.datetime, str]]:
        """Yield the quarters that are lost for good, with what the hub says of them."""
        for at in self.those(LOST):
            yield at, self.quarters[at].evidence


def quarters(first: dt.datetime, last: dt.datetime) -> Iterable[dt.datetime]:
    """Return the quarters of an hour from the first to the last."""
    return [first + i * QUARTER for i in range((last - first) // QUARTER + 1)]


def figures(hub: HubClient, watch: Watch, device: str, since: dt.datetime, rate: float) -> dict[str, Any]:
    """Return the figures of the gaps: what the hub says of them at the end. Seconds are real ones."""
    watch.look()
    gaps = watch.gaps()
    took = [gap.closed - gap.seen for gap in gaps if gap.closed is not None]
    end = {} if watch.until is None else {"end": (watch.until + QUARTER).isoformat()}
    totals = hub.get("/v1/completeness", meter_device=device, start=since.isoformat(), **end)
    return {
        "gaps_seen": len(gaps),
        "gaps_closed": len(took),
        "unrecoverable": totals["unrecoverable"],
        "seconds_to_close": round(max(took, default=dt.timedelta()).total_seconds() / rate, 1),
    }
