"""``api readings``, ``latest``, ``received`` and ``export``: what was read, to look at and to take away."""

import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from client.cli import connected, since_option, until_option
from client.hub import Hub
from client.records import Meter, Reading, Series
from client.shown import instant, json_lines, json_option, note, table

_EXPORT = "metering/readings/export"
_LATEST = "metering/readings/latest"
_RECEIVED = "metering/readings/received"
_METERS = 1000
"""Meters that the hub tells the latest readings of in one answer."""

_PAGE = 1000
_NOTHING = "no reading was received"


@click.command("readings")
@click.argument("meter")
@click.option("--series", help="Only this series; its name or id.")
@click.option("--flag", help="Only those with this flag, such as spike; any for all that have one.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@since_option
@until_option
@json_option
@click.pass_context
def readings_command(
    context: click.Context,
    meter: str,
    series: str | None,
    flag: str | None,
    limit: int,
    since: dt.datetime | None,
    until: dt.datetime | None,
    *,
    as_json: bool,
) -> None:
    r"""List readings of a METER (its name or id), the newest first.

    \b
      metergate-hub api readings "Heating plant" --series 2:300
      metergate-hub api readings "Heating plant" --flag any --since 30d
    """
    hub = connected(context)
    found = hub.find(Meter, meter)
    wanted = _series(hub, series, found).id if series else None
    rows = hub.list(
        Reading.path,
        most=limit,
        meter_device=found.id,
        series=wanted,
        flag=flag,
        start_time=since,
        end_time=until,
        ordering="-timestamp",
    )
    if as_json:
        json_lines(rows)
        return
    table(["TIME", "SERIES", "VALUE", "UNIT", "FLAGS"], _told(hub, rows), "there are no such readings")


def _series(hub: Hub, said: str, meter: Meter) -> Series:
    """Return the series of that name in the meter's organization, or of that id."""
    named = [one for one in hub.list(Series, name=said) if meter.organization in {None, one.organization}]
    return named[0] if len(named) == 1 else hub.find(Series, said)


def _told(hub: Hub, rows: Iterator[dict[str, Any]]) -> Iterator[list[object]]:
    return (cells for _, cells in _told_with(hub, rows))


def _told_with(hub: Hub, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[object]]]:
    """Yield each reading with what a table has of it."""
    names: dict[str, str] = {}
    for row in rows:
        if row["series"] not in names:
            names[row["series"]] = hub.get(Series, row["series"]).name
        yield row, [instant(row["timestamp"]), names[row["series"]], row["value"], row["unit"], row["flags"]]


@click.command("latest")
@click.argument("meters", nargs=-1, metavar="[METER]...")
@click.option("--series", multiple=True, help="Only this series; its name or id. May be given again.")
@json_option
@click.pass_context
def latest_command(context: click.Context, meters: tuple[str, ...], series: tuple[str, ...], *, as_json: bool) -> None:
    r"""Tell the newest reading of each series of METERs (their names or ids); without one, of all meters.

    \b
      metergate-hub api latest "Heating plant"
      metergate-hub api latest --series 2:300 --json | jq -r '[.meter_device, .timestamp, .value] | @csv'
    """
    hub = connected(context)
    asked = [hub.find(Meter, one) for one in meters] or hub.list(Meter)
    names = {str(one.id): one.name for one in asked}
    wanted = [key for one in series for key in _series_named(hub, one)]
    rows = _latest(hub, [*names], wanted)
    if as_json:
        json_lines(rows)
        return
    told = ([names[row["meter_device"]], *cells] for row, cells in _told_with(hub, rows))
    table(["METER", "TIME", "SERIES", "VALUE", "UNIT", "FLAGS"], told, "nothing was read of these meters")


def _series_named(hub: Hub, said: str) -> list[str]:
    """Return the series of that name, of whichever organizations, or the one of that id."""
    return [str(one.id) for one in hub.list(Series, name=said)] or [str(hub.find(Series, said).id)]


def _latest(hub: Hub, meters: list[str], series: list[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(meters), _METERS):
        asked = {"meter_devices": meters[start : start + _METERS], **({"series": series} if series else {})}
        yield from hub.create(_LATEST, asked)["results"]


@click.command("received")
@since_option
@click.option("--cursor-file", type=click.Path(dir_okay=False, path_type=Path), help="Go on where FILE says, keep it.")
@click.option("--meter", help="Only this meter's; its name or id.")
@click.option("--series", help="Only this series; its id, or with --meter its name.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; else all that there are now.")
@json_option
@click.pass_context
def received_command(
    context: click.Context,
    since: dt.datetime | None,
    cursor_file: Path | None,
    meter: str | None,
    series: str | None,
    limit: int | None,
    *,
    as_json: bool,
) -> None:
    r"""List readings in the order in which the hub received them, and nothing twice.

    With --cursor-file each call tells what has come since the call before: the file says how far that was. It is
    written when everything was printed, and is good for the same --meter and --series only.

    \b
      metergate-hub api received --since 1h
      metergate-hub api received --cursor-file billing.cursor --json >> readings.jsonl
    """
    hub = connected(context)
    found = hub.find(Meter, meter) if meter else None
    wanted = (_series(hub, series, found) if found else hub.find(Series, series)).id if series else None
    kept = cursor_file.read_text(encoding="ascii").strip() if cursor_file is not None and cursor_file.exists() else ""
    query = {"meter_device": found.id if found else None, "series": wanted}
    reader = _Received(hub, query | ({"cursor": kept} if kept else {"received_since": since}), limit)
    if as_json:
        json_lines(reader.rows())
    else:
        table(["METER", "TIME", "SERIES", "VALUE", "UNIT", "FLAGS"], _with_meters(hub, reader.rows()), _NOTHING)
    if cursor_file is not None:
        part = cursor_file.with_name(f"{cursor_file.name}.part")
        part.write_text(f"{reader.cursor}\n", encoding="ascii")
        part.replace(cursor_file)


def _with_meters(hub: Hub, rows: Iterator[dict[str, Any]]) -> Iterator[list[object]]:
    names: dict[str, str] = {}
    for row, cells in _told_with(hub, rows):
        if row["meter_device"] not in names:
            names[row["meter_device"]] = hub.get(Meter, row["meter_device"]).name
        yield [names[row["meter_device"]], *cells]


class _Received:
    """Reads on until nothing more is there, or enough; ``cursor`` is how far that was."""

    def __init__(self, hub: Hub, query: dict[str, Any], most: int | None) -> None:
        self._hub = hub
        self._query = query
        self._most = most
        self.cursor = ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the readings."""
        left, more = self._most, True
        while more and (left is None or left > 0):
            answer = self._hub.get(_RECEIVED, **self._query, limit=_PAGE if left is None else min(left, _PAGE))
            yield from answer["results"]
            left = None if left is None else left - len(answer["results"])
            self.cursor, more = answer["cursor"], answer["more"]
            self._query = {**self._query, "received_since": None, "cursor": self.cursor}


@click.command("export")
@click.option("--meter", help="Only this meter's; its name or id.")
@click.option("--series", help="Only this series; its id, or with --meter its name.")
@click.option("--flag", help="Only those with this flag, such as spike; any for all that have one.")
@since_option
@until_option
@click.option("--format", "style", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; else it is printed.")
@click.pass_context
def export_command(
    context: click.Context,
    meter: str | None,
    series: str | None,
    flag: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    style: str,
    output: Path | None,
) -> None:
    r"""Take readings away, however many there are, as CSV or JSON Lines.

    A file is there when it is whole, and not before.

    \b
      metergate-hub api export --since 2026-03-01 --until 2026-04-01 --output march.csv
      metergate-hub api export --meter "Heating plant" --series 2:300 --format jsonl | jq -r .value
    """
    hub = connected(context)
    found = hub.find(Meter, meter) if meter else None
    wanted = (_series(hub, series, found) if found else hub.find(Series, series)).id if series else None
    query = {
        "meter_device": found.id if found else None,
        "series": wanted,
        "flag": flag,
        "start_time": since,
        "end_time": until,
        "format": style,
    }
    if output is None:
        hub.export(_EXPORT, sys.stdout.buffer, "*/*", **query)
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("wb") as file:
            count = hub.export(_EXPORT, file, "*/*", **query)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    note(f"{output}: {count} bytes")
