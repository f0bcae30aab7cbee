"""``metergate-hub doctor``: its options and words; the work is done by ``hub.doctor``."""

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from hub.cli_broker import broker_option
from hub.cli_places import data_option, database_of, database_option, json_option, key_file_from_environment
from hub.clocks import system_clock
from hub.settings import DEFAULT_DATA


@click.command("doctor")
@data_option
@database_option
@broker_option
@json_option
def doctor_command(data: Path | None, database: str | None, broker: str | None, *, as_json: bool) -> None:
    """Look at settings, database, broker, keys and what has piled up, and say of each what to do.

    Run it on a hub's machine with that hub's settings, beside running processes or without. It changes nothing; the
    broker is tried with messages below amr/v1/metergate-doctor/, to which nobody else subscribes.

    Exit status: 0 nothing to do, 1 something fails, 3 nothing fails but something is to be done, 2 wrong usage.
    """
    from hub.connection import read_url  # noqa: PLC0415 - other commands need no broker
    from hub.doctor import examine  # noqa: PLC0415 - as above

    url = database_of(data, database)
    place = data or (DEFAULT_DATA if url.startswith("sqlite") else None)
    key_file = key_file_from_environment() or (place / "hub.key" if place else None)
    report = asyncio.run(examine(url, read_url(broker) if broker else None, place, key_file, system_clock()))
    click.echo(msgspec.json.encode(report) if as_json else report.text())
    sys.exit(report.exit_status)
