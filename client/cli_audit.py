"""``api audit``: who changed what, when, and what it was before."""

import contextlib
import datetime as dt
from collections.abc import Mapping
from typing import Any

import click

from client.cli import connected, since_option, until_option
from client.errors import NotAllowed, NotThere
from client.hub import Hub
from client.records import Gateway, Meter, Organization, Record, Series, Task, TaskGroup
from client.shown import instant, json_lines, json_option, plain, table

_KINDS: Mapping[str, type[Record]] = {
    "AMR task": Task,
    "AMR task group": TaskGroup,
    "gateway": Gateway,
    "meter device": Meter,
    "organization": Organization,
    "reading series": Series,
}
"""What things of these kinds are called can be asked."""

_LONGEST = 100
"""Characters of a change in a table; --json has all of it."""


@click.command("audit")
@click.option("--meter", help="Only changes of this meter; its name or id.")
@click.option("--gateway", help="Only changes of this gateway; its name or id.")
@click.option("--object", "object_id", help="Only changes of what has this id.")
@click.option("--kind", help="Only changes of things of this kind, such as 'AMR task'.")
@click.option("--by", "actor_name", help="Only changes by this token or user.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@since_option
@until_option
@json_option
@click.pass_context
def audit_command(
    context: click.Context,
    meter: str | None,
    gateway: str | None,
    object_id: str | None,
    kind: str | None,
    actor_name: str | None,
    limit: int,
    since: dt.datetime | None,
    until: dt.datetime | None,
    *,
    as_json: bool,
) -> None:
    r"""List who changed what, the newest first.

    \b
      metergate-hub api audit --since 7d
      metergate-hub api audit --meter "Heating plant"
      metergate-hub api audit --by billing --json
    """
    hub = connected(context)
    if [meter, gateway, object_id].count(None) < 2:  # noqa: PLR2004 - all but one
        raise click.UsageError("give one of --meter, --gateway and --object")
    if meter is not None:
        object_id = str(hub.find(Meter, meter).id)
    if gateway is not None:
        object_id = str(hub.find(Gateway, gateway).id)
    found = hub.list(
        "audit",
        most=limit,
        object_id=object_id,
        kind=kind,
        actor_name=actor_name,
        start_time=since,
        end_time=until,
    )
    if as_json:
        json_lines(found)
        return
    names: dict[str, str] = {}
    rows = (
        [instant(one["at"]), _who(one), one["action"], one["kind"], _what(hub, names, one), _how(one)] for one in found
    )
    table(["WHEN", "WHO", "DID", "KIND", "WHAT", "HOW"], rows, "nothing was changed")


def _who(one: Mapping[str, Any]) -> str:
    return f"{one['actor_name']} ({one['actor_kind']})"


def _what(hub: Hub, names: dict[str, str], one: Mapping[str, Any]) -> str:
    """Return what the object is called, where that is told or can be asked, else its id."""
    told = {**(one["before"] or {}), **(one["after"] or {})}
    named = told.get("name") or told.get("gateway_id") or told.get("username")
    key, kind = one["object_id"], _KINDS.get(one["kind"])
    if named or key is None:
        return str(named or "")
    if key not in names:
        names[key] = key
        with contextlib.suppress(NotThere, NotAllowed):
            names[key] = str(getattr(hub.get(kind, key), kind.named_by)) if kind is not None else key
    return names[key]


def _how(one: Mapping[str, Any]) -> str:
    """Tell a change field by field; what is new or gone is all of it, which is too much for a line."""
    before, after = one["before"], one["after"]
    if not before or not after:
        return ""
    told = "; ".join(f"{name}: {plain(before.get(name))} -> {plain(after.get(name))}" for name in after)
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 3]}..."
