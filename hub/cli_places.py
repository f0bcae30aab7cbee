"""Where a command finds the database and the hub's key: the options that commands share, and what becomes of them."""

import os
from pathlib import Path

import click
from click.core import ParameterSource
from sqlalchemy.exc import ArgumentError

from hub.database import CONNECTIONS, LEAST_CONNECTIONS, async_url
from hub.settings import DEFAULT_DATA, sqlite_url

DATABASE_VARIABLE = "METERGATE_DATABASE"
LISTEN_VARIABLE = "METERGATE_LISTEN_DATABASE"
CONNECTIONS_VARIABLE = "METERGATE_DATABASE_CONNECTIONS"
KEY_FILE_VARIABLE = "METERGATE_HUB_KEY_FILE"


def typed(context: click.Context, parameter: click.Parameter) -> bool:
    """Whether a value stands on the command line, where everybody on the machine can read it."""
    return context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE


def _checked_database(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    """Accept a database's URL.

    Raises:
        click.UsageError: when it is no such URL, or holds a password where everybody can read it.
    """
    if not url:
        return None
    try:
        target = async_url(url)
    except (ValueError, ArgumentError) as error:
        raise click.UsageError(f"{parameter.opts[0]}: {error}") from None
    if target.password is not None and typed(context, parameter):
        raise click.UsageError(
            f"{parameter.opts[0]} holds a password, which everybody on this machine could read there: "
            f"leave it out and set PGPASSWORD, or set {parameter.envvar} to the whole URL"
        )
    return url


data_option = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=None, help="Directory of everything kept."
)
database_option = click.option(
    "--database",
    envvar=DATABASE_VARIABLE,
    callback=_checked_database,
    help=f"URL, such as postgresql://user@host/name [{DATABASE_VARIABLE}]; a password only there or in PGPASSWORD.",
)
listen_option = click.option(
    "--listen-database",
    envvar=LISTEN_VARIABLE,
    callback=_checked_database,
    help=f"Its URL past a pooler that delivers no notifications [{LISTEN_VARIABLE}]; --database unless given.",
)
connections_option = click.option(
    "--database-connections",
    envvar=CONNECTIONS_VARIABLE,
    type=click.IntRange(LEAST_CONNECTIONS),
    default=CONNECTIONS,
    show_default=True,
    help=f"The most that this process works with at once [{CONNECTIONS_VARIABLE}]; two more hear other processes.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def database_of(data: Path | None, database: str | None) -> str:
    """Return the URL of the database that is meant: a directory that is typed, before what the environment says.

    Raises:
        click.UsageError: when both are typed.
    """
    source = click.get_current_context().get_parameter_source("database")
    if data is not None and database is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --data or --database, not both")
    if data is None and database is not None:
        return database
    return sqlite_url(data or DEFAULT_DATA)


def key_file_from_environment() -> Path | None:
    """Return where the environment says that the hub's key is."""
    path = os.environ.get(KEY_FILE_VARIABLE)
    return Path(path) if path else None
