"""``api readings`` and ``api export``: what was read, to look at and to take away."""

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
    names: dict[str, str] = {}
    for row in rows:
        if row["series"] not in names:
            names[row["series"]] = hub.get(Series, row["series"]).name
        yield [instant(row["timestamp"]), names[row["series"]], row["value"], row["unit"], row["flags"]]


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
