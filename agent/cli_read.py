"""``metergate-agent read``: one call against one meter without any hub, for commissioning and for scripts.

Rules: nothing is remembered and nothing is sent anywhere. Standard output has readings only (with ``--json`` one per
line), everything for people goes to standard error or to the table. How a line is reached and how it ends is in
``agent.cli_meter``.
"""

import datetime as dt
import json
import time
import zoneinfo
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from agent.arguments import in_words_of_here, pairs, rfc3339
from agent.cli_meter import PASSWORD_VARIABLE, WIDE, LineAsked, Progress, Stage, line_asked, line_options, on_a_line
from agent.session import Session
from agent.tables import table
from contexts.catalogue import CONTEXTS, CallError, check_call, find_call, kwargs_from_text
from contexts.meters import Answer, Moment, Value

_CALLS = "\n".join(f"  {context.name}: {', '.join(context.calls)}" for context in CONTEXTS.values())
_HELP = f"""Make one call against a meter and print what it brings.

ENDPOINT is a serial port (/dev/ttyUSB0, better /dev/serial/by-id/...) or a device server (socket://host:port).
CONTEXT says what kind of meter it is, CALL what to ask, and key=value are the arguments of the call.

\b
Contexts and their calls:
{_CALLS}

\b
A value from the optical port, and the same over TCP as JSON:
  metergate-agent read /dev/ttyUSB0 generic_lis200 read_single_value address=2:300
  metergate-agent read socket://10.0.0.7:4001 generic_lis200 read_single_value address=7:310_1 --json

\b
The interval archive (3) of one day; 3 is also the position of its time column:
  metergate-agent read /dev/ttyUSB0 generic_lis200 read_archive_by_date archive_number=3 control_position=3 \\
      start_date=2026-01-15T06:00:00 end_date=2026-01-16T06:00:00 --timezone Europe/Berlin

\b
A meter on an RS-485 bus at a fixed 19200 baud, behind a lock:
  {PASSWORD_VARIABLE}=... metergate-agent read /dev/ttyS1 generic_lis200 set_time \\
      --address 4711 --rate 19200 --fixed-rate --lock 3 --timezone Europe/Berlin

\b
What passes on the line, shown and recorded (replay plays it again):
  metergate-agent read /dev/ttyUSB0 generic_lis200 read_single_value address=1:180 --trace --capture north.jsonl

What a call brings is judged as a whole (rows that follow tell which pass of autumn's repeated hour a row was, and
what does not hold together is read again), so it is printed when the call is done; `archive --json` prints each row
as it comes. Dates without an offset are in the meter's zone (--timezone). Exit status: 0 done, 1 failed (the cause is
on standard error), 2 wrong usage.
"""


class ReadAsked(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="read"):
    """One call, as it was typed."""

    on: LineAsked
    context: str
    call: str
    kwargs: dict[str, str]
    meter: str = ""
    as_json: bool = False
    events: bool = False

    async def carry_out(self, stage: Stage) -> int:
        """Make the call and print what it brings."""
        call = find_call(self.context, self.call)
        typed = kwargs_from_text(self.context, self.call, self.kwargs)
        progress = Progress(stage)
        begun = time.monotonic()

        async def between(session: Session) -> bool:
            progress.show(f"{session.archives.rows_read} rows, {time.monotonic() - begun:.0f} s")
            return False

        try:
            async with stage.session(self.on, name=self.meter, between_blocks=between, manner=call.manner) as session:
                name = self.meter or await session.serial_number()
                now = stage.now()
                kwargs = check_call(self.context, self.call, typed)
                answer = await call.run(session, Moment(now=now, reference=now), kwargs)
                ended = stage.now()
        finally:
            progress.clear()
        if self.as_json:
            _print_json(name, answer, ended, events=self.events)
        else:
            _print_table(name, answer, ended, zoneinfo.ZoneInfo(self.on.timezone))
        if answer.problems:
            raise click.ClickException("\n".join(answer.problems))
        return 0


@click.command("read", help=_HELP, context_settings=WIDE)
@click.argument("endpoint")
@click.argument("context")
@click.argument("call")
@click.argument("kwargs", metavar="[KEY=VALUE]...", nargs=-1)
@line_options
@click.option("--meter", default="", help="Name for the meter in the output; else its serial number is read and used.")
@click.option("--json", "as_json", is_flag=True, help="One reading per line as a JSON object.")
@click.option("--events", is_flag=True, help="With --json: also what the meter logged, one object per line.")
def command(
    endpoint: str,
    context: str,
    call: str,
    kwargs: tuple[str, ...],
    *,
    meter: str,
    as_json: bool,
    events: bool,
    trace: bool,
    capture: Any,  # noqa: ANN401 - a path, which line_options has checked
    **line: Any,  # noqa: ANN401 - the options of the line
) -> None:
    """Make one call against a meter and print what it brings."""
    given = _checked(context, call, kwargs, line["timezone"])
    on, code = line_asked(endpoint, **line)
    if find_call(context, call).archive and not line["timezone"]:
        click.echo(f"the meter's clock is taken to be in {on.timezone}; --timezone says otherwise", err=True)
    asked = ReadAsked(on=on, context=context, call=call, kwargs=given, meter=meter, as_json=as_json, events=events)
    on_a_line(asked, code, trace=trace, capture=capture)


def _checked(context: str, call: str, kwargs: Sequence[str], timezone: str) -> dict[str, str]:
    """Check what can be checked without a meter; returns the arguments of the call as texts."""
    try:
        given = pairs(kwargs)
        kwargs_from_text(context, call, given)
    except CallError as error:
        raise click.UsageError(in_words_of_here(error)) from error
    if find_call(context, call).writes and not timezone:
        raise click.UsageError(f"{call} writes to the meter; say with --timezone in which zone its clock is")
    return given


def _stamped(value: Value, ended: dt.datetime) -> dt.datetime:
    """The meter's own time, or for a value without one the gateway's UTC in milliseconds when the answer ended."""
    return value.timestamp or ended.replace(microsecond=ended.microsecond // 1000 * 1000)


def _print_json(meter: str, answer: Answer, ended: dt.datetime, *, events: bool) -> None:
    for value in answer.values:
        reading = {
            "meter": meter,
            "series": value.series,
            "timestamp": rfc3339(_stamped(value, ended)),
            "value": format(value.value, "f"),
            "unit": value.unit,
        }
        click.echo(json.dumps(reading, ensure_ascii=False))
    for event in answer.events if events else ():
        logged = {
            "meter": meter,
            "event": event.code,
            "timestamp": rfc3339(event.timestamp),
            "title": event.title,
            "content": event.content,
        }
        click.echo(json.dumps(logged, ensure_ascii=False))
    if answer.result:
        click.echo(json.dumps({"result": dict(answer.result)}, ensure_ascii=False, default=str), err=True)


def _print_table(meter: str, answer: Answer, ended: dt.datetime, zone: zoneinfo.ZoneInfo) -> None:
    click.echo(f"meter {meter}, times in {zone.key}")

    def local(instant: dt.datetime) -> str:
        return instant.astimezone(zone).isoformat(sep=" ", timespec="seconds")

    if answer.values:
        click.echo("")
        rows = [(local(_stamped(v, ended)), v.series, format(v.value, "f"), v.unit) for v in answer.values]
        _columns(("timestamp", "series", "value", "unit"), rows, right={2})
    if answer.events:
        click.echo("")
        _columns(("logged", "event", "meaning"), [(local(e.timestamp), e.code, e.title) for e in answer.events])
    plain = [(key, str(value)) for key, value in answer.result.items() if not _is_listed(value) and str(value)]
    if plain:
        click.echo("")
        _columns(("result", ""), plain)
    for listed in filter(_is_listed, answer.result.values()):
        click.echo("")
        head = list(dict.fromkeys(key for item in listed for key in item))
        _columns(head, [[str(item.get(key, "")) for key in head] for item in listed])


def _is_listed(value: object) -> bool:
    """Whether it is a list of things with the same facts each, which is a table of its own."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int] | None = None) -> None:
    for line in table(head, rows, right or ()):
        click.echo(line)
