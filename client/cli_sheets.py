"""``api sheets``: meters, their assignments and their keys as CSV files, taken away and brought back.

Exit status of an import: 0 every row is in order, 1 rows are refused (with ``--skip-refused`` the others are in).
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from client.cli import connected
from client.errors import Refused
from client.hub import Hub
from client.shown import json_option, note, plain, watched

SHEETS = ("meters", "assignments", "keys")
LONGEST_SECONDS = 900.0
"""An import of the largest file on a busy machine."""

_UNPROCESSABLE = 422
_REFUSED = 1
_SHOWN = 50
"""Rows that are told beside those that are refused."""

_sheet_argument = click.argument("sheet", type=click.Choice(SHEETS))
_organization_option = click.option(
    "--organization", help="Only this one, by its name or id; the file then has no column for it."
)


@click.group("sheets")
def sheets_command() -> None:
    r"""Meters, assignments and keys as CSV, out and in again.

    \b
      metergate-hub api sheets export meters --output meters.csv
      metergate-hub api sheets import meters meters.csv --dry-run
      metergate-hub api sheets import meters meters.csv
    """


@sheets_command.command("export")
@_sheet_argument
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; else it is printed.")
@_organization_option
@click.option("--excel", is_flag=True, help="As European spreadsheets open it: semicolons, and a byte order mark.")
@click.pass_context
def export_command(
    context: click.Context, sheet: str, output: Path | None, organization: str | None, *, excel: bool
) -> None:
    """Export a SHEET. A file that is imported again as it is changes nothing."""
    hub = connected(context)
    excels = {"separator": "semicolon", "bom": "true"} if excel else {}
    query: dict[str, object] = {"organization": organization, **excels}
    if output is None:
        hub.export(f"sheets/{sheet}", sys.stdout.buffer, "text/csv", **query)
        return
    # Under another name until it is whole.
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("wb") as file:
            count = hub.export(f"sheets/{sheet}", file, "text/csv", **query)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    note(f"{output}: {count} bytes")


@sheets_command.command("import")
@_sheet_argument
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only say what would happen to each row.")
@click.option("--skip-refused", is_flag=True, help="Import the other rows where some are refused; else none is.")
@_organization_option
@json_option
@click.pass_context
def import_command(
    context: click.Context,
    sheet: str,
    file: BinaryIO,
    organization: str | None,
    *,
    dry_run: bool,
    skip_refused: bool,
    as_json: bool,
) -> None:
    """Import a SHEET from a FILE (- is standard input): all of it, or nothing when a row is refused."""
    data = file.read()
    hub = connected(context)
    query = {
        "organization": organization,
        "dry_run": "true" if dry_run else None,
        "on_error": "skip" if skip_refused else None,
    }
    try:
        with _waiting(f"{file.name}: {len(data)} bytes are with the hub"):
            answer = _send(hub, sheet, query, data)
    except Refused as error:
        if error.status != _UNPROCESSABLE:
            raise
        for one in error.errors:
            line, _, column = one.field.partition(".")
            note(f"line {line}, {column}: {one.text}" if column else f"{one.field}: {one.text}")
        note(f"metergate-hub api: {plain(error.detail)}")
        context.exit(_REFUSED)
    report = msgspec.json.decode(answer)
    if as_json:
        click.echo(answer)
    else:
        _tell(report)
    if report["refused"]:
        context.exit(_REFUSED)


def _send(hub: Hub, sheet: str, query: dict[str, str | None], data: bytes) -> bytes:
    answer = hub.send("POST", f"sheets/{sheet}", query, data, content_type="text/csv", seconds=LONGEST_SECONDS)
    return answer.body


def _tell(report: dict[str, Any]) -> None:
    """Say of each row that is not as it was what becomes of it, the refused ones all, and then the numbers."""
    refused = [row for row in report["results"] if row["outcome"] == "refused"]
    others = [row for row in report["results"] if row["outcome"] not in {"refused", "unchanged"}]
    for row in [*others[:_SHOWN], *refused]:
        cells = [f"{one['column']} {plain(one['before'])} -> {plain(one['after'])}" for one in row["changes"]]
        cells += [": ".join(filter(None, (one["column"], one["text"]))) for one in row["problems"]]
        click.echo(plain(f"line {row['line']} {row['row']} {row['outcome']}{': ' if cells else ''}{'; '.join(cells)}"))
    if len(others) > _SHOWN:
        click.echo(f"and {len(others) - _SHOWN} more; --json tells all")
    words = ("created", "changed", "removed", "unchanged", "refused")
    numbers = ", ".join(f"{report[word]} {word}" for word in words if report[word])
    click.echo(f"{report['rows']} rows: {numbers or 'none'}")
    if report["dry_run"]:
        click.echo("nothing was imported: this was a dry run")


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Show on a terminal for how long the work has gone on."""
    if not watched():
        yield
        return
    done, begun = threading.Event(), time.monotonic()

    def show() -> None:
        while not done.wait(0.5):
            click.echo(f"\r{what}, {time.monotonic() - begun:.0f} s", err=True, nl=False)

    thread = threading.Thread(target=show, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        click.echo("\r\x1b[K", err=True, nl=False)
