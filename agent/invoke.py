"""``metergate-agent invoke``: run a call on a meter through its gateway, over MQTT; works while the hub is down.

A caller has a name and a key. The key is made here (``--new-key``), its public half is entered at the hub
(``POST /v1/callers``) with what the caller may call, and reaches the gateway in its next plan. Everything here follows
``docs/contract.md`` as any other MQTT 5 client could.
"""

import asyncio
import datetime as dt
import getpass
import json
import math
import os
import pathlib
import re
import uuid
from collections.abc import AsyncIterator
from typing import NamedTuple

import click

from agent.arguments import in_words_of_here, pairs, rfc3339
from agent.keys import KeyFileError, load_key, make_key
from agent.settings import SettingsError, parse_broker, read_secret
from contexts.calls import CallError
from contexts.catalogue import kwargs_from_text
from mqtt.connection import Access, BrokerError, Connection, Outgoing, connect
from protocol.commands import DONE, FINAL_STATES, MAX_COMMAND_SECONDS, Command, CommandUpdate
from protocol.envelopes import SigningKey, fingerprint, open_envelope
from protocol.readings import NewMeterReading
from protocol.reports import Report, decode_report
from protocol.topics import Channel, check_gateway_id, topic_for
from protocol.wire import ContractError, encode

CALLER_VARIABLE = "METERGATE_CALLER"
KEY_VARIABLE = "METERGATE_KEY_FILE"
_DEFAULT_KEY = pathlib.Path("~/.config/metergate/caller.key")

_HELP = f"""Run a call on a meter through its gateway, over MQTT, and print what it brings.

GATEWAY is the gateway's id, METER the meter's name or UUID, CONTEXT and CALL what to ask, key=value its arguments.

\b
Once: make a key, and have its public half entered at the hub as a caller
  metergate-agent invoke --new-key caller.key

\b
Then, whether the hub is there or not:
  metergate-agent invoke --broker mqtt://broker:1883 --caller field-laptop --key-file caller.key \\
      gateway-north meter-1 generic_lis200 read_single_value address=2:300

The caller's name and key file may also stand in {CALLER_VARIABLE} and {KEY_VARIABLE}.
Exit status: 0 done, 1 failed (the cause is on standard error), 2 wrong usage.
"""


class InvokeError(Exception):
    """The call did not end in ``done``; the text says why."""


class _Result(NamedTuple):
    """What came over all updates."""

    readings: list[NewMeterReading]
    outcome: dict[str, object]


@click.command("invoke", help=_HELP, context_settings={"max_content_width": 120})
@click.argument("gateway", required=False)
@click.argument("meter", required=False)
@click.argument("context", required=False)
@click.argument("call", required=False)
@click.argument("kwargs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--broker", help="mqtt://[user@]host[:port], or mqtts:// for TLS.")
@click.option("--caller", envvar=CALLER_VARIABLE, help="The caller's name at the hub; else your login name.")
@click.option(
    "--key-file",
    envvar=KEY_VARIABLE,
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help=f"The caller's key; else {_DEFAULT_KEY}.",
)
@click.option(
    "--new-key",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Make a key in a new file, print its public half, and end.",
)
@click.option(
    "--broker-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="File with the password of the broker's user.",
)
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust with mqtts://.")
@click.option(
    "--wait",
    type=click.FloatRange(min=1, max=MAX_COMMAND_SECONDS),
    default=120,
    show_default=True,
    help="Seconds to wait for the end; the gateway does not begin later than that either.",
)
@click.option("--json", "as_json", is_flag=True, help="One reading per line as a JSON object.")
def command(
    gateway: str | None,
    meter: str | None,
    context: str | None,
    call: str | None,
    kwargs: tuple[str, ...],
    broker: str | None,
    caller: str | None,
    key_file: pathlib.Path | None,
    new_key: pathlib.Path | None,
    broker_password_file: pathlib.Path | None,
    ca_file: str | None,
    wait: float,
    as_json: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Run a call on a meter through its gateway."""
    if new_key is not None:
        _make_key(new_key)
        return
    if not (gateway and meter and context and call and broker):
        raise click.UsageError("expected --broker URL GATEWAY METER CONTEXT CALL [KEY=VALUE]...")
    try:
        check_gateway_id(gateway)
        password = read_secret(broker_password_file, "--broker-password-file") if broker_password_file else None
        access = Access(parse_broker(broker, "--broker"), password, ca_file)
        asked = kwargs_from_text(context, call, pairs(kwargs))
    except CallError as error:
        raise click.UsageError(in_words_of_here(error)) from error
    except (ContractError, SettingsError) as error:
        # The settings file has these words with underscores, the command line with hyphens.
        raise click.UsageError(str(error).replace("broker_password_file", "--broker-password-file")) from error
    order = Command(
        id=uuid.uuid4(),
        gateway=gateway,
        context=context,
        call=call,
        kwargs=asked,
        issued=dt.datetime.now(dt.UTC),
        ttl_seconds=math.ceil(wait),
        device=_uuid(meter),
        meter="" if _uuid(meter) else meter,
    )
    try:
        key = load_key(key_file or _DEFAULT_KEY.expanduser())
        result = asyncio.run(invoke(access, caller or _login(), key, order, wait))
    except KeyFileError as error:
        raise click.ClickException(f"{error}; make one with --new-key, or name yours with --key-file") from error
    except (BrokerError, InvokeError, ContractError) as error:
        raise click.ClickException(str(error)) from error
    _print(result, as_json=as_json)


async def invoke(access: Access, caller: str, key: SigningKey, order: Command, wait: float) -> _Result:
    """Publish the command and follow its updates to the end.

    Raises:
        InvokeError: when it does not end in ``done`` within ``wait`` seconds.
        BrokerError: when the connection cannot be made or is lost.
    """
    reply_topic = topic_for(order.gateway, Channel.REPLY, caller)
    topic = topic_for(order.gateway, Channel.INVOKE, caller)
    message = Outgoing(
        topic,
        key.seal(topic, encode(order)),
        expiry=order.ttl_seconds,
        correlation=order.id.bytes,
        response_topic=reply_topic,
    )
    heard = "nothing"
    try:
        async with asyncio.timeout(wait), connect(access, None) as connection:
            await connection.subscribe([reply_topic])
            await connection.publish(message)
            readings: list[NewMeterReading] = []
            async for update in _updates(connection, order, caller):
                heard = update.state
                readings += update.readings
                if update.state == DONE:
                    return _Result(readings, update.result)
                if update.state in FINAL_STATES:
                    raise InvokeError(f"{update.state}: {update.cause}")
    except TimeoutError:
        raise InvokeError(
            f"gateway {order.gateway} did not end the call within {wait:g} s; heard from it: {heard}. "
            "Is it online, and is the caller in its plan?"
        ) from None
    raise InvokeError(f"the connection ended; heard from gateway {order.gateway}: {heard}")


async def _updates(connection: Connection, order: Command, caller: str) -> AsyncIterator[CommandUpdate]:
    """Yield the updates of the command, each once, all signed by one key."""
    topic = topic_for(order.gateway, Channel.REPLY, caller)
    seen: set[uuid.UUID] = set()
    gateway_key: bytes | None = None
    async for message in connection.messages():
        if message.topic != topic:
            continue
        signed = open_envelope(message.topic, message.payload)
        update: Report = decode_report(signed.body)
        if not isinstance(update, CommandUpdate) or update.command_id != order.id or update.id in seen:
            continue
        if gateway_key not in {None, signed.key}:
            raise ContractError(f"the answer changed its key to {fingerprint(signed.key)}; it is not believed")
        gateway_key = signed.key
        seen.add(update.id)
        yield update


def _make_key(path: pathlib.Path) -> None:
    try:
        key = make_key(path)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"Key made: {path}. Enter the public key at the hub (POST /v1/callers), then use --key-file {path}.", err=True
    )
    click.echo(key.public.hex())


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _login() -> str:
    """Return the login name as a caller's name may be."""
    return re.sub(r"[^a-z0-9-]+", "-", os.environ.get("USER", "") or getpass.getuser().lower()).strip("-")[:63]


def _print(result: _Result, *, as_json: bool) -> None:
    readings = sorted(result.readings, key=lambda reading: (reading.timestamp, reading.series))
    rows = [
        {
            "meter": reading.meter,
            "series": reading.series,
            "timestamp": rfc3339(reading.timestamp),
            "value": format(reading.value, "f"),
            "unit": reading.unit,
        }
        for reading in readings
    ]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif rows:
        widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
        for row in ({key: key for key in rows[0]}, *rows):
            click.echo("  ".join(text.ljust(widths[key]) for key, text in row.items()).rstrip())
    outcome = {key: value for key, value in result.outcome.items() if key != "readings_in_all"}
    if outcome:
        click.echo(json.dumps({"result": outcome}, ensure_ascii=False, default=str), err=True)
