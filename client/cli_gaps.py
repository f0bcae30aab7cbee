"""``api why``, ``gaps`` and ``backfill``: what is missing, why, and what becomes of it; in words."""

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import click

from client.cli import connected, since_option, until_option
from client.hub import Hub
from client.records import Backfill, Gateway, Meter, Organization, TaskGroup
from client.shown import instant, json_lines, json_option, plain, table

STATE_WORDS = {
    "on_gateway": "read, and still on its gateway",
    "due": "not due yet",
    "being_fetched": "being fetched",
    "unrecoverable": "lost for good",
    "missing": "missing",
}
"""What a reading can be that is not there."""

REASON_WORDS = {
    "gateway_offline": "the gateway is away",
    "line": "the line failed, or was busy too long",
    "meter_silent": "the meter does not answer",
    "refused": "the meter, or the gateway, refused the call",
    "wrong_meter": "another serial number answered",
    "clock_not_believed": "the gateway doubts its clock and runs nothing",
    "not_in_archive": "the archive was read, and did not have it",
    "rejected": "it is there, but validation rejects it",
    "staged": "it arrived, but cannot be a reading yet",
    "lost_on_gateway": "the gateway had to give it up",
    "interrupted": "the run was interrupted",
    "cancelled": "the run was cancelled",
    "skipped": "the missed-run policy left it out",
    "no_gateway": "the meter is on no line of a gateway",
    "not_brought": "nothing is known that could have brought it",
}
"""Why a reading is missing."""

_OPEN = ("waiting", "fetching", "settling", "paused", "gave_up")


@click.command("why")
@click.argument("meter")
@since_option
@until_option
@json_option
@click.pass_context
def why_command(
    context: click.Context, meter: str, since: dt.datetime | None, until: dt.datetime | None, *, as_json: bool
) -> None:
    r"""Say what of a METER's readings is not there, since when, why, and what becomes of it.

    Of the last 30 days unless --since says otherwise. With --json: one span of missing readings a line.

    \b
      metergate-hub api why "Heating plant"
      metergate-hub api why "Heating plant" --since 7d
    """
    hub = connected(context)
    found = hub.find(Meter, meter)
    times = {"start": since, "end": until}
    total = hub.get("completeness", meter_device=found.id, **times)
    spans = list(_spans(hub, found, times)) if total["stored"] < total["expected"] else []
    if as_json:
        json_lines(spans)
        return
    click.echo(f"{plain(found.name)}, {instant(total['start'])} to {instant(total['end'])}: {_counted(total)}")
    for span in spans:
        click.echo(_sentence(span))
    open_ones = [one for state in _OPEN for one in hub.list(Backfill, meter_device=found.id, state=state)]
    for one in open_ones:
        tries = f", {one.tries} tries failed" if one.tries else ""
        click.echo(
            f"backfill {one.id}: {one.state}, archive {one.archive}, {instant(one.start)} to {instant(one.end)}{tries}"
            + (f": {plain(one.evidence)}" if one.evidence else "")
        )


def _counted(total: Mapping[str, Any]) -> str:
    if not total["expected"]:
        return "nothing was expected"
    said = f"{total['stored']} of {total['expected']} expected readings are there ({total['percent']} %)"
    lacking = [f"{total[state]} {words}" for state, words in STATE_WORDS.items() if total[state]]
    if total["unexplained"]:
        lacking.append(f"{total['unexplained']} not looked into")
    return "; ".join([said, *lacking])


def _spans(hub: Hub, meter: Meter, times: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """Yield the spans of each series that are not stored."""
    strips = hub.get("completeness/strip", meter_device=meter.id, days=1)["results"]
    for series in {strip["series"]: strip["series_name"] for strip in strips}.items():
        for slots in hub.get("completeness/slots", meter_device=meter.id, series=series[0], **times):
            for span in slots["spans"]:
                if span["state"] != "stored":
                    yield {"meter": meter.name, "series": series[1], "interval": slots["interval"], **span}


def _sentence(span: Mapping[str, Any]) -> str:
    state = STATE_WORDS.get(span["state"], span["state"])
    reason = REASON_WORDS.get(span["reason"], span["reason"])
    when = instant(span["start"])
    if span["count"] > 1:
        when += f" to {instant(span['end'])}"
    said = f"  {span['series']}  {when}  {span['count']} {state}"
    if reason:
        said += f": {reason}"
    if span["since"]:
        said += f" since {instant(span['since'])}"
    return said + (f" ({plain(span['evidence'])})" if span["evidence"] else "")


@click.command("gaps")
@click.option("--organization", help="Only this organization's; a name or an id.")
@click.option("--gateway", help="Only of this gateway; its name or id.")
@click.option("--group", help="Only of this task group; its name or id.")
@click.option("--state", type=click.Choice(["missing", "being_fetched", "on_gateway", "unrecoverable"]))
@click.option("--reason", type=click.Choice(sorted(REASON_WORDS)), help="Only gaps for this reason.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The worst so many.")
@since_option
@until_option
@json_option
@click.pass_context
def gaps_command(
    context: click.Context,
    organization: str | None,
    gateway: str | None,
    group: str | None,
    state: str | None,
    reason: str | None,
    limit: int,
    since: dt.datetime | None,
    until: dt.datetime | None,
    *,
    as_json: bool,
) -> None:
    r"""List the meters that lack readings, the worst first.

    \b
      metergate-hub api gaps
      metergate-hub api gaps --reason meter_silent       # whom to send somebody to
      metergate-hub api gaps --state unrecoverable --since 7d
    """
    hub = connected(context)
    found = hub.list(
        "completeness/gaps",
        most=limit,
        organization=hub.find(Organization, organization).id if organization else None,
        gateway=hub.find(Gateway, gateway).id if gateway else None,
        group=hub.find(TaskGroup, group).id if group else None,
        state=state,
        reason=reason,
        start=since,
        end=until,
    )
    if as_json:
        json_lines(found)
        return
    table(
        ["METER", "MISSING", "FETCHED", "ON GATEWAY", "LOST", "SINCE", "WHY"],
        (
            [
                one["meter"],
                one["missing"],
                one["being_fetched"],
                one["on_gateway"],
                one["unrecoverable"],
                instant(one["start"]),
                ", ".join(f"{REASON_WORDS.get(why, why)} ({count})" for why, count in one["missing_by_reason"].items()),
            ]
            for one in found
        ),
        "no meter lacks anything",
    )


@click.group("backfill")
def backfill_command() -> None:
    """Gaps that are fetched from meters' archives: what is asked for, what waits, what was given up."""


@backfill_command.command("ask")
@click.option("--meter", help="A meter's name or id.")
@click.option("--group", help="All meters of this task group; its name or id.")
@click.option("--gateway", help="All meters of this gateway; its name or id.")
@since_option
@until_option
@click.option("--dry-run", is_flag=True, help="Only say what it costs, in minutes of each line.")
@json_option
@click.pass_context
def ask_command(
    context: click.Context,
    meter: str | None,
    group: str | None,
    gateway: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    r"""Have what is missing of a time fetched: of a --meter, a --group or a --gateway.

    \b
      metergate-hub api backfill ask --meter "Heating plant" --since 7d --dry-run
      metergate-hub api backfill ask --gateway substation-7 --since 2026-03-01 --until 2026-03-08
    """
    if since is None or [meter, group, gateway].count(None) != 2:  # noqa: PLR2004 - all but one
        raise click.UsageError(
            "say of what, with one of --meter, --group and --gateway, and from when on, with --since"
        )
    hub = connected(context)
    asked = {
        "start": since,
        "end": until or dt.datetime.now(dt.UTC),
        "meter_device": hub.find(Meter, meter).id if meter else None,
        "task_group": hub.find(TaskGroup, group).id if group else None,
        "gateway": hub.find(Gateway, gateway).id if gateway else None,
        "dry_run": dry_run,
    }
    answer = hub.create("backfills", asked)
    if as_json:
        json_lines([answer])
        return
    click.echo(f"{answer['missing']} readings of {answer['meters']} meters are missing")
    if answer["without_archive"]:
        click.echo(f"{answer['without_archive']} of them cannot be read again")
    if answer["in_hand"]:
        click.echo(f"{answer['in_hand']} windows are being fetched already")
    minutes = f"{answer['line_minutes']:g} minutes of their lines"
    click.echo(f"{answer['windows']} windows {'would take' if dry_run else 'take'} {minutes}")
    if answer["gateways_away"]:
        click.echo(f"{len(answer['gateways_away'])} gateways are away, and waited for")
    if answer["request"]:
        click.echo(f"request {answer['request']}: metergate-hub api backfill list --request {answer['request']}")


@backfill_command.command("list")
@click.option("--meter", help="Only of this meter; its name or id.")
@click.option("--gateway", help="Only of this gateway; its name or id.")
@click.option("--state", help="Only in this state, such as gave_up.")
@click.option("--request", type=click.UUID, help="Only of this request.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@json_option
@click.pass_context
def list_backfills_command(
    context: click.Context,
    meter: str | None,
    gateway: str | None,
    state: str | None,
    request: uuid.UUID | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    r"""List backfills, the newest first.

    \b
      metergate-hub api backfill list --state gave_up
    """
    hub = connected(context)
    found = hub.list(
        Backfill.path,
        most=limit,
        meter_device=hub.find(Meter, meter).id if meter else None,
        gateway=hub.find(Gateway, gateway).id if gateway else None,
        state=state,
        request=request,
    )
    if as_json:
        json_lines(found)
        return
    names: dict[str, str] = {}
    table(
        ["BACKFILL", "METER", "ARCHIVE", "FROM", "TO", "STATE", "WHY"],
        (
            [
                one["id"],
                _called(hub, names, one["meter_device"]),
                one["archive"],
                instant(one["start"]),
                instant(one["end"]),
                one["state"],
                one["evidence"],
            ]
            for one in found
        ),
        "there are no such backfills",
    )


def _called(hub: Hub, names: dict[str, str], meter: str) -> str:
    if meter not in names:
        names[meter] = hub.get(Meter, meter).name
    return names[meter]


def _verb(name: str, text: str) -> None:
    @backfill_command.command(name, help=text)
    @click.argument("backfill", type=click.UUID)
    @json_option
    @click.pass_context
    def change_command(context: click.Context, backfill: uuid.UUID, *, as_json: bool) -> None:
        changed = connected(context).create(f"{Backfill.path}/{backfill}/{name}")
        if as_json:
            json_lines(changed)
        else:
            table(["BACKFILL", "STATE"], ([one["id"], one["state"]] for one in changed), "")


_verb("pause", "Leave a BACKFILL, or all of a request (an id), where it is.")
_verb("resume", "Go on with what was paused; try anew what was given up or cancelled.")
_verb("cancel", "Leave the gap of a BACKFILL, or of all of a request, as it is.")
