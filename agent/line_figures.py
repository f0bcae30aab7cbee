"""What a line does and what goes wrong on it, counted: busy time, bytes, repeats, errors by kind, time-outs by meter.

Rules: counts only, from what conversations show (``agent.conversation.Observer``) and from how long sessions last;
nothing here changes what is said. Figures count from the start of the process, and go to the metrics page, to the
life sign and to ``metergate-agent lines``.
"""

import collections
import datetime as dt
from collections.abc import Iterable

from agent.conversation import NoAnswer
from agent.links import LinkError
from agent.metrics import Sample
from protocol import iec62056
from protocol.iec62056 import MeterEvent, ReaderEvent
from protocol.plans import Line
from protocol.reports import LineFigures

KEY = "lines"
"""Where the store keeps the figures of the last minute, for who asks beside the agent: JSON."""
MOST_REPORTED_BYTES = 48 * 1024
"""Of figures in one life sign; the lines with the fewest errors are left out first."""

NO_ANSWER, BROKEN_OFF, LINK, DAMAGED, NAK, RULES = "no_answer", "broken_off", "link", "damaged", "nak", "protocol"
"""Kinds of errors: nothing came; it stopped in a telegram; the port or connection failed; the telegram arrived
damaged; the meter found ours damaged; the telegram was whole and not legal there."""


class LineTally:
    """Counts for one line."""

    def __init__(self, line: Line, since: dt.datetime) -> None:
        self._line, self._since = line, since
        self._sessions = self._bytes = self._repeats = 0
        self._busy = 0.0
        self._errors: collections.Counter[str] = collections.Counter()
        self._timeouts: collections.Counter[str] = collections.Counter()

    def rename(self, line: Line) -> None:
        """Go on for the line as a new plan has it."""
        self._line = line

    def session(self, seconds: float) -> None:
        """Count a session that has ended."""
        self._sessions += 1
        self._busy += seconds

    def ear(self, meter: str) -> "Ear":
        """Who listens to a session with that meter."""
        return Ear(self, meter)

    def moved(self, count: int) -> None:
        """Count bytes."""
        self._bytes += count

    def repeated(self) -> None:
        """Count a telegram that had to be said again, or asked for again."""
        self._repeats += 1

    def failed(self, kind: str, meter: str) -> None:
        """Count an error."""
        self._errors[kind] += 1
        if kind in {NO_ANSWER, BROKEN_OFF}:
            self._timeouts[meter] += 1

    def figures(self, silent: Iterable[str] = ()) -> LineFigures:
        """Return what was counted; ``silent``: the meters that are left alone now."""
        return LineFigures(
            line=self._line.id,
            name=self._line.name,
            since=self._since,
            sessions=self._sessions,
            busy_seconds=round(self._busy, 3),
            bytes=self._bytes,
            repeats=self._repeats,
            errors=dict(self._errors),
            timeouts=dict(self._timeouts),
            silent=sorted(silent),
        )


class Ear:
    """Listens to one session; an ``agent.conversation.Observer``."""

    def __init__(self, tally: LineTally, meter: str) -> None:
        self._tally, self._meter = tally, meter
        self._last: ReaderEvent | None = None
        self._wrong = False

    def said(self, data: bytes, event: ReaderEvent, rate: int, begun: float, ended: float) -> None:
        """Count its bytes, and whether it was said before in vain."""
        del rate, begun, ended
        self._tally.moved(len(data))
        if isinstance(event, iec62056.Nak) or (self._wrong and event == self._last):
            self._tally.repeated()
        if not isinstance(event, iec62056.Break | iec62056.WakeUp):
            self._wrong = False
            self._last = self._last if isinstance(event, iec62056.Nak) else event

    def heard(self, data: bytes, rate: int, at: float) -> None:
        """Count its bytes."""
        del rate, at
        self._tally.moved(len(data))

    def understood(self, event: MeterEvent, rate: int, at: float) -> None:
        """Note that the meter did not understand us."""
        del rate, at
        if isinstance(event, iec62056.Nak):
            self._failed(NAK)
        elif isinstance(event, iec62056.Refusal):
            self._wrong = True

    def failed(self, error: Exception, rate: int, at: float) -> None:
        """Count the error by its kind."""
        del rate, at
        match error:
            case NoAnswer():
                self._failed(BROKEN_OFF if error.broken_off else NO_ANSWER)
            case LinkError():
                self._failed(LINK)
            case iec62056.DamagedTelegram():
                self._failed(DAMAGED)
            case _:
                self._failed(RULES)

    def _failed(self, kind: str) -> None:
        self._wrong = True
        self._tally.failed(kind, self._meter)


def as_told(figures: LineFigures) -> dict[str, object]:
    """Return the figures by their names, for JSON."""
    return {name: getattr(figures, name) for name in figures.__struct_fields__}


def samples(figures: Iterable[LineFigures]) -> list[Sample]:
    """Return the figures for Prometheus."""
    found: list[Sample] = []
    for one in figures:
        line = {"line": one.name}
        counts = (
            ("line_sessions_total", "Sessions on a line", one.sessions),
            ("line_busy_seconds_total", "Seconds for which a line was in use", one.busy_seconds),
            ("line_bytes_total", "Bytes on a line, both directions", one.bytes),
            ("line_repeats_total", "Telegrams that were said or asked for again", one.repeats),
        )
        found += [Sample(name, text, value, line, "counter") for name, text, value in counts]
        found.append(
            Sample("line_silent_meters", "Meters that are left alone because they are silent", len(one.silent), line)
        )
        found += [
            Sample("line_errors_total", "Errors on a line, by kind", count, {**line, "kind": kind}, "counter")
            for kind, count in one.errors.items()
        ]
        found += [
            Sample("meter_timeouts_total", "Answers that did not come", count, {**line, "meter": meter}, "counter")
            for meter, count in one.timeouts.items()
        ]
    return found


def reported(figures: Iterable[LineFigures]) -> list[LineFigures]:
    """Return as many as a life sign carries, those with most errors first to stay; in the order of their names."""
    kept, size = [], 0
    for one in sorted(figures, key=lambda one: -sum(one.errors.values())):
        size += 200 + sum(len(name) + 8 for name in (*one.errors, *one.timeouts, *one.silent))
        if size > MOST_REPORTED_BYTES:
            break
        kept.append(one)
    return sorted(kept, key=lambda one: one.name)
