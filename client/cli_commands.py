"""``api read``, ``invoke`` and ``command``: have a meter asked now, watch what becomes of it, call it off."""

import datetime as dt
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import click

from client.cli import REFUSED, connected, since_option, until_option
from client.errors import NotClear
from client.fields import read_fields
from client.hub import Hub
from client.records import Command, Gateway, Meter
from client.shown import facts, instant, json_lines, json_option, note, plain, table, watched

_INTERRUPTED = 130
_SINGLE, _SEVERAL = "read_single_value", "read_values"

_timeout_option = click.option(
    "--timeout", type=click.FloatRange(0), default=300.0, show_default=True, help="Seconds to wait for the end."
)
_no_wait_option = click.option("--no-wait", is_flag=True, help="Say the command's id and do not wait for its end.")
_context_option = click.option("--context", "context_name", help="Execution context; else by the meter's protocol.")


@click.command("read")
@click.argument("meter")
@click.argument("addresses", nargs=-1, required=True)
@_context_option
@_timeout_option
@_no_wait_option
@json_option
@click.pass_context
def read_command(
    context: click.Context,
    meter: str,
    addresses: tuple[str, ...],
    context_name: str | None,
    timeout: float,
    *,
    no_wait: bool,
    as_json: bool,
) -> None:
    r"""Read ADDRESSES of a METER (its name or id) now, and wait for the answer.

    What is a number becomes a reading as well. The exit status is 1 unless the meter answered to all of it.

    \b
      metergate-hub api read "Heating plant" 2:300
      metergate-hub api read "Heating plant" 2:300 4:300 --json | jq .result
    """
    hub = connected(context)
    found = hub.find(Meter, meter)
    kwargs: dict[str, Any] = {"address": addresses[0]} if len(addresses) == 1 else {"addresses": list(addresses)}
    call = _SINGLE if len(addresses) == 1 else _SEVERAL
    made = hub.invoke(found.id, context_name or _context_of(found), call, kwargs)
    _attend(context, hub, made.id, timeout, wait=not no_wait, telling=watched(), as_json=as_json)


@click.command("invoke")
@click.argument("meter")
@click.argument("call")
@click.argument("kwargs", nargs=-1)
@_context_option
@click.option("--ttl", "ttl_seconds", type=click.IntRange(1), help="Seconds after which nobody begins it any more.")
@_timeout_option
@_no_wait_option
@json_option
@click.pass_context
def invoke_command(
    context: click.Context,
    meter: str,
    call: str,
    kwargs: tuple[str, ...],
    context_name: str | None,
    ttl_seconds: int | None,
    timeout: float,
    *,
    no_wait: bool,
    as_json: bool,
) -> None:
    r"""Make any CALL on a METER now: its arguments are name=text or name:=JSON.

    \b
      metergate-hub api invoke "Heating plant" read_identity
      metergate-hub api invoke "Heating plant" set_time
      metergate-hub api invoke "Heating plant" read_archive_by_date start_date=2026-03-01 archive_number:=3 \
          control_position:=3
    """
    hub = connected(context)
    found = hub.find(Meter, meter)
    more = {"ttl_seconds": ttl_seconds} if ttl_seconds is not None else None
    made = hub.invoke(found.id, context_name or _context_of(found), call, read_fields(kwargs), more=more)
    _attend(context, hub, made.id, timeout, wait=not no_wait, telling=watched(), as_json=as_json)


def _context_of(meter: Meter) -> str:
    """Return the execution context that speaks a meter's protocol; the hub says so if there is none."""
    return f"generic_{meter.protocol.replace('-', '')}"


def _attend(
    context: click.Context,
    hub: Hub,
    command: uuid.UUID,
    timeout: float,
    *,
    as_json: bool,
    wait: bool = True,
    telling: bool = False,
) -> None:
    """Wait for a command's end, ``telling`` of each state, say what it brought, and end with 1 unless it is done."""
    if not wait:
        if as_json:
            json_lines([hub.get(f"{Command.path}/{command}")])
        else:
            click.echo(command)
        return
    until = time.monotonic() + timeout
    try:
        if telling and not as_json:
            for change in hub.follow_command(command, timeout):
                note(f"{instant(change.at)} {change.state}" + (f": {plain(change.cause)}" if change.cause else ""))
        end = hub.wait_command(command, until - time.monotonic())
    except KeyboardInterrupt:
        note(f"the command goes on; metergate-hub api command cancel {command} calls it off")
        context.exit(_INTERRUPTED)
    whole = hub.get(f"{Command.path}/{command}")
    if as_json:
        json_lines([whole])
    else:
        _show_answer(whole)
    if not end.final:
        note(f"it has not ended after {timeout:g} s; metergate-hub api command follow {command} waits on")
    if end.state != "done":
        context.exit(REFUSED)


def _show_answer(whole: Mapping[str, Any]) -> None:
    """Tell what a command brought: what was read, value by value, or readings, or the result as it is."""
    result, readings = whole["result"], whole["readings"]
    values: Sequence[Mapping[str, Any]] = result.get("values", [result] if "address" in result else [])
    if values:
        rows = ([one.get("address"), one.get("text"), one.get("unit"), one.get("problem")] for one in values)
        table(["ADDRESS", "VALUE", "UNIT", "PROBLEM"], rows, "")
    elif readings:
        rows = ([_of(one, 1), instant(_of(one, 2)), _of(one, 3), _of(one, 4)] for one in readings)
        table(["SERIES", "TIME", "VALUE", "UNIT"], rows, "")
    elif result:
        facts(result)
    if whole["state"] != "done":
        note(f"{whole['state']}: {whole['cause']}" if whole["cause"] else whole["state"])


def _of(reading: Any, place: int) -> Any:  # noqa: ANN401 - JSON
    """Return a part of a reading of a command: it is told as on the wire, as a list, or by names."""
    names = ("meter", "series", "timestamp", "value", "unit")
    if isinstance(reading, dict):
        return reading.get(names[place])
    return reading[place] if len(reading) > place else None


@click.group("command")
def command_command() -> None:
    """Commands: calls that were made on demand, by whomever."""


@command_command.command("list")
@click.option("--meter", help="Only those of this meter; a name or an id.")
@click.option("--gateway", help="Only those of this gateway; its name or id.")
@click.option("--state", help="Only those in this state, such as failed.")
@since_option
@until_option
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@json_option
@click.pass_context
def list_commands_command(
    context: click.Context,
    meter: str | None,
    gateway: str | None,
    state: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    r"""List commands, the newest first.

    \b
      metergate-hub api command list --state failed --since 7d
    """
    hub = connected(context)
    found = hub.list(
        Command.path,
        most=limit,
        meter_device=hub.find(Meter, meter).id if meter else None,
        gateway=hub.find(Gateway, gateway).id if gateway else None,
        state=state,
        start_time=since,
        end_time=until,
        ordering="-created_at",
    )
    if as_json:
        json_lines(found)
        return
    rows = ([one["id"], instant(one["created_at"]), one["meter"], one["task_call"], _state(one)] for one in found)
    table(["COMMAND", "MADE", "METER", "CALL", "STATE"], rows, "there are no such commands")


def _state(one: Mapping[str, Any]) -> str:
    return f"{one['state']}: {one['cause']}" if one["cause"] else str(one["state"])


@command_command.command("show")
@click.argument("command", type=click.UUID)
@json_option
@click.pass_context
def show_command(context: click.Context, command: uuid.UUID, *, as_json: bool) -> None:
    """Show a COMMAND (its id): who asked what, each state with its time, and what it brought."""
    hub = connected(context)
    whole = hub.get(f"{Command.path}/{command}")
    if as_json:
        json_lines([whole])
        return
    kwargs = " ".join(f"{name}={value}" for name, value in whole["task_kwargs"].items())
    facts(
        {
            "command": whole["id"],
            "meter": whole["meter"],
            "call": f"{whole['meter_execution_type']} {whole['task_call']} {kwargs}",
            "asked by": whole["origin"],
            "made": instant(whole["created_at"]),
            "expires": instant(whole["expires_at"]),
            "state": _state(whole),
            "ended": instant(whole["ended_at"]),
        }
    )
    for step in whole["updates"]:
        click.echo(f"  {instant(step['at'])}  {step['state']}" + (f": {step['cause']}" if step["cause"] else ""))
    click.echo()
    _show_answer(whole)


@command_command.command("follow")
@click.argument("command", type=click.UUID)
@_timeout_option
@json_option
@click.pass_context
def follow_command(context: click.Context, command: uuid.UUID, timeout: float, *, as_json: bool) -> None:
    """Wait for the end of a COMMAND (its id), telling each state; the exit status is 1 unless it is done."""
    hub = connected(context)
    _attend(context, hub, command, timeout, telling=True, as_json=as_json)


@command_command.command("cancel")
@click.argument("command", type=click.UUID)
@_timeout_option
@json_option
@click.pass_context
def cancel_command(context: click.Context, command: uuid.UUID, timeout: float, *, as_json: bool) -> None:
    """Call a COMMAND (its id) off and wait for its end: what has begun may be done by then all the same."""
    hub = connected(context)
    hub.create(f"{Command.path}/{command}/cancel")
    end = hub.wait_command(command, timeout)
    if as_json:
        json_lines([hub.get(f"{Command.path}/{command}")])
    else:
        click.echo(f"{end.state}: {end.cause}" if end.cause else end.state)
    if not end.final:
        raise NotClear(f"it has not ended after {timeout:g} s: its gateway does not answer")
