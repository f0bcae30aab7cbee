"""``metergate-hub api``: the hub's REST interface for people and scripts; each command is in a module of its own.

Exit status: 0 done; 1 the hub refuses, or what was asked for failed; 2 wrong usage, or it is not said which hub and
who asks; 3 the hub does not answer; 4 the token does not open this. Answers are on standard output, all
else is on standard error.
"""

import datetime as dt
import importlib
import os
import re
from pathlib import Path
from typing import Any

import click

from client.accounts import CA_VARIABLE, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE, is_open_wire, open_hub
from client.errors import HubError, NotAllowed, NotReachable, SettingsError
from client.hub import Hub
from client.shown import note

REFUSED, USAGE, NOT_REACHABLE, NOT_ALLOWED = 1, 2, 3, 4

_MODULES = {
    "audit": "cli_audit",
    "backfill": "cli_gaps",
    "batch": "cli_batches",
    "command": "cli_commands",
    "delete": "cli_raw",
    "export": "cli_readings",
    "gaps": "cli_gaps",
    "gateways": "cli_estate",
    "get": "cli_raw",
    "invoke": "cli_commands",
    "latest": "cli_readings",
    "login": "cli_accounts",
    "logout": "cli_accounts",
    "meters": "cli_estate",
    "patch": "cli_raw",
    "post": "cli_raw",
    "put": "cli_raw",
    "read": "cli_commands",
    "readings": "cli_readings",
    "received": "cli_readings",
    "sheets": "cli_sheets",
    "tokens": "cli_accounts",
    "why": "cli_gaps",
}
"""Where each command is: only the one that is called is loaded."""


class _Commands(click.Group):
    """Loads commands when they are called, and says what goes wrong in one sentence and a number."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own
        """Return all names."""
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's own
        """Load a command."""
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"client.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Do what is asked, or say why not."""
        try:
            return super().invoke(ctx)
        except HubError as error:
            note(f"metergate-hub api: {error}")
            ctx.exit(_status(error))


def _status(error: HubError) -> int:
    kinds = ((SettingsError, USAGE), (NotReachable, NOT_REACHABLE), (NotAllowed, NOT_ALLOWED))
    return next((status for kind, status in kinds if isinstance(error, kind)), REFUSED)


@click.group("api", cls=_Commands)
@click.option("--url", help=f"The hub's address, such as https://hub.example.com [{URL_VARIABLE}].")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File with a token [{TOKEN_FILE_VARIABLE}]; or the token in {TOKEN_VARIABLE}; or see login.",
)
@click.option(
    "--ca",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Certificates to believe in place of the system's [{CA_VARIABLE}].",
)
@click.pass_context
def api(context: click.Context, url: str | None, token_file: Path | None, ca: Path | None) -> None:
    r"""Ask a hub, from any machine: meters, readings, gaps, commands.

    \b
      export METERGATE_HUB_URL=https://hub.example.com METERGATE_HUB_TOKEN_FILE=~/.metergate-token
      metergate-hub api gateways
      metergate-hub api why "Heating plant"
      metergate-hub api read "Heating plant" 2:300 4:300
      metergate-hub api meters list --gateway substation-7 --json | jq -r .name
      metergate-hub api patch gateways/ID backfill_paused:=true

    Where a thing is asked for, its name will do as well as its id. The exit status is 0 when it is done, 1 when the
    hub refuses or the work failed, 2 when something is missing here, 3 when the hub does not answer, 4 when the token
    does not open this.
    """
    context.obj = {"url": url, "token_file": token_file, "ca": ca}


def connected(context: click.Context) -> Hub:
    """Return the hub that is meant; it is closed when the command is done.

    Raises:
        SettingsError: saying what is missing.
    """
    hub = open_hub(os.environ, **context.obj)
    if is_open_wire(hub.url):
        note(f"metergate-hub api: {hub.url} has no TLS: whoever is on the way can read the token")
    context.call_on_close(hub.close)
    return hub


_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class When(click.ParamType[dt.datetime]):
    """An instant as people say it: RFC 3339, a date (its beginning in UTC), ``now``, or so long ago, such as ``7d``."""

    name = "time"

    def convert(
        self, value: str | dt.datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> dt.datetime:
        """Read an instant."""
        if isinstance(value, dt.datetime):
            return value
        ago = _AGO.fullmatch(value)
        if ago is not None or value == "now":
            span = dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago is not None else dt.timedelta(0)
            return dt.datetime.now(dt.UTC) - span
        try:
            at = dt.datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time: give 2026-03-02T06:00:00Z, a date, now, or so long ago: 7d, 12h", param, ctx
            )
        if at.tzinfo is None and len(value) > len("2026-03-02"):
            self.fail(f"{value!r} has no offset from UTC, such as Z or +01:00", param, ctx)
        return at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)


since_option = click.option("--since", type=When(), help="From when on: a time, a date, or so long ago: 7d, 12h.")
until_option = click.option("--until", type=When(), help="Until when; as --since.")
