"""``api batch``: the same call on many meters, how far it is, and calling it off."""

import uuid

import click

from client.cli import REFUSED, connected
from client.fields import read_fields
from client.hub import Hub
from client.records import CommandBatch, Gateway, Meter, TaskGroup
from client.shown import facts, instant, json_lines, json_option, note, plain, table

_timeout_option = click.option(
    "--timeout", type=click.FloatRange(0), default=3600.0, show_default=True, help="Seconds to wait for the end."
)


@click.group("batch")
def batch_command() -> None:
    """Commands to many meters at once."""


@batch_command.command("ask")
@click.argument("call")
@click.argument("kwargs", nargs=-1)
@click.option("--group", help="All meters of this task group; its name or id.")
@click.option("--gateway", help="All meters of this gateway; its name or id.")
@click.option("--meter", "meters", multiple=True, help="This meter; a name or an id; may be given more than once.")
@click.option("--context", "context_name", default="generic_lis200", show_default=True, help="Execution context.")
@click.option("--per-second", type=click.IntRange(1, 1000), help="Commands that are sent in a second, at most.")
@click.option("--no-wait", is_flag=True, help="Say the batch's id and do not wait for its end.")
@_timeout_option
@json_option
@click.pass_context
def ask_command(
    context: click.Context,
    call: str,
    kwargs: tuple[str, ...],
    group: str | None,
    gateway: str | None,
    meters: tuple[str, ...],
    context_name: str,
    per_second: int | None,
    timeout: float,
    *,
    no_wait: bool,
    as_json: bool,
) -> None:
    r"""Make a CALL on many meters; its arguments are name=text or name:=JSON. The exit status is 1 unless all are done.

    \b
      metergate-hub api batch ask set_time --gateway substation-7
      metergate-hub api batch ask read_single_value address=2:300 --group hourly
    """
    if [group, gateway, meters or None].count(None) != 2:  # noqa: PLR2004 - all but one
        raise click.UsageError("say which meters: with --group, with --gateway, or with --meter for each")
    hub = connected(context)
    asked: dict[str, object] = {
        "meter_execution_type": context_name,
        "task_call": call,
        "task_kwargs": read_fields(kwargs),
    }
    if group is not None:
        asked["task_group"] = hub.find(TaskGroup, group).id
    if gateway is not None:
        asked["gateway"] = hub.find(Gateway, gateway).id
    if meters:
        asked["meter_devices"] = [hub.find(Meter, one).id for one in meters]
    if per_second is not None:
        asked["per_second"] = per_second
    made = hub.create(CommandBatch, asked, idempotency_key=str(uuid.uuid4()))
    if no_wait:
        click.echo(made.id)
    else:
        _attend(context, hub, made.id, timeout, as_json=as_json)


def _attend(context: click.Context, hub: Hub, batch: uuid.UUID, timeout: float, *, as_json: bool) -> None:
    for told in hub.follow_batch(batch, timeout):
        note(f"{told.ended} of {told.commands} have ended" + (f", {told.refused} refused" if told.refused else ""))
    end = hub.get(CommandBatch, batch)
    _show(hub, batch, as_json=as_json)
    if not end.final:
        note(f"they have not ended after {timeout:g} s; metergate-hub api batch follow {batch} waits on")
    if end.states.get("done", 0) != end.meters:
        context.exit(REFUSED)


def _show(hub: Hub, batch: uuid.UUID, *, as_json: bool) -> None:
    whole = hub.get(f"{CommandBatch.path}/{batch}")
    if as_json:
        json_lines([whole])
        return
    facts(
        {
            "batch": whole["id"],
            "call": f"{whole['meter_execution_type']} {whole['task_call']}",
            "made": instant(whole["created_at"]),
            "meters": f"{whole['meters']}, of which nobody can call {whole['refused']}",
            "commands": ", ".join(f"{count} {state}" for state, count in whole["states"].items() if count),
        }
    )
    for one in whole["causes"]:
        click.echo(f"  {one['count']} {one['state']} ({one['kind']}): {plain(one['cause'])}")


@batch_command.command("show")
@click.argument("batch", type=click.UUID)
@json_option
@click.pass_context
def show_command(context: click.Context, batch: uuid.UUID, *, as_json: bool) -> None:
    """Show a BATCH (its id): how many commands are in which state, and why those that failed did."""
    _show(connected(context), batch, as_json=as_json)


@batch_command.command("follow")
@click.argument("batch", type=click.UUID)
@_timeout_option
@json_option
@click.pass_context
def follow_command(context: click.Context, batch: uuid.UUID, timeout: float, *, as_json: bool) -> None:
    """Wait for the end of a BATCH (its id), telling how far it is; the exit status is 1 unless all are done."""
    _attend(context, connected(context), batch, timeout, as_json=as_json)


@batch_command.command("cancel")
@click.argument("batch", type=click.UUID)
@json_option
@click.pass_context
def cancel_command(context: click.Context, batch: uuid.UUID, *, as_json: bool) -> None:
    """Call off all commands of a BATCH (its id) that have not ended."""
    hub = connected(context)
    hub.create(f"{CommandBatch.path}/{batch}/cancel")
    _show(hub, batch, as_json=as_json)


@batch_command.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@json_option
@click.pass_context
def list_command(context: click.Context, limit: int, *, as_json: bool) -> None:
    """List batches, the newest first."""
    hub = connected(context)
    found = hub.list(CommandBatch.path, most=limit, ordering="-created_at")
    if as_json:
        json_lines(found)
        return
    rows = ([one["id"], instant(one["created_at"]), one["task_call"], one["meters"], one["ended"]] for one in found)
    table(["BATCH", "MADE", "CALL", "METERS", "ENDED"], rows, "there are no batches")
