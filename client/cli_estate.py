"""``api meters`` and ``api gateways``: what there is, and how it is."""

import contextlib
from typing import Any

import click

from client.cli import connected
from client.errors import NotAllowed
from client.hub import Hub
from client.records import Gateway, Meter, Organization
from client.shown import facts, instant, json_lines, json_option, table

_LINES = "metering/network-interfaces"
_LAST_RUNS = 5


@click.group("meters")
def meters_command() -> None:
    """Meters: which there are, and how one is."""


@meters_command.command("list")
@click.option("--gateway", help="Only those on its lines and those that push to it; a gateway's id or name.")
@click.option("--organization", help="Only this organization's; a name or an id.")
@click.option("--serial", help="Only those with this manufacturer's serial number.")
@json_option
@click.pass_context
def list_meters_command(
    context: click.Context, gateway: str | None, organization: str | None, serial: str | None, *, as_json: bool
) -> None:
    r"""List meters.

    \b
      metergate-hub api meters list --gateway substation-7
      metergate-hub api meters list --json | jq -r 'select(.network_interface == null) | .name'
    """
    hub = connected(context)
    found = hub.list(
        Meter.path,
        gateway=hub.find(Gateway, gateway).id if gateway else None,
        organization=hub.find(Organization, organization).id if organization else None,
        manufacturer_serial=serial,
    )
    if as_json:
        json_lines(found)
        return
    rows = (
        [one["name"], one["manufacturer_serial"], one["protocol"], one["network_interface_info"], one["id"]]
        for one in found
    )
    table(["NAME", "SERIAL", "PROTOCOL", "LINE", "ID"], rows, "there are no such meters")


@meters_command.command("show")
@click.argument("meter")
@json_option
@click.pass_context
def show_meter_command(context: click.Context, meter: str, *, as_json: bool) -> None:
    r"""Show a METER (its name or id), what it is read for, how complete it is, and its last runs.

    \b
      metergate-hub api meters show "Heating plant"
    """
    hub = connected(context)
    found = hub.find(Meter, meter)
    one = hub.get(f"{Meter.path}/{found.id}")
    if as_json:
        json_lines([one])
        return
    facts(
        {
            "name": one["name"],
            "id": one["id"],
            "serial number": one["manufacturer_serial"],
            "protocol": one["protocol"],
            "address": one["iec62056_21_address"],
            "type": _name(hub, "metering/meter-device-types", one["type"]),
            "line": one["network_interface_info"],
            "gateway": _gateway_of(hub, found),
            "task groups": [_name(hub, "metering/amr-task-groups", key) for key in one["task_groups"]],
            "own tasks": [_name(hub, "metering/amr-tasks", key) for key in one["meter_tasks"]],
            "30 days": _completeness(hub, found),
        }
    )
    with contextlib.suppress(NotAllowed):
        runs = list(hub.list("runs", most=_LAST_RUNS, meter_device=found.id))
        click.echo()
        table(
            ["LAST RUNS", "OUTCOME", "READINGS", "CAUSE"],
            ([instant(run["ended"]), run["outcome"], run["readings"], run["cause"]] for run in runs),
            "no run yet",
        )


def _name(hub: Hub, path: str, key: str | None) -> str:
    """Return what something is called; its id where its name is not for who asks."""
    if key is None:
        return ""
    with contextlib.suppress(NotAllowed):
        return str(hub.get(f"{path}/{key}")["name"])
    return key


def _gateway_of(hub: Hub, meter: Meter) -> str:
    if meter.network_interface is None:
        return ""
    with contextlib.suppress(NotAllowed):
        line = hub.get(f"{_LINES}/{meter.network_interface}")
        if line["gateway"] is None:
            return "none: nobody polls this line"
        gateway = hub.get(Gateway, line["gateway"])
        return f"{gateway.gateway_id} ({_presence(gateway)})"
    return "not for this token to see"


def _presence(gateway: Gateway) -> str:
    if gateway.online:
        return "online"
    return f"away since {instant(gateway.last_seen)}" if gateway.last_seen is not None else "never seen"


def _completeness(hub: Hub, meter: Meter) -> str:
    with contextlib.suppress(NotAllowed):
        total = hub.get("completeness", meter_device=meter.id, reasons=False)
        if not total["expected"]:
            return "nothing was expected"
        return f"{total['stored']} of {total['expected']} expected readings are there ({total['percent']} %)"
    return "not for this token to see"


@click.command("gateways")
@click.argument("gateway", required=False)
@click.option("--organization", help="Only this organization's; a name or an id.")
@click.option("--offline", is_flag=True, help="Only those that are away.")
@json_option
@click.pass_context
def gateways_command(
    context: click.Context, gateway: str | None, organization: str | None, *, offline: bool, as_json: bool
) -> None:
    r"""List gateways, or show one GATEWAY: presence, plan, outbox, problems, errors.

    PLAN is what it runs, and what it should: 7, or 6 of 7. WAITING is how many rows its outbox has.

    \b
      metergate-hub api gateways --offline
      metergate-hub api gateways substation-7
    """
    hub = connected(context)
    if gateway is not None:
        one = hub.get(f"{Gateway.path}/{hub.find(Gateway, gateway).id}")
        if as_json:
            json_lines([one])
        else:
            _show_gateway(one)
        return
    owner = hub.find(Organization, organization).id if organization else None
    found = hub.list(Gateway.path, organization=owner, online=False if offline else None)
    if as_json:
        json_lines(found)
        return
    table(
        ["GATEWAY", "NAME", "ONLINE", "LAST SEEN", "PLAN", "WAITING", "PROBLEMS", "STATUS"],
        (
            [
                one["gateway_id"],
                one["name"],
                one["online"],
                instant(one["last_seen"]),
                _plan(one),
                one["depth"],
                len(one["problems"]),
                one["status"],
            ]
            for one in found
        ),
        "no gateway is away" if offline else "there are no gateways",
    )


def _plan(one: dict[str, Any]) -> str:
    desired, applied = one["desired_revision"], one["applied_revision"]
    return str(desired) if one["in_step"] else f"{applied} of {desired}"


def _show_gateway(one: dict[str, Any]) -> None:
    oldest = f", the oldest since {instant(one['oldest'])}" if one["oldest"] else ""
    facts(
        {
            "gateway": one["gateway_id"],
            "id": one["id"],
            "name": one["name"],
            "online": one["online"],
            "last seen": instant(one["last_seen"]),
            "plan": _plan(one),
            "outbox": f"{one['depth']} rows{oldest}",
            "clock": "believed" if one["clock_believed"] else "not believed: nothing scheduled runs",
            "software": one["software"],
            "backfill": "paused" if one["backfill_paused"] else "on",
            "status": one["status"],
        }
    )
    for heading, kept in (("problems", one["problems"]), ("errors of the last week", one["errors"])):
        if kept:
            click.echo(f"\n{heading}:")
            json_lines(kept)
