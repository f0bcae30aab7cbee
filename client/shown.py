"""What commands print: tables and sentences for people, JSON for programs. Nothing else of this room prints.

A list for programs is JSON lines: one object a line, as the hub gave it. What meters and others said is shown without
its control characters, so that nobody's text moves the terminal.
"""

import datetime as dt
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

json_option = click.option("--json", "as_json", is_flag=True, help="JSON for programs; of a list one object a line.")


def plain(value: object) -> str:
    """Return a value as it stands in a table: nothing is a dash, a time is UTC to the second."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dt.datetime):
        return instant(value)
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value) or "-"
    text = msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
    return "".join(character if character.isprintable() else " " for character in text)


def instant(value: dt.datetime | str | None) -> str:
    """Return an instant in UTC as people read it, such as ``2026-03-02 06:00:00Z``."""
    if value is None:
        return "-"
    at = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], none: str) -> None:
    """Print rows under their heads, or the sentence ``none`` when there are none."""
    texts = [[plain(cell) for cell in row] for row in rows]
    if not texts:
        click.echo(none)
        return
    widths = [max(len(line[column]) for line in [list(heads), *texts]) for column in range(len(heads))]
    for line in [list(heads), *texts]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def facts(pairs: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name.ljust(width)}  {plain(value)}")


def json_lines(found: Iterable[Any]) -> None:
    """Print each object in a line of its own, as soon as it is there."""
    for one in found:
        click.echo(msgspec.json.encode(one))


def note(text: str) -> None:
    """Say something to whoever watches; it is no part of the answer."""
    click.echo(text, err=True)


def watched() -> bool:
    """Whether somebody sees what is noted while they wait."""
    return sys.stderr.isatty()
