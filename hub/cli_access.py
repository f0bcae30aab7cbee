"""``metergate-hub token``, ``user``, ``membership``: options and words; ``cli_tokens`` and ``accounts`` do the work.

A password comes from a prompt, a file or the environment, and never from the command line, which everybody can read.
"""

import datetime as dt
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import click
from msgspec import json

from hub.cli_places import data_option, database_of, database_option, json_option, key_file_from_environment
from hub.clocks import system_clock
from hub.settings import DEFAULT_DATA

PASSWORD_VARIABLE = "METERGATE_USER_PASSWORD"  # noqa: S105 - the name of a variable
PASSWORD_FILE_VARIABLE = "METERGATE_USER_PASSWORD_FILE"  # noqa: S105 - the name of a variable

_password_option = click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=PASSWORD_FILE_VARIABLE,
    default=None,
    help=f"File with the password [{PASSWORD_FILE_VARIABLE}]; else {PASSWORD_VARIABLE}, else it is asked for.",
)


class _Line(Protocol):
    def text(self) -> str: ...


def _say(lines: Sequence[_Line], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.encode(lines))
    else:
        for line in lines:
            click.echo(line.text())


def _password(file: Path | None) -> str:
    """Return the password that is given, wherever that is.

    Raises:
        click.UsageError: when it is given nowhere, and nobody is there to be asked.
    """
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--password-file: {file} cannot be read: {error}") from None
    said = os.environ.get(PASSWORD_VARIABLE)
    if said:
        return said
    if not sys.stdin.isatty():
        raise click.UsageError(f"nobody is there to type a password: give --password-file, or set {PASSWORD_VARIABLE}")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return typed


@click.group("token")
def token_commands() -> None:
    """Tokens for the REST API: of staff, who may everything, and of machines, who may what their scopes say."""


@token_commands.command("create")
@click.argument("name")
@click.option("--organization", default=None, help="Name or id of the organization whose data the token opens.")
@click.option("--scope", "scopes", multiple=True, help="What it opens; may be given more than once.  [default: staff]")
@click.option("--all-organizations", "everywhere", is_flag=True, help="It opens the scopes in all organizations.")
@click.option("--days", type=click.FloatRange(0, 36_500, min_open=True), default=None, help="It expires after so long.")
@json_option
@data_option
@database_option
def create_token_command(
    name: str,
    organization: str | None,
    scopes: tuple[str, ...],
    days: float | None,
    data: Path | None,
    database: str | None,
    *,
    everywhere: bool,
    as_json: bool,
) -> None:
    """Make a token called NAME and print its key, once; the last line is the key alone.

    Scopes: staff (everything), read, read-readings, push-readings, correct-readings, command, configure.
    """
    from hub import cli_tokens  # noqa: PLC0415 - only what does the work loads the database's tables

    if not name.strip() or len(name) > 150:  # noqa: PLR2004 - the column's width
        raise click.UsageError("NAME must have 1 to 150 characters")
    problem = cli_tokens.scope_problem(scopes, organization, everywhere=everywhere)
    if problem:
        raise click.UsageError(problem)
    made = cli_tokens.make_token(
        database_of(data, database),
        name,
        system_clock(),
        organization=organization,
        scopes=scopes or ("staff",),
        lasts=dt.timedelta(days=days) if days is not None else None,
    )
    click.echo(json.encode(made) if as_json else made.key)


@token_commands.command("list")
@json_option
@data_option
@database_option
def list_tokens_command(data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Print each token's name, when it was made, whether it is valid, its scopes, whose data, until when, last use.

    There are no keys, which nobody has. The last use is right to the minute.
    """
    from hub import cli_tokens  # noqa: PLC0415 - as above

    _say(cli_tokens.tokens(database_of(data, database), system_clock()), as_json=as_json)


@token_commands.command("revoke")
@click.argument("name")
@json_option
@data_option
@database_option
def revoke_token_command(name: str, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Make all tokens called NAME invalid, at once and for ever."""
    from hub import cli_tokens  # noqa: PLC0415 - as above

    count = cli_tokens.end_tokens(database_of(data, database), name, system_clock())
    click.echo(json.encode({"revoked": count}) if as_json else f"{count} revoked")


@click.group("user")
def user_commands() -> None:
    """Users, who sign in with a password and look at the data of their organizations."""


@user_commands.command("create")
@click.argument("username")
@click.option("--organization", "organizations", multiple=True, help="Name or id; may be given more than once.")
@click.option("--new-organization", "founded", default=None, help="Make an organization of that name for the user.")
@_password_option
@json_option
@data_option
@database_option
def create_user_command(
    username: str,
    organizations: tuple[str, ...],
    founded: str | None,
    password_file: Path | None,
    data: Path | None,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """Make a user, also as the first thing on a fresh hub."""
    from hub import accounts  # noqa: PLC0415 - as above

    if founded is not None and not 0 < len(founded) <= 64:  # noqa: PLR2004 - the column's width
        raise click.UsageError("--new-organization must have 1 to 64 characters")
    place = database_of(data, database)
    password = _password(password_file)
    made = accounts.add_user(place, username, password, system_clock(), organizations=organizations, founded=founded)
    click.echo(json.encode(made) if as_json else made.text())


@user_commands.command("list")
@json_option
@data_option
@database_option
def list_users_command(data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Print each user's name, id, state and organizations."""
    from hub import accounts  # noqa: PLC0415 - as above

    _say(accounts.users(database_of(data, database)), as_json=as_json)


@user_commands.command("password")
@click.argument("username")
@_password_option
@json_option
@data_option
@database_option
def password_command(
    username: str, password_file: Path | None, data: Path | None, database: str | None, *, as_json: bool
) -> None:
    """Give a user another password; all its sessions end at once."""
    from hub import accounts  # noqa: PLC0415 - as above

    place = database_of(data, database)
    accounts.change_user(place, username, system_clock(), password=_password(password_file))
    _done({"username": username}, f"{username} has another password, and no session any more", as_json=as_json)


@user_commands.command("disable")
@click.argument("username")
@json_option
@data_option
@database_option
def disable_command(username: str, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Keep a user from signing in; all its sessions end at once."""
    from hub import accounts  # noqa: PLC0415 - as above

    accounts.change_user(database_of(data, database), username, system_clock(), is_active=False)
    _done({"username": username, "is_active": False}, f"{username} is disabled", as_json=as_json)


@user_commands.command("enable")
@click.argument("username")
@json_option
@data_option
@database_option
def enable_command(username: str, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Let a user sign in again."""
    from hub import accounts  # noqa: PLC0415 - as above

    accounts.change_user(database_of(data, database), username, system_clock(), is_active=True)
    _done({"username": username, "is_active": True}, f"{username} may sign in", as_json=as_json)


@user_commands.command("delete")
@click.argument("username")
@json_option
@data_option
@database_option
def delete_command(username: str, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Delete a user and its memberships; all its sessions end at once."""
    from hub import accounts  # noqa: PLC0415 - as above

    accounts.remove_user(database_of(data, database), username)
    _done({"username": username}, f"{username} is deleted", as_json=as_json)


@user_commands.command("rotate-key")
@click.option("--end-sessions", is_flag=True, help="Believe no session that is signed with a key before it.")
@json_option
@data_option
def rotate_key_command(data: Path | None, *, end_sessions: bool, as_json: bool) -> None:
    """Sign users' sessions with a new key; running hubs notice. Sessions go on unless that is said.

    The keys are in hub.key.sessions beside hub.key; copy that file to every host with REST. hub.key stays.
    """
    from hub.keys import open_key  # noqa: PLC0415 - as above
    from hub.logs import set_up_logs  # noqa: PLC0415 - as above
    from hub.session_keys import SessionKeys, session_file  # noqa: PLC0415 - as above

    set_up_logs()
    hub_key = key_file_from_environment() or (data or DEFAULT_DATA) / "hub.key"
    keys = SessionKeys(open_key(hub_key), session_file(hub_key))
    name = keys.rotate(keep=not end_sessions)
    _done({"key": name, "file": str(keys.file)}, f"sessions are signed with {name} in {keys.file}", as_json=as_json)


@click.group("membership")
def membership_commands() -> None:
    """Which users look at which organizations' data."""


@membership_commands.command("add")
@click.argument("username")
@click.argument("organization")
@json_option
@data_option
@database_option
def add_membership_command(
    username: str, organization: str, data: Path | None, database: str | None, *, as_json: bool
) -> None:
    """Make a user a member of ORGANIZATION, a name or an id."""
    from hub import accounts  # noqa: PLC0415 - as above

    accounts.change_membership(database_of(data, database), username, organization, system_clock(), member=True)
    said = {"username": username, "organization": organization}
    _done(said, f"{username} is a member of {organization}", as_json=as_json)


@membership_commands.command("remove")
@click.argument("username")
@click.argument("organization")
@json_option
@data_option
@database_option
def remove_membership_command(
    username: str, organization: str, data: Path | None, database: str | None, *, as_json: bool
) -> None:
    """End a membership, and with it at once the user's sessions in ORGANIZATION."""
    from hub import accounts  # noqa: PLC0415 - as above

    accounts.change_membership(database_of(data, database), username, organization, system_clock(), member=False)
    said = {"username": username, "organization": organization}
    _done(said, f"{username} is no member of {organization} any more", as_json=as_json)


@membership_commands.command("list")
@json_option
@data_option
@database_option
def list_memberships_command(data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Print each membership: user, organization, its id, since when."""
    from hub import accounts  # noqa: PLC0415 - as above

    _say(accounts.memberships(database_of(data, database)), as_json=as_json)


def _done(said: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    click.echo(json.encode(said) if as_json else sentence)
