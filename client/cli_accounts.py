"""``api login``, ``logout`` and ``tokens``: who asks, and who may."""

import datetime as dt
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from client.accounts import (
    CA_VARIABLE,
    URL_VARIABLE,
    forget_session,
    is_open_wire,
    keep_session,
    read_session,
    session_file,
    sign_in,
)
from client.cli import connected
from client.errors import SettingsError
from client.hub import Hub
from client.records import Organization, Token
from client.shown import instant, json_lines, json_option, note, table

PASSWORD_VARIABLE = "METERGATE_USER_PASSWORD"  # noqa: S105 - the name of a variable


@click.command("login")
@click.argument("username", required=False)
@click.option("--organization", help="Whose data to look at, where the user has several; a name or an id.")
@click.pass_context
def login_command(context: click.Context, username: str | None, organization: str | None) -> None:
    r"""Sign in as a user, for a session that is kept for the next commands.

    The password is asked for, or comes from METERGATE_USER_PASSWORD, or from the first line of standard input. It is
    kept nowhere. What is kept, in a file that nobody else can read, ends by itself an hour after the last command, and
    at the latest a week after this.

    \b
      metergate-hub api login anna@example.com
      metergate-hub api --url https://hub.example.com login anna@example.com --organization Stadtwerke
    """
    file = session_file(os.environ)
    kept = read_session(file)
    url = context.obj["url"] or os.environ.get(URL_VARIABLE) or (kept.url if kept else None)
    username = username or (kept.username if kept else None)
    if url is None or username is None:
        raise SettingsError(f"give USERNAME, and the hub's address with --url or {URL_VARIABLE}")
    if is_open_wire(url):
        note(f"metergate-hub api: {url} has no TLS: whoever is on the way can read the password")
    said = context.obj["ca"] or os.environ.get(CA_VARIABLE)
    session = sign_in(url, username, _password(), organization, Path(said) if said else None)
    keep_session(session, file)
    click.echo(f"{session.username} is signed in at {session.url} until {instant(session.expires_at)}")


def _password() -> str:
    said = os.environ.get(PASSWORD_VARIABLE)
    if said:
        return said
    if sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, err=True)
        return typed
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise SettingsError(
            f"nobody is there to type a password: set {PASSWORD_VARIABLE}, or give it as standard input"
        )
    return line


@click.command("logout")
def logout_command() -> None:
    """Forget the session that login kept."""
    there = forget_session(session_file(os.environ))
    click.echo("the session is forgotten" if there else "there was no session")


@click.group("tokens")
def tokens_command() -> None:
    """Tokens of staff and of machines; for staff."""


@tokens_command.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@json_option
@click.pass_context
def list_tokens_command(context: click.Context, *, everything: bool, as_json: bool) -> None:
    """List tokens: whose data they open, for what, until when, and when they were last used."""
    hub = connected(context)
    now = dt.datetime.now(dt.UTC)
    found = (one for one in hub.list(Token.path) if everything or _state(one, now) == "valid")
    if as_json:
        json_lines(found)
        return
    owners = {one["id"]: one["name"] for one in hub.list(Organization.path)}
    table(
        ["NAME", "STATE", "SCOPES", "ORGANIZATION", "UNTIL", "LAST USED", "ID"],
        (
            [
                one["name"],
                _state(one, now),
                one["scopes"],
                owners.get(one["organization"], "all"),
                instant(one["expires"]) if one["expires"] else "for ever",
                instant(one["last_used"]) if one["last_used"] else "never",
                one["id"],
            ]
            for one in found
        ),
        "there are no tokens",
    )


def _state(one: Mapping[str, Any], now: dt.datetime) -> str:
    if one["revoked"] is not None:
        return "revoked"
    ended = one["expires"] is not None and dt.datetime.fromisoformat(one["expires"]) <= now
    return "expired" if ended else "valid"


@tokens_command.command("create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="What it opens; may be given more than once.")
@click.option("--organization", help="Whose data it opens; a name or an id.")
@click.option("--all-organizations", "everywhere", is_flag=True, help="It opens the scopes in all organizations.")
@click.option("--days", type=click.FloatRange(0, 36_500, min_open=True), help="It ends after so long.")
@json_option
@click.pass_context
def create_token_command(
    context: click.Context,
    name: str,
    scopes: tuple[str, ...],
    organization: str | None,
    days: float | None,
    *,
    everywhere: bool,
    as_json: bool,
) -> None:
    r"""Make a token called NAME and print its key, this once.

    Scopes: staff (everything), read, read-readings, push-readings, correct-readings, command, configure.

    \b
      metergate-hub api tokens create billing --organization Stadtwerke --scope read-readings --days 365 > billing.token
    """
    if (organization is None) == (not everywhere) and "staff" not in scopes:
        raise click.UsageError("whose data? give --organization NAME, or --all-organizations")
    hub = connected(context)
    wish = {
        "name": name,
        "scopes": scopes,
        "organization": hub.find(Organization, organization).id if organization else None,
        "expires": dt.datetime.now(dt.UTC) + dt.timedelta(days=days) if days is not None else None,
    }
    made = hub.create("tokens", wish)
    if as_json:
        json_lines([made])
    else:
        click.echo(made["key"])


@tokens_command.command("revoke")
@click.argument("token")
@json_option
@click.pass_context
def revoke_token_command(context: click.Context, token: str, *, as_json: bool) -> None:
    """End a TOKEN (its name or id), at once and for ever."""
    hub = connected(context)
    answer = hub.create(f"{Token.path}/{_valid(hub, token)}/revoke")
    if as_json:
        json_lines([answer])
    else:
        click.echo(f"{answer['name']} is revoked")


def _valid(hub: Hub, said: str) -> str:
    """Return the id of the token that is meant: of several of a name the one that still opens something."""
    valid = [one for one in hub.list(Token, name=said) if one.revoked is None]
    return str(valid[0].id if len(valid) == 1 else hub.find(Token, said).id)
