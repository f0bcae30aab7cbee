"""The command line of ``metergate-hub``: options and their words; the work is done by ``hub.processes``.

Exit status: 0 done, 1 the work failed (with the cause), 2 wrong usage. The processes are imported by the commands that
start them: whoever wants a token does not wait for a web framework.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click
from click.core import ParameterSource
from msgspec import json
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from hub.backup import BackupError
from hub.broker import BrokerError
from hub.cli_backup import backup_command, restore_command
from hub.clocks import Clock, system_clock
from hub.database import DatabaseError, async_url, create_engine, migrate, schema_problem, writing
from hub.keys import KeyFileError
from hub.logs import set_up_logs
from hub.settings import DEFAULT_DATA, DEFAULT_MQTT_PORT, DEFAULT_PORT, Settings, StartError, sqlite_url
from hub.tokens import create_token, list_tokens, revoke_tokens
from protocol.wire import ContractError

DATABASE_VARIABLE = "METERGATE_DATABASE"
BROKER_VARIABLE = "METERGATE_BROKER"
BROKER_PASSWORD_VARIABLE = "METERGATE_BROKER_PASSWORD"  # noqa: S105 - the name of a variable
BROKER_PASSWORD_FILE_VARIABLE = "METERGATE_BROKER_PASSWORD_FILE"  # noqa: S105 - the name of a variable
KEY_FILE_VARIABLE = "METERGATE_HUB_KEY_FILE"
WEBHOOK_HOSTS_VARIABLE = "METERGATE_WEBHOOK_HOSTS"

_PORT = click.IntRange(0, 65535)
_Result = TypeVar("_Result")


def _typed(context: click.Context, parameter: click.Parameter) -> bool:
    """Whether a value stands on the command line, where everybody on the machine can read it."""
    return context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE


def _checked_broker(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    """Accept a broker's URL, and put the password into it that the environment or a file has.

    Raises:
        click.UsageError: when it is no such URL, or holds a password where everybody can read it.
    """
    if not url:
        return None
    from hub.connection import read_url, with_password  # noqa: PLC0415 - only where there is a broker

    try:
        broker = read_url(url)
        if broker.password is not None and _typed(context, parameter):
            raise click.UsageError(
                "--broker holds a password, which everybody on this machine could read there: "
                f"leave it out and set {BROKER_PASSWORD_VARIABLE} or {BROKER_PASSWORD_FILE_VARIABLE}, "
                f"or set {BROKER_VARIABLE} to the whole URL"
            )
        password = _broker_password()
        return url if password is None or broker.password is not None else with_password(url, password)
    except ValueError as error:
        raise click.UsageError(f"--broker: {error}") from None


def _broker_password() -> str | None:
    file = os.environ.get(BROKER_PASSWORD_FILE_VARIABLE)
    if not file:
        return os.environ.get(BROKER_PASSWORD_VARIABLE) or None
    try:
        return Path(file).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{BROKER_PASSWORD_FILE_VARIABLE}: {file} cannot be read: {error}") from None


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
        raise click.UsageError(f"--database: {error}") from None
    if target.password is not None and _typed(context, parameter):
        raise click.UsageError(
            "--database holds a password, which everybody on this machine could read there: "
            f"leave it out and set PGPASSWORD, or set {DATABASE_VARIABLE} to the whole URL"
        )
    return url


data_option = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=None, help="Directory of everything kept."
)
port_option = click.option(
    "--port", type=_PORT, default=DEFAULT_PORT, show_default=True, help="REST; 0 takes a free one."
)
host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address that REST listens on.")
database_option = click.option(
    "--database",
    envvar=DATABASE_VARIABLE,
    callback=_checked_database,
    help=f"URL, such as postgresql://user@host/name [{DATABASE_VARIABLE}]; a password only there or in PGPASSWORD.",
)
broker_option = click.option(
    "--broker",
    envvar=BROKER_VARIABLE,
    callback=_checked_broker,
    help=f"URL, such as mqtt://user@host:1883 [{BROKER_VARIABLE}]; a password only there, in "
    f"{BROKER_PASSWORD_VARIABLE}, or in the file that {BROKER_PASSWORD_FILE_VARIABLE} names.",
)
webhook_host_option = click.option(
    "--webhook-host",
    "webhook_hosts",
    multiple=True,
    envvar=WEBHOOK_HOSTS_VARIABLE,
    metavar="HOST",
    help="Host that webhooks may be on beside the public internet's, and without TLS; may be given more than once "
    f"[{WEBHOOK_HOSTS_VARIABLE}, separated by spaces].",
)


@click.group()
@click.version_option(package_name="metergate", prog_name="metergate-hub")
def commands() -> None:
    """Collects what gateways read from meters, and tells them what to read."""


commands.add_command(backup_command)
commands.add_command(restore_command)


@commands.command("run")
@data_option
@host_option
@port_option
@click.option("--mqtt-port", type=_PORT, default=DEFAULT_MQTT_PORT, show_default=True, help="Embedded broker's port.")
@broker_option
@webhook_host_option
def run_command(
    data: Path | None, host: str, port: int, mqtt_port: int, broker: str | None, webhook_hosts: tuple[str, ...]
) -> None:
    """REST, relay and an embedded MQTT broker in one, on SQLite. With --broker URL that broker instead."""
    data = data or DEFAULT_DATA
    settings = Settings(
        sqlite_url(data),
        data=data,
        broker=broker,
        host=host,
        port=port,
        mqtt_port=mqtt_port,
        hub_key_file=_key_file(),
        webhook_hosts=_hosts(webhook_hosts),
    )
    from hub.processes import run  # noqa: PLC0415 - see above

    set_up_logs()
    asyncio.run(run(settings, system_clock()))


@commands.command("serve")
@database_option
@host_option
@port_option
@broker_option
@data_option
@webhook_host_option
def serve_command(
    database: str | None,
    host: str,
    port: int,
    broker: str | None,
    data: Path | None,
    webhook_hosts: tuple[str, ...],
) -> None:
    """REST alone, on PostgreSQL. It needs no broker: relays have that."""
    settings = Settings(
        _postgresql(database),
        data=data,
        broker=broker,
        host=host,
        port=port,
        hub_key_file=_key_file(),
        webhook_hosts=_hosts(webhook_hosts),
    )
    from hub.processes import serve  # noqa: PLC0415 - see above

    set_up_logs()
    asyncio.run(serve(settings, system_clock()))


@commands.command("relay")
@database_option
@broker_option
@data_option
@click.option(
    "--metrics-port", type=_PORT, default=None, help="Figures for Prometheus on 127.0.0.1; none unless given."
)
@webhook_host_option
def relay_command(
    database: str | None,
    broker: str | None,
    data: Path | None,
    metrics_port: int | None,
    webhook_hosts: tuple[str, ...],
) -> None:
    """MQTT alone, between PostgreSQL and an MQTT 5 broker.

    All relays of a hub sign with one key: hub.key in the data directory, or the file that METERGATE_HUB_KEY_FILE names.
    """
    if not broker:
        raise click.UsageError(f"a relay needs a broker: give --broker URL or set {BROKER_VARIABLE}")
    if data is None and _key_file() is None:
        raise click.UsageError(f"a relay needs the hub's key: give --data DIR or set {KEY_FILE_VARIABLE}")
    settings = Settings(
        _postgresql(database),
        data=data,
        broker=broker,
        hub_key_file=_key_file(),
        metrics_port=metrics_port,
        webhook_hosts=_hosts(webhook_hosts),
    )
    from hub.processes import relay  # noqa: PLC0415 - see above

    set_up_logs()
    asyncio.run(relay(settings, system_clock()))


@commands.command("migrate")
@data_option
@database_option
def migrate_command(data: Path | None, database: str | None) -> None:
    """Bring the database to this version."""
    asyncio.run(migrate(_database(data, database)))
    click.echo("the database is up to date")


@commands.group("token")
def token_commands() -> None:
    """Staff tokens for the REST API."""


@token_commands.command("create")
@click.argument("name")
@data_option
@database_option
def create_token_command(name: str, data: Path | None, database: str | None) -> None:
    """Make a token called NAME and print its key, once; the last line is the key alone."""
    if not name.strip() or len(name) > 150:  # noqa: PLR2004 - the column's width
        raise click.UsageError("NAME must have 1 to 150 characters")
    key = asyncio.run(_create_token(_database(data, database), name, system_clock()))
    click.echo(key)


@token_commands.command("list")
@data_option
@database_option
def list_tokens_command(data: Path | None, database: str | None) -> None:
    """Print each token's name, when it was made, and when it was revoked, if it was; no keys, which nobody has."""
    for token in asyncio.run(_with_session(_database(data, database), list_tokens)):
        end = f"revoked {token.revoked.isoformat(timespec='seconds')}" if token.revoked else "valid"
        click.echo(f"{token.name}\t{token.created.isoformat(timespec='seconds')}\t{end}")


@token_commands.command("revoke")
@click.argument("name")
@data_option
@database_option
def revoke_token_command(name: str, data: Path | None, database: str | None) -> None:
    """Make all tokens called NAME invalid, at once and for ever."""
    now = system_clock().now()
    count = asyncio.run(_with_session(_database(data, database), lambda session: revoke_tokens(session, name, now)))
    if not count:
        raise StartError(f"there is no valid token called {name!r}; see metergate-hub token list")
    click.echo(f"{count} revoked")


@commands.group("ledger")
def ledger_commands() -> None:
    """Which of the expected readings are stored: the hub keeps that by itself, beside a running hub or without."""


_device_option = click.option("--device", type=click.UUID, default=None, help="One meter, by its id; else all.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@ledger_commands.command("check")
@_device_option
@_json_option
@data_option
@database_option
def check_ledger_command(device: UUID | None, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Compare the ledger with the stored readings; exit with 1 if they differ."""
    from hub import cli_ledger  # noqa: PLC0415 - see above

    found = cli_ledger.check(_database(data, database), device, system_clock())
    click.echo(json.encode(found) if as_json else found.text())
    if found.differing or found.wrong_sums:
        sys.exit(1)


@ledger_commands.command("rebuild")
@_device_option
@_json_option
@data_option
@database_option
def rebuild_ledger_command(device: UUID | None, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Make the ledger anew from the stored readings."""
    from hub import cli_ledger  # noqa: PLC0415 - see above

    found = cli_ledger.rebuild(_database(data, database), device)
    click.echo(json.encode(found) if as_json else found.text())


@commands.group("keys")
def keys_commands() -> None:
    """Keys of the secrets in the database: meters' passwords and keys, and what webhooks are signed with."""


@keys_commands.command("rotate")
@_json_option
@data_option
@database_option
def rotate_keys_command(data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Seal all secrets for a new key, beside a running hub or without; killed, it goes on when run again.

    The new key is in hub.key.secrets beside hub.key; every host with a relay needs that file. hub.key stays.
    """
    from hub import cli_keys  # noqa: PLC0415 - see above

    file = _key_file() or (data or DEFAULT_DATA) / "hub.key"
    done = cli_keys.rotate_keys(_database(None if database else data, database), file)
    click.echo(json.encode(done) if as_json else done.text())
    if done.unreadable:
        sys.exit(1)


async def _with_session(database: str, work: Callable[[AsyncSession], Awaitable[_Result]]) -> _Result:
    engine = create_engine(database)
    try:
        problem = await schema_problem(engine)
        if problem:
            raise StartError(problem)
        async with writing(engine) as session:
            return await work(session)
    finally:
        await engine.dispose()


async def _create_token(database: str, name: str, clock: Clock) -> str:
    await migrate(database)
    engine = create_engine(database)
    try:
        async with writing(engine) as session:
            return await create_token(session, name, clock.now())
    finally:
        await engine.dispose()


def _database(data: Path | None, database: str | None) -> str:
    if data is not None and database is not None and database != os.environ.get(DATABASE_VARIABLE):
        raise click.UsageError("give --data or --database, not both")
    if data is None and database is not None:
        return database
    return sqlite_url(data or DEFAULT_DATA)


def _postgresql(database: str | None) -> str:
    if not database:
        raise click.UsageError(f"this needs a database: give --database URL or set {DATABASE_VARIABLE}")
    if not async_url(database).drivername.startswith("postgresql"):
        raise click.UsageError("this needs PostgreSQL; on SQLite everything runs in one process: metergate-hub run")
    return database


def expected_causes() -> tuple[type[Exception], ...]:
    """Return what may end the work without being a bug: its text is for the operator."""
    return (StartError, DatabaseError, BackupError, BrokerError, KeyFileError, ContractError, SQLAlchemyError, OSError)


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts as URLs are compared with them."""
    return tuple(name.lower().rstrip(".").strip("[]") for name in names)


def _key_file() -> Path | None:
    path = os.environ.get(KEY_FILE_VARIABLE)
    return Path(path) if path else None
