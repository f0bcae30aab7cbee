"""``metergate-agent archive``: the rows of one archive as the meter shows them, while they come.

Rules: columns, names and units are the meter's own; times are the meter's local ones, and in UTC beside them where a
machine reads (``--json``, ``--csv``). A row that does not hold together is shown, named, and makes the exit status 1.
"""

import csv
import datetime as dt
import json
import pathlib
import re
import time
import zoneinfo
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self, TextIO

import click
import msgspec

from agent.archives import NO_LAYOUT
from agent.arguments import in_words_of_here, rfc3339
from agent.cli_meter import WIDE, LineAsked, Progress, Stage, line_asked, line_options, on_a_line
from agent.identify import first_row, layout_of
from agent.session import Session
from agent.tables import Growing
from contexts.calls import CallError, Date
from contexts.lis200_columns import Columns, LayoutError, columns, number_column, time_column
from contexts.lis200_events import summer_by_events
from contexts.lis200_rows import DamagedRow, Row, read_row
from contexts.lis200_times import meter_window, resolve, summer_hints
from contexts.meters import Layout
from protocol.iec62056 import MeterRefusal, lis200
from protocol.iec62056.codes import ARCHIVE_EMPTY, event_title

DEFAULT_ROWS = 10
_SPAN = re.compile(r"(\d{1,6})([mhd]?)")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_EMPTY = frozenset({ARCHIVE_EMPTY, 104, 105})
"""Refusals that mean that no row is in the range. Source: LIS-200 fact sheet 3.3."""

_HELP = f"""Read an archive of a meter and show its rows with the meter's own names and units.

ENDPOINT is a serial port or a device server (socket://host:port). NUMBER is the archive's: on EK and TC 1 and 2 are
months, 3 measuring periods, 4 events, 5 changes, 7 days; on DL odd numbers are months and even ones measuring periods
of each channel, 10 events. `identify` lists what a meter has.

\b
The last {DEFAULT_ROWS} rows; the last 96; those of the last two days:
  metergate-agent archive /dev/ttyUSB0 3
  metergate-agent archive /dev/ttyUSB0 3 --last 96
  metergate-agent archive /dev/ttyUSB0 3 --last 2d

\b
One gas day, for a spreadsheet and for a script:
  metergate-agent archive /dev/ttyUSB0 3 --from 2026-01-15T06:00 --to 2026-01-16T06:00 --csv day.csv
  metergate-agent archive /dev/ttyUSB0 3 --from 2026-01-15T06:00 --to 2026-01-16T06:00 --json | jq .values

Dates without an offset are in the meter's zone (--timezone); a row's time is the end of its period. With --json each
row is printed as it comes. Exit status: 0 done, 1 failed (the cause is on standard error), 2 wrong usage.
"""


class ArchiveAsked(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="archive", omit_defaults=True):
    """One readout, as it was typed."""

    on: LineAsked
    number: int
    start: str = ""
    end: str = ""
    last: str = ""
    as_json: bool = False
    csv: str = ""

    async def carry_out(self, stage: Stage) -> int:
        """Read and show."""
        progress = Progress(stage)
        try:
            async with stage.session(self.on) as session:
                serial = await session.serial_number()
                layout = await layout_of(session, self.number)
                with _output(self, serial, layout) as output:
                    if layout != NO_LAYOUT:  # what is not described and has no row to tell its columns is empty
                        async for row, instant in _Readout(self, layout, session, stage, progress).rows():
                            progress.clear()
                            output.show(row, instant)
                    progress.clear()
                    output.end()
        finally:
            progress.clear()
        if output.damaged:
            raise click.ClickException("\n".join(output.damaged))
        return 0


class _Readout:
    """Which rows are asked for, and when each of them was."""

    def __init__(self, asked: ArchiveAsked, layout: Layout, session: Session, stage: Stage, progress: Progress) -> None:
        self._asked, self._layout, self._session, self._stage = asked, layout, session, stage
        self._progress = progress
        self._begun = time.monotonic()
        self._expected: int | None = None
        self._count = 0
        found = time_column(layout)
        if found is None:
            raise LayoutError(f"no column of archive {asked.number} holds a time")
        self._time = found
        self._start: dt.datetime | None = None
        self._end: dt.datetime | None = None

    async def rows(self) -> AsyncIterator[tuple[Row | DamagedRow, dt.datetime | None]]:
        """Each row as it comes, with its instant in UTC unless it is damaged."""
        position, low, high = await self._range()
        found: Columns | None = None
        before: tuple[Row, dt.datetime] | None = None
        try:
            async for block in self._session.rows(self._asked.number, position, low, high):
                found = found or columns(self._layout, block)
                judged = [read_row(found, texts) for texts in block]
                instants = iter(self._instants([row for row in judged if isinstance(row, Row)], before))
                for row in judged:
                    if isinstance(row, DamagedRow):
                        yield row, None
                        continue
                    before = (row, next(instants))
                    if self._inside(before[1]):
                        yield before
                self._show(len(judged), before)
        except MeterRefusal as refusal:
            if refusal.code not in _EMPTY:
                raise

    def _instants(self, good: Sequence[Row], before: tuple[Row, dt.datetime] | None) -> list[dt.datetime]:
        """The rows' instants; the row before them, whose instant is known, settles the repeated hour."""
        known = [before[0], *good] if before else [*good]
        locals_ = [row.local for row in known]
        shown = summer_hints(locals_, [row.summer for row in known])
        summer = [s if logged is None else logged for logged, s in zip(summer_by_events(known), shown, strict=True)]
        first = before[1] if before else None
        return resolve(self._session.zone, locals_, summer=summer, first=first)[len(known) - len(good) :]

    def _inside(self, instant: dt.datetime) -> bool:
        return (self._start is None or self._start <= instant) and (self._end is None or instant <= self._end)

    async def _range(self) -> tuple[int, str, str]:
        """The column to compare, from 1, and the limits in the meter's notation."""
        asked, zone = self._asked, self._session.zone
        span = _SPAN.fullmatch(asked.last)
        if span is not None and not span[2]:
            return await self._last_rows(int(span[1]))
        if span is not None:
            self._start = self._stage.now() - dt.timedelta(seconds=int(span[1]) * _SECONDS[span[2]])
        if asked.start:
            self._start = Date(asked.start).earliest(zone)
        if asked.end:
            self._end = Date(asked.end).latest(zone)
        if self._start is None:
            until = meter_window(zone, self._end, self._end)[1] if self._end else None
            return self._time + 1, "", lis200.format_datetime(until) if until else ""
        low, last = meter_window(zone, self._start, self._end)
        return self._time + 1, lis200.format_datetime(low), lis200.format_datetime(last) if last else ""

    async def _last_rows(self, count: int) -> tuple[int, str, str]:
        """The newest rows, by their numbers: those of one archive follow each other (LIS-200 fact sheet 3.3)."""
        number = self._asked.number
        numbered = number_column(self._layout, self._time)
        counted = await self._session.read(lis200.archive_address(number, lis200.ROW_COUNT))
        held = int(lis200.parse_decimal(counted[0] if counted else ""))
        self._expected = min(held, count)
        first = await first_row(self._session, number, self._time + 1, "") if held > count else None
        if first is None or numbered is None or not first[numbered].isdigit():
            return self._time + 1, "", ""
        return numbered + 1, str(int(first[numbered]) + held - count), ""

    def _show(self, rows: int, newest: tuple[Row, dt.datetime] | None) -> None:
        self._count += rows
        done: float | None = None
        if self._expected:
            done = self._count / self._expected
        elif newest is not None and self._start is not None:
            whole = ((self._end or self._stage.now()) - self._start).total_seconds()
            done = (newest[1] - self._start).total_seconds() / whole if whole > 0 else None
        self._progress.show(f"{self._count} rows, {time.monotonic() - self._begun:.0f} s", done)


class _Output:
    """Shows rows; this one as a table."""

    def __init__(self, asked: ArchiveAsked, serial: str, layout: Layout) -> None:
        self.damaged: list[str] = []
        self._asked, self._serial, self._layout = asked, serial, layout
        self._zone = zoneinfo.ZoneInfo(asked.on.timezone)
        self._rows = 0
        self._table: Growing | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def show(self, row: Row | DamagedRow, instant: dt.datetime | None) -> None:
        """Show one row."""
        if isinstance(row, DamagedRow) or instant is None:
            self.damaged.append(f"archive {self._asked.number}: {row}")
            return
        self._rows += 1
        self._put(row, instant)

    def end(self) -> None:
        """There are no more."""
        if not self._rows:
            click.echo(f"meter {self._serial}, archive {self._asked.number}: no row in that range")

    def _put(self, row: Row, instant: dt.datetime) -> None:
        del instant  # people compare with the display
        if self._table is None:
            names = self._named()
            self._table = Growing(names, [self._cells(row)], right=range(len(names) - 1))
            click.echo(f"meter {self._serial}, archive {self._asked.number}, times as on the meter ({self._zone.key})")
            click.echo("")
            click.echo(self._table.line(names))
            units = [lis200.normalise_unit(unit) for unit in self._filled(self._layout.units)]
            if any(units):
                click.echo(self._table.line([*units, ""]))
        click.echo(self._table.line(self._cells(row)))

    def _named(self) -> list[str]:
        return [*(name.strip() for name in self._filled(self._layout.names or self._layout.sources)), "meaning"]

    def _cells(self, row: Row) -> list[str]:
        meaning = "" if row.event is None else event_title(row.event)
        return [*(text.strip().replace(",", " ") if "," in text else text.strip() for text in row.texts), meaning]

    def _filled(self, texts: Sequence[str]) -> list[str]:
        count = max(len(self._layout.sources), len(self._layout.names), len(self._layout.units))
        return [*texts, *[""] * (count - len(texts))]


class _JsonLines(_Output):
    """One JSON object per row, as it comes."""

    def end(self) -> None:
        """No row is no line."""

    def _put(self, row: Row, instant: dt.datetime) -> None:
        values = [
            {"name": name.strip(), "source": source, "value": text.strip(), "unit": lis200.normalise_unit(unit)}
            for name, source, text, unit in zip(
                self._filled(self._layout.names),
                self._filled(self._layout.sources),
                row.texts,
                self._filled(self._layout.units),
                strict=False,
            )
        ]
        shown = {
            "meter": self._serial,
            "archive": self._asked.number,
            "number": row.number,
            "timestamp": rfc3339(instant),
            "local": row.local.isoformat(),
            "values": values,
        }
        if row.event is not None:
            shown |= {"event": f"0x{row.event:04X}", "meaning": event_title(row.event)}
        click.echo(json.dumps(shown, ensure_ascii=False))


class _CsvFile(_Output):
    """A file for a spreadsheet: UTC, then the columns as the meter has them."""

    def __init__(self, asked: ArchiveAsked, serial: str, layout: Layout) -> None:
        super().__init__(asked, serial, layout)
        try:
            self._file: TextIO = pathlib.Path(asked.csv).open("w", encoding="utf-8", newline="")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise click.ClickException(f"{asked.csv} cannot be written: {error.strerror}") from error
        self._writer = csv.writer(self._file)
        units = [lis200.normalise_unit(unit) for unit in self._filled(layout.units)]
        names = [name.strip() for name in self._filled(layout.names or layout.sources)]
        head = [f"{name} [{unit}]" if unit else name for name, unit in zip(names, units, strict=True)]
        self._writer.writerow(["timestamp (UTC)", *head, "meaning"])

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def end(self) -> None:
        """Say where it is."""
        click.echo(f"{self._rows} rows of archive {self._asked.number} of meter {self._serial} in {self._asked.csv}")

    def _put(self, row: Row, instant: dt.datetime) -> None:
        meaning = "" if row.event is None else event_title(row.event)
        self._writer.writerow([rfc3339(instant), *(text.strip() for text in row.texts), meaning])


def _output(asked: ArchiveAsked, serial: str, layout: Layout) -> _Output:
    kind = _JsonLines if asked.as_json else _CsvFile if asked.csv else _Output
    return kind(asked, serial, layout)


@click.command("archive", help=_HELP, context_settings=WIDE)
@click.argument("endpoint")
@click.argument("number", type=click.IntRange(1, 99))
@click.option("--from", "start", default="", metavar="DATE", help="First time, included, e.g. 2026-01-15T06:00.")
@click.option("--to", "end", default="", metavar="DATE", help="Last time, included; without one to the newest row.")
@click.option(
    "--last", default="", metavar="ROWS|TIME", help=f"So many rows, or 90m, 24h, 7d.  [default: {DEFAULT_ROWS} rows]"
)
@line_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row, as it comes.")
@click.option(
    "--csv", "file", type=click.Path(dir_okay=False, path_type=pathlib.Path), metavar="FILE", help="Write a CSV file."
)
def command(
    endpoint: str,
    number: int,
    *,
    start: str,
    end: str,
    last: str,
    as_json: bool,
    file: pathlib.Path | None,
    trace: bool,
    capture: pathlib.Path | None,
    **line: Any,  # noqa: ANN401 - the options of the line
) -> None:
    """Read an archive of a meter and show its rows."""
    _check(start, end, last, both=as_json and file is not None)
    on, code = line_asked(endpoint, **line)
    asked = ArchiveAsked(
        on=on,
        number=number,
        start=start,
        end=end,
        last=last if last or start or end else str(DEFAULT_ROWS),
        as_json=as_json,
        csv=str(file or ""),
    )
    on_a_line(asked, code, trace=trace, capture=capture)


def _check(start: str, end: str, last: str, *, both: bool) -> None:
    if both:
        raise click.UsageError("--json prints rows and --csv writes them to a file; choose one")
    if last and (start or end):
        raise click.UsageError("--last counts back from now; it cannot be combined with --from or --to")
    span = _SPAN.fullmatch(last)
    if last and (span is None or not int(span[1])):
        raise click.UsageError(f"--last: {last!r} is no number of rows and no time such as 90m, 24h, 7d")
    limits = []
    for option, text in (("--from", start), ("--to", end)):
        try:
            if text:
                limits.append(Date(text).moment)
        except (ValueError, CallError) as error:
            words = in_words_of_here(error) if isinstance(error, CallError) else str(error)
            raise click.UsageError(f"{option}: {words}; use a date such as 2026-01-15T06:00") from error
    if start and end and len({limit.tzinfo is None for limit in limits}) == 1 and limits[1] < limits[0]:
        raise click.UsageError(f"--to {end} is before --from {start}")
