"""``metergate-agent outbox``: what waits on this gateway, how long it will take, and what fails."""

import datetime as dt
import os
import pathlib
import sys

import click
import msgspec

from agent.backlog import Backlog, BacklogError, ChannelBacklog, read_backlog
from agent.clocks import system_clock
from agent.settings import DEFAULT_PATH, SettingsError, read_settings
from protocol.wire import ContractError

FAILED, USAGE = 1, 2

_HELP = """Show what waits on this gateway to reach the hub.

Rows without a receipt, the oldest of them, how long they will take at the present rate, the receipted rows that are
kept for a hub that was restored, and the last errors.

Reads the agent's store, and changes nothing: it works beside a running agent and while it is stopped.

Exit status: 0 done, 1 the store cannot be read, 2 wrong usage.
"""


@click.command("outbox", help=_HELP, context_settings={"max_content_width": 120})
@click.option(
    "--config",
    type=click.Path(path_type=pathlib.Path),
    default=None,
    help="The settings (TOML); else METERGATE_AGENT_CONFIG, else /etc/metergate/agent.toml",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(config: pathlib.Path | None, *, as_json: bool) -> None:
    """Run it."""
    path = config or pathlib.Path(os.environ.get("METERGATE_AGENT_CONFIG") or DEFAULT_PATH)
    try:
        settings = read_settings(path)
        now = system_clock().now()
    except (SettingsError, ContractError) as error:
        click.echo(f"metergate-agent: {error}", err=True)
        sys.exit(USAGE)
    try:
        found = read_backlog(settings.store, now)
    except BacklogError as error:
        click.echo(f"metergate-agent: {error}", err=True)
        sys.exit(FAILED)
    click.echo(msgspec.json.encode(found) if as_json else text_of(found))


def text_of(found: Backlog) -> str:
    """Lay a backlog out for people."""
    state = {True: "the agent runs", False: "no agent runs", None: "whether the agent runs is not known"}[found.running]
    lines = [f"gateway {found.gateway}: {state}", f"store {found.store}, {found.path}, {found.bytes} bytes"]
    lines += [f"status: {found.status}"] if found.status else []
    for name, channel in found.channels.items():
        lines += ["", f"{name}: {_waiting(channel)}"]
        lines += [f"  {line}" for line in _details(channel)]
    if found.errors:
        lines += ["", "last errors:"]
    for error in found.errors:
        cause = f": {error.cause}" if error.cause else ""
        lines.append(f"  {error.kind}, {_times(error.count)}, last {_shown(error.last)}{cause}")
    return "\n".join(lines)


def _waiting(channel: ChannelBacklog) -> str:
    if not channel.waiting or channel.oldest is None:
        return "nothing waits"
    age = dt.timedelta(seconds=round(channel.oldest_seconds or 0))
    return f"{_rows(channel.waiting)} without a receipt, the oldest stored {_shown(channel.oldest)} ({age} ago)"


def _details(channel: ChannelBacklog) -> list[str]:
    lines = []
    if channel.waiting:
        if channel.drain_seconds is not None:
            drain = dt.timedelta(seconds=round(channel.drain_seconds))
            lines.append(f"drains in about {drain}: {channel.rows_per_second} rows a second go")
        elif channel.rows_per_second is None:
            lines.append("when it will be drained is not known: nothing was receipted in the last minute")
        else:
            lines.append(f"does not drain: {channel.rows_per_second} rows a second go")
        lines[-1] += f", {channel.arriving_per_second} come"
    if channel.aside:
        lines.append(f"{_rows(channel.aside)} set aside: they fit into no message that the broker takes")
    if channel.last_receipt is not None:
        lines.append(f"last receipt {_shown(channel.last_receipt)}, everything up to row {channel.through} has one")
    if channel.tail and channel.tail_since is not None:
        lines.append(
            f"{_rows(channel.tail)} with a receipt kept for a restored hub, since {_shown(channel.tail_since)}"
        )
    return lines


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _shown(at: dt.datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%SZ")
