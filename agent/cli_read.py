"""``metergate-agent read``: one call against one meter without any hub, for commissioning and for scripts.

Rules: nothing is remembered and nothing is sent anywhere. Standard output has readings only (with ``--json`` one per
line), everything for people goes to standard error or to the table. A password comes from a file or the environment,
never from the command line, where every user of the machine could read it.
"""

import asyncio
import datetime as dt
import json
import os
import pathlib
import signal
import sys
import uuid
import zoneinfo
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click

from agent.arguments import in_words_of_here, pairs, rfc3339
from agent.clocks import Clock, system_clock
from agent.conversation import Times
from agent.links import LinkError, open_link, read_endpoint
from agent.session import FAILURES, Session, cause_of, open_session, who
from agent.settings import CUSTOMER_LOCK, MeterPassword, SettingsError, meter_password, read_secret
from contexts.catalogue import CONTEXTS, CallError, check_call, find_call, kwargs_from_text
from contexts.meters import Answer, Held, Layout, Moment, Value
from protocol.plans import PARITIES, Device, Line

PASSWORD_VARIABLE = "METERGATE_METER_PASSWORD"  # noqa: S105 - the name of a variable

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

Dates without an offset are in the meter's zone (--timezone). Exit status: 0 done, 1 failed (the cause is on standard
error), 2 wrong usage.
"""


@click.command("read", help=_HELP, context_settings={"max_content_width": 120})
@click.argument("endpoint")
@click.argument("context")
@click.argument("call")
@click.argument("kwargs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--address", default="", help="The meter's bus address; without one every meter is called.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help=f"File with the code of the lock; or set {PASSWORD_VARIABLE}.",
)
@click.option(
    "--lock",
    type=click.IntRange(1, 6),
    default=CUSTOMER_LOCK,
    show_default=True,
    help="The lock that the password opens: 3 supplier, 4 customer.",
)
@click.option("--meter", default="", help="Name for the meter in the output; else its serial number is read and used.")
@click.option("--timezone", default="", help="IANA zone of the meter's clock; else this machine's.")
@click.option(
    "--rate", type=click.IntRange(50, 4_000_000), default=300, show_default=True, help="Opening rate in baud."
)
@click.option("--fixed-rate", is_flag=True, help="Never change the rate (wired terminals).")
@click.option("--parity", type=click.Choice(PARITIES), default="auto", show_default=True, help="auto learns it.")
@click.option("--wake-up", is_flag=True, help="Send the wake-up of battery devices first (about four seconds).")
@click.option("--echo", is_flag=True, help="The line returns what we send (optical heads, two-wire RS-485).")
@click.option(
    "--tries", type=click.IntRange(1, 20), default=3, show_default=True, help="How often the meter is called."
)
@click.option("--json", "as_json", is_flag=True, help="One reading per line as a JSON object.")
@click.option("--events", is_flag=True, help="With --json: also what the meter logged, one object per line.")
def command(
    endpoint: str,
    context: str,
    call: str,
    kwargs: tuple[str, ...],
    address: str,
    password_file: pathlib.Path | None,
    lock: int,
    meter: str,
    timezone: str,
    rate: int,
    fixed_rate: bool,  # noqa: FBT001 - click passes options by name
    parity: str,
    wake_up: bool,  # noqa: FBT001 - as above
    echo: bool,  # noqa: FBT001 - as above
    tries: int,
    as_json: bool,  # noqa: FBT001 - as above
    events: bool,  # noqa: FBT001 - as above
) -> None:
    """Make one call against a meter and print what it brings."""
    typed = _understood(endpoint, context, call, kwargs, timezone)
    password = _password(password_file, lock)
    line = Line(uuid.uuid4(), endpoint, endpoint, rate, fixed_rate, parity, wake_up, echo)
    device = Device(uuid.uuid4(), meter or address, line.id, timezone or _machine_zone(), address)
    if find_call(context, call).archive and not timezone:
        click.echo(f"the meter's clock is taken to be in {device.timezone}; --timezone says otherwise", err=True)
    try:
        clock = system_clock()
        name, answer, ended = asyncio.run(
            _make_call(line, device, password, clock, Times(tries=tries), context, call, typed, meter)
        )
    except CallError as error:
        raise click.ClickException(f"{who(device, line)}: {in_words_of_here(error)}") from error
    except FAILURES as error:
        raise click.ClickException(cause_of(error, who(device, line))) from error
    except asyncio.CancelledError:
        raise click.ClickException("stopped before it was done; the session was ended, the line is free") from None
    if as_json:
        _print_json(name, answer, ended, events=events)
    else:
        _print_table(name, answer, ended, zoneinfo.ZoneInfo(device.timezone))
    if answer.problems:
        raise click.ClickException("\n".join(answer.problems))


async def _make_call(
    line: Line,
    device: Device,
    password: MeterPassword | None,
    clock: Clock,
    times: Times,
    context: str,
    call: str,
    kwargs: Mapping[str, Any],
    name: str,
) -> tuple[str, Answer, dt.datetime]:
    """Open, call, close; returns the meter's name, the answer, and when it ended (UTC).

    Ctrl-C and SIGTERM end the session in order first: a meter that is left open keeps its lock open and its line busy.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call runs as a task")
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    progress = _Progress(clock) if find_call(context, call).archive and sys.stderr.isatty() else None
    link = await open_link(line.endpoint, line.rate)
    try:
        async with open_session(
            link,
            line,
            device,
            memory=_NoMemory(),
            now=clock.now,
            access=password,
            between_blocks=progress.show if progress else None,
            times=times,
        ) as session:
            name = name or await session.serial_number()
            now = clock.now()
            moment = Moment(now=now, reference=now)
            answer = await find_call(context, call).run(session, moment, check_call(context, call, kwargs))
            ended = clock.now()
    finally:
        await link.aclose()
        if progress:
            progress.clear()
    return name, answer, ended


class _Progress:
    """Rows read so far, on standard error, for somebody who waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.monotonic()

    async def show(self, session: Session) -> bool:
        seconds = self._clock.monotonic() - self._begun
        click.echo(f"\r{session.rows_read} rows, {seconds:.0f} s ", err=True, nl=False)
        return False

    def clear(self) -> None:
        click.echo("\r\x1b[K", err=True, nl=False)


class _NoMemory:
    """A ``LineMemory`` for one call: it begins and ends empty."""

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        del device, archive
        return None

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        del device, archive, layout

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        del device, archive
        return None

    def line_rate(self, line: uuid.UUID) -> int | None:
        del line
        return None

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        del line, rate


def _understood(endpoint: str, context: str, call: str, kwargs: Sequence[str], timezone: str) -> dict[str, Any]:
    """Check what can be checked without a meter; returns the typed arguments of the call."""
    try:
        typed = kwargs_from_text(context, call, pairs(kwargs))
        read_endpoint(endpoint)
        zoneinfo.ZoneInfo(timezone or "UTC")
    except CallError as error:
        raise click.UsageError(in_words_of_here(error)) from error
    except LinkError as error:
        raise click.UsageError(str(error)) from error
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise click.UsageError(f"--timezone: {timezone!r} is no IANA zone such as Europe/Berlin") from error
    if find_call(context, call).writes and not timezone:
        raise click.UsageError(f"{call} writes to the meter; say with --timezone in which zone its clock is")
    return typed


def _password(file: pathlib.Path | None, lock: int) -> MeterPassword | None:
    try:
        if file is not None:
            return meter_password(read_secret(file, "--password-file"), lock, "--password-file")
        text = os.environ.get(PASSWORD_VARIABLE)
        return meter_password(text, lock, PASSWORD_VARIABLE) if text else None
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


def _machine_zone() -> str:
    """This machine's IANA zone, where it can be told; a meter usually stands in the zone of its gateway."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named in zoneinfo.available_timezones():
        return named
    link = pathlib.Path("/etc/localtime")
    _, found, name = str(link.readlink()).partition("/zoneinfo/") if link.is_symlink() else ("", "", "")
    return name if found and name in zoneinfo.available_timezones() else "UTC"


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
    if answer.result:
        click.echo("")
        _columns(("result", ""), [(key, str(value)) for key, value in answer.result.items()])


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())
