"""``metergate-hub backup`` and ``restore``: their options and words; the work is done by ``hub.backup``."""

import os
from pathlib import Path

import click
import msgspec

from hub.backup import Verdict, backup, restore
from hub.clocks import system_clock
from hub.settings import DEFAULT_DATA

_data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The hub's data directory.  [default: metergate-data]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("backup")
@click.argument("target", type=click.Path(path_type=Path))
@_data_option
@click.option("--replace", is_flag=True, help="Replace TARGET if it exists, once the new backup is sound.")
@_json_option
def backup_command(target: Path, data: Path | None, *, replace: bool, as_json: bool) -> None:
    """Copy the SQLite database to TARGET while the hub runs.

    TARGET is a file, or a directory that gets a file named by the time (UTC). The copy is the database as it stood at
    one instant; it is read through, on the disk and then named, or not there at all.

    hub.key is not in it: gateways believe a hub by that key, so keep a copy of it too, as the secret that it is.
    """
    verdict = backup(_directory(data) / "hub.db", target, system_clock().now(), replace=replace)
    _say(verdict, f"backed up to {verdict.file}", as_json=as_json)


@click.command("restore")
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@_data_option
@click.option("--verify", is_flag=True, help="Read every row, index and reference of SOURCE first.")
@_json_option
def restore_command(source: Path, data: Path | None, *, verify: bool, as_json: bool) -> None:
    """Put the backup SOURCE back as the SQLite database; refused while a hub runs on it.

    The replaced file is kept beside it (hub.db.replaced-TIME). No further command is needed: the hub learns from its
    gateways what it lacks, and they send it again, as far back as they keep it (7 days).
    """
    verdict = restore(source, _directory(data), system_clock().now(), verify=verify)
    _say(verdict, f"restored {verdict.file} from {source}", as_json=as_json)
    if verdict.replaced and not as_json:
        click.echo(f"the replaced file is kept as {verdict.replaced}")


def _directory(data: Path | None) -> Path:
    database = os.environ.get("METERGATE_DATABASE", "")
    if data is None and database.startswith("postgres"):
        raise click.UsageError(
            "METERGATE_DATABASE names a PostgreSQL: back it up with its own tools (docs/operations.md); "
            "for a hub on SQLite give --data DIR"
        )
    return data or DEFAULT_DATA


def _say(verdict: Verdict, done: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(verdict))
        return
    newest = f", the newest collected {verdict.newest}" if verdict.newest else ""
    click.echo(f"{done}: {verdict.bytes} bytes, {verdict.gateways} gateways, {verdict.readings} readings{newest}")
