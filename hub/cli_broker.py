"""Where a command finds the broker: the option, and the password that is never on a command line."""

import os
from pathlib import Path

import click

from hub.cli_places import typed

BROKER_VARIABLE = "METERGATE_BROKER"
BROKER_PASSWORD_VARIABLE = "METERGATE_BROKER_PASSWORD"  # noqa: S105 - the name of a variable
BROKER_PASSWORD_FILE_VARIABLE = "METERGATE_BROKER_PASSWORD_FILE"  # noqa: S105 - the name of a variable


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
        if broker.password is not None and typed(context, parameter):
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


broker_option = click.option(
    "--broker",
    envvar=BROKER_VARIABLE,
    callback=_checked_broker,
    help=f"URL, such as mqtt://user@host:1883 [{BROKER_VARIABLE}]; a password only there, in "
    f"{BROKER_PASSWORD_VARIABLE}, or in the file that {BROKER_PASSWORD_FILE_VARIABLE} names.",
)
