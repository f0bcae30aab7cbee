"""``api get``, ``post``, ``put``, ``patch``, ``delete``: everything that has no command of its own, by its path."""

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from client.cli import connected
from client.fields import read_fields
from client.shown import json_lines, note

_body_option = click.option(
    "--body", type=click.File("rb"), help="File with the whole JSON body in place of fields; - is standard input."
)
_if_match_option = click.option("--if-match", metavar="ETAG", help="Only if nobody changed it since (see get --etag).")


def _body(fields: tuple[str, ...], body: BinaryIO | None) -> Any:  # noqa: ANN401 - JSON
    """Return what is to be sent.

    Raises:
        click.UsageError: when it is no JSON, or said twice.
    """
    if body is None:
        return read_fields(fields)
    if fields:
        raise click.UsageError("give fields or --body, not both")
    try:
        return msgspec.json.decode(body.read())
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--body is no JSON: {error}") from None


def _print(answer: Any) -> None:  # noqa: ANN401 - JSON
    if answer is not None:
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))


@click.command("get")
@click.argument("path")
@click.argument("filters", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All pages of a list, one object a line.")
@click.option("--etag", is_flag=True, help="Say the object's ETag on standard error.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the answer as it comes to a file."
)
@click.pass_context
def get_command(
    context: click.Context, path: str, filters: tuple[str, ...], output: Path | None, *, everything: bool, etag: bool
) -> None:
    r"""Print what a PATH answers; FILTERS are name=text.

    \b
      metergate-hub api get metering/amr-tasks
      metergate-hub api get runs outcome=comms start_time=2026-03-01T00:00:00Z --all | jq -r .cause
      metergate-hub api get schema/openapi.json --output openapi.json
    """
    hub = connected(context)
    query = read_fields(filters)
    if output is not None:
        with output.open("wb") as file:
            hub.export(path, file, "*/*", **query)
    elif everything:
        json_lines(hub.list(path, **query))
    elif etag:
        answer, tag = hub.get_with_etag(path)
        _print(answer)
        note(f"ETag: {tag or 'none'}")
    else:
        _print(hub.get(path, **query))


@click.command("post")
@click.argument("path")
@click.argument("fields", nargs=-1)
@_body_option
@click.option(
    "--idempotency-key", help="A word of yours: however often it is sent, it is done once, where the hub can."
)
@click.pass_context
def post_command(
    context: click.Context,
    path: str,
    fields: tuple[str, ...],
    body: BinaryIO | None,
    idempotency_key: str | None,
) -> None:
    r"""Create something, or have something done; FIELDS are name=text or name:=JSON.

    \b
      metergate-hub api post metering/meter-reading-series organization=ID name=2:300 unit=m3
      metergate-hub api post metering/new-meter-readings --body readings.json
    """
    sent = _body(fields, body)
    _print(connected(context).create(path, sent if sent != {} else None, idempotency_key=idempotency_key))


@click.command("put")
@click.argument("path")
@click.argument("fields", nargs=-1)
@_body_option
@_if_match_option
@click.pass_context
def put_command(
    context: click.Context, path: str, fields: tuple[str, ...], body: BinaryIO | None, if_match: str | None
) -> None:
    r"""Replace an object; what is left out gets its default. FIELDS are name=text or name:=JSON.

    \b
      metergate-hub api put metering/amr-tasks/ID --body task.json
    """
    headers = {"If-Match": if_match} if if_match else {}
    sent = msgspec.json.encode(_body(fields, body))
    answer = connected(context).send("PUT", path, None, sent, headers=headers)
    _print(msgspec.json.decode(answer.body))


@click.command("patch")
@click.argument("path")
@click.argument("fields", nargs=-1)
@_body_option
@_if_match_option
@click.pass_context
def patch_command(
    context: click.Context, path: str, fields: tuple[str, ...], body: BinaryIO | None, if_match: str | None
) -> None:
    r"""Change what FIELDS say of an object: name=text or name:=JSON.

    \b
      metergate-hub api patch gateways/ID backfill_paused:=true
      metergate-hub api patch metering/amr-tasks/ID schedule=hourly task_kwargs:='{"address": "2:300"}'
    """
    _print(connected(context).update(path, _body(fields, body), if_match=if_match))


@click.command("delete")
@click.argument("path")
@click.argument("filters", nargs=-1)
@_if_match_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def delete_command(
    context: click.Context, path: str, filters: tuple[str, ...], if_match: str | None, *, yes: bool
) -> None:
    r"""Delete what is at a PATH.

    \b
      metergate-hub api delete metering/amr-tasks/ID
      metergate-hub api delete metering/meter-devices/ID with_readings=true --yes
    """
    hub = connected(context)
    query = read_fields(filters)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {path} at {hub.url}?", abort=True, err=True)
    hub.delete(path, if_match=if_match, **query)
