"""The command line of ``metergate-hub``: options and their words; the work is done by ``hub.processes``.

Exit status: 0 done, 1 the work failed (with the cause), 2 wrong usage. The processes are imported by the commands that
start them: whoever wants a token does not wait for a web framework.
"""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from uuid import UUID

import click
from msgspec import json
from sqlalchemy.exc import SQLAlchemyError

from client.cli import api
from hub.backup import BackupError
from hub.broker import BrokerError
from hub.cli_access import membership_commands, token_commands, user_commands
from hub.cli_backup import backup_command, restore_command
from hub.cli_broker import BROKER_VARIABLE, broker_option
from hub.cli_doctor import doctor_command
from hub.cli_migrate import migrate_command
from hub.cli_places import (
    DATABASE_VARIABLE,
    KEY_FILE_VARIABLE,
    connections_option,
    data_option,
    database_of,
    database_option,
    json_option,
    key_file_from_environment,
    listen_option,
)
from hub.clocks import system_clock
from hub.database import DatabaseError, async_url
from hub.keys import KeyFileError
from hub.logs import set_up_logs
from hub.settings import DEFAULT_DATA, DEFAULT_MQTT_PORT, DEFAULT_PORT, Settings, StartError, sqlite_url
from protocol.wire import ContractError

WEBHOOK_HOSTS_VARIABLE = "METERGATE_WEBHOOK_HOSTS"

_PORT = click.IntRange(0, 65535)


port_option = click.option(
    "--port", type=_PORT, default=DEFAULT_PORT, show_default=True, help="REST; 0 takes a free one."
)
host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address that REST listens on.")
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


commands.add_command(api)
commands.add_command(backup_command)
commands.add_command(doctor_command)
commands.add_command(restore_command)
commands.add_command(migrate_command)
commands.add_command(token_commands)
commands.add_command(user_commands)
commands.add_command(membership_commands)


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
        hub_key_file=key_file_from_environment(),
        webhook_hosts=_hosts(webhook_hosts),
    )
    from hub.processes import run  # noqa: PLC0415 - see above

    _run(run(settings, system_clock()))


@commands.command("serve")
@database_option
@listen_option
@connections_option
@host_option
@port_option
@broker_option
@data_option
@webhook_host_option
def serve_command(
    database: str | None,
    listen_database: str | None,
    database_connections: int,
    host: str,
    port: int,
    broker: str | None,
    data: Path | None,
    webhook_hosts: tuple[str, ...],
) -> None:
    """REST alone, on PostgreSQL. It needs no broker: relays have that."""
    settings = Settings(
        _postgresql(database),
        listen_database=listen_database,
        database_connections=database_connections,
        data=data,
        broker=broker,
        host=host,
        port=port,
        hub_key_file=key_file_from_environment(),
        webhook_hosts=_hosts(webhook_hosts),
    )
    from hub.processes import serve  # noqa: PLC0415 - see above

    _run(serve(settings, system_clock()))


@commands.command("relay")
@database_option
@listen_option
@connections_option
@broker_option
@data_option
@click.option(
    "--metrics-port",
    type=_PORT,
    default=None,
    help="Health (/health) and figures for Prometheus (/metrics); none unless given, 0 takes a free port.",
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address that health and figures are on.")
@webhook_host_option
def relay_command(
    database: str | None,
    listen_database: str | None,
    database_connections: int,
    broker: str | None,
    data: Path | None,
    metrics_port: int | None,
    metrics_host: str,
    webhook_hosts: tuple[str, ...],
) -> None:
    """MQTT alone, between PostgreSQL and an MQTT 5 broker.

    All relays of a hub sign with one key: hub.key in the data directory, or the file that METERGATE_HUB_KEY_FILE names.
    """
    if not broker:
        raise click.UsageError(f"a relay needs a broker: give --broker URL or set {BROKER_VARIABLE}")
    if data is None and key_file_from_environment() is None:
        raise click.UsageError(f"a relay needs the hub's key: give --data DIR or set {KEY_FILE_VARIABLE}")
    settings = Settings(
        _postgresql(database),
        listen_database=listen_database,
        database_connections=database_connections,
        data=data,
        broker=broker,
        hub_key_file=key_file_from_environment(),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        webhook_hosts=_hosts(webhook_hosts),
    )
    from hub.processes import relay  # noqa: PLC0415 - see above

    _run(relay(settings, system_clock()))


@commands.group("ledger")
def ledger_commands() -> None:
    """Which of the expected readings are stored: the hub keeps that by itself, beside a running hub or without."""


_device_option = click.option("--device", type=click.UUID, default=None, help="One meter, by its id; else all.")


@ledger_commands.command("check")
@_device_option
@json_option
@data_option
@database_option
def check_ledger_command(device: UUID | None, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Compare the ledger with the stored readings; exit with 1 if they differ."""
    from hub import cli_ledger  # noqa: PLC0415 - see above

    found = cli_ledger.check(database_of(data, database), device, system_clock())
    click.echo(json.encode(found) if as_json else found.text())
    if found.differing or found.wrong_sums:
        sys.exit(1)


@ledger_commands.command("rebuild")
@_device_option
@json_option
@data_option
@database_option
def rebuild_ledger_command(device: UUID | None, data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Make the ledger anew from the stored readings."""
    from hub import cli_ledger  # noqa: PLC0415 - see above

    found = cli_ledger.rebuild(database_of(data, database), device)
    click.echo(json.encode(found) if as_json else found.text())


@commands.group("keys")
def keys_commands() -> None:
    """Keys of the secrets in the database: meters' passwords and keys, and what webhooks are signed with."""


@keys_commands.command("rotate")
@json_option
@data_option
@database_option
def rotate_keys_command(data: Path | None, database: str | None, *, as_json: bool) -> None:
    """Seal all secrets for a new key, beside a running hub or without; killed, it goes on when run again.

    The new key is in hub.key.secrets beside hub.key; every host with a relay needs that file. hub.key stays.
    """
    from hub import cli_keys  # noqa: PLC0415 - see above

    file = key_file_from_environment() or (data or DEFAULT_DATA) / "hub.key"
    done = cli_keys.rotate_keys(database_of(None if database else data, database), file)
    click.echo(json.encode(done) if as_json else done.text())
    if done.unreadable:
        sys.exit(1)


def _run(process: Coroutine[None, None, None]) -> None:
    """Run a process of the hub to its end, on the web server's own loop: uvloop where that is installed.

    Messages, and answers with many rows, come in many pieces: of a batch of one reading it takes 5 % off a relay.
    """
    from uvicorn.loops.auto import auto_loop_factory  # noqa: PLC0415 - see above

    set_up_logs()
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(process)


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
