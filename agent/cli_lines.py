"""``metergate-agent lines``: how busy this gateway's lines are, and what goes wrong on them."""

import datetime as dt
import os
import pathlib
import sys

import click
import msgspec

from agent import line_figures
from agent.backlog import BacklogError, read_kept
from agent.settings import DEFAULT_PATH, SettingsError, read_settings

FAILED, USAGE = 1, 2

_HELP = """Show what the lines of this gateway do, since the agent was started.

Sessions, seconds for which a line was in use, bytes in both directions, telegrams that were said or asked for again,
errors by kind, answers that did not come by meter, and the meters that are left alone because they are silent.

Reads what the agent keeps in its store every few seconds, and changes nothing. The metrics page has the same figures,
and so has the gateway in the hub.

Exit status: 0 done, 1 the store cannot be read, 2 wrong usage.
"""


class Kept(msgspec.Struct):
    """One line's figures as the agent keeps them, see ``protocol.reports.LineFigures``."""

    line: str
    name: str
    since: dt.datetime
    sessions: int
    busy_seconds: float
    bytes: int
    repeats: int
    errors: dict[str, int]
    timeouts: dict[str, int]
    silent: list[str]


@click.command("lines", help=_HELP, context_settings={"max_content_width": 120})
@click.option(
    "--config",
    type=click.Path(path_type=pathlib.Path),
    default=None,
    help="The settings (TOML); else METERGATE_AGENT_CONFIG, else /etc/metergate/agent.toml",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def command(config: pathlib.Path | None, *, as_json: bool) -> None:
    """Run it."""
    path = config or pathlib.Path(os.environ.get("METERGATE_AGENT_CONFIG") or DEFAULT_PATH)
    try:
        settings = read_settings(path)
    except SettingsError as error:
        click.echo(f"metergate-agent: {error}", err=True)
        sys.exit(USAGE)
    try:
        text = read_kept(settings.store, line_figures.KEY) or "[]"
    except BacklogError as error:
        click.echo(f"metergate-agent: {error}", err=True)
        sys.exit(FAILED)
    found = msgspec.json.decode(text, type=list[Kept])
    click.echo(msgspec.json.encode(found) if as_json else text_of(found))


def text_of(found: list[Kept]) -> str:
    """Lay the figures out for people."""
    if not found:
        return "no line has been used since the agent was started"
    return "\n\n".join("\n".join(_lines_of(one)) for one in found)


def _lines_of(one: Kept) -> list[str]:
    since = one.since.strftime("%Y-%m-%d %H:%M:%SZ")
    lines = [
        f"line {one.name}, since {since}:",
        f"  {one.sessions} sessions, {one.busy_seconds:.0f} s in use, {one.bytes} bytes, {one.repeats} repeats",
    ]
    if one.errors:
        lines.append("  errors: " + ", ".join(f"{kind} {count}" for kind, count in sorted(one.errors.items())))
    if one.timeouts:
        missing = sorted(one.timeouts.items(), key=lambda item: (-item[1], item[0]))
        lines.append("  no answer: " + ", ".join(f"{meter} {count} times" for meter, count in missing))
    if one.silent:
        lines.append("  left alone because silent: " + ", ".join(one.silent))
    return lines
