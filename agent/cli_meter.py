"""What ``read``, ``archive`` and ``identify`` have in common: the line's options, the stage they work on, how they end.

Rules: a command says what it wants as an ``Asked`` struct without secrets, and works on a ``Stage``, which brings the
link, the clock and the observer. So the same work runs on a real line (``on_a_line``) and on a recording
(``on_a_recording``). A code comes from a file or the environment, never from the command line, where every user of the
machine could read it. Ctrl-C and SIGTERM end a session in order: a meter that is left open keeps its lock open and its
line busy.
"""

import asyncio
import contextlib
import datetime as dt
import functools
import importlib.metadata
import os
import pathlib
import signal
import sys
import uuid
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import click
import msgspec

from agent.arguments import in_words_of_here
from agent.capture import CaptureError, CaptureFile, Head, Record, Recorder, Sink
from agent.clocks import system_clock
from agent.conversation import Observer, Times
from agent.links import Link, LinkError, open_link, read_endpoint
from agent.masking import MASK
from agent.replay import InstantLoop, RecordedClock, ReplayLink
from agent.session import FAILURES, Between, Session, cause_of, open_session, who
from agent.settings import CUSTOMER_LOCK, MeterPassword, SettingsError, meter_password, read_secret
from agent.trace import TITLE, Trace
from contexts.calls import CallError
from contexts.meters import LIS200, Held, Layout, Manner
from protocol.iec62056 import MeterRefusal
from protocol.iec62056.codes import NO_RIGHT_TO_READ
from protocol.plans import PARITIES, Device, Line
from protocol.wire import ContractError

PASSWORD_VARIABLE = "METERGATE_METER_PASSWORD"  # noqa: S105 - the name of a variable
WIDE = {"max_content_width": 120}

F = TypeVar("F", bound=Callable[..., Any])


class LineAsked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the line and the meter on it are reached; of a code only the length."""

    endpoint: str
    address: str = ""
    timezone: str = "UTC"
    rate: int = 300
    fixed_rate: bool = False
    parity: str = "auto"
    wake_up: bool = False
    echo: bool = False
    tries: int = 3
    lock: int = CUSTOMER_LOCK
    code_length: int = 0

    @property
    def line(self) -> Line:
        """The line as a plan would have it."""
        name = uuid.uuid5(uuid.NAMESPACE_URL, self.endpoint)
        return Line(
            name, self.endpoint, self.endpoint, self.rate, self.fixed_rate, self.parity, self.wake_up, self.echo
        )

    def device(self, name: str = "") -> Device:
        """The meter as a plan would have it."""
        line = uuid.uuid5(uuid.NAMESPACE_URL, self.endpoint)
        return Device(uuid.uuid5(line, self.address), name or self.address, line, self.timezone, self.address)

    @property
    def masked_code(self) -> MeterPassword | None:
        """A code as a recording shows it."""
        return MeterPassword(MASK * self.code_length, self.lock) if self.code_length else None


class Stage:
    """Where a command works: a link, a clock, an observer, and whether somebody looks on."""

    def __init__(
        self,
        open_: Callable[[str, int], Awaitable[Link]],
        now: Callable[[], dt.datetime],
        *,
        code: MeterPassword | None = None,
        recorder: Recorder | None = None,
        progress: bool = False,
    ) -> None:
        self.now = now
        self.code = code
        self.progress = progress
        self._open, self._recorder = open_, recorder

    @property
    def observer(self) -> Observer | None:
        """Who is told of every conversation."""
        return self._recorder

    @contextlib.asynccontextmanager
    async def link(self, endpoint: str, rate: int) -> AsyncIterator[Link]:
        """The open line; closed at the end."""
        link = await self._open(endpoint, rate)
        try:
            yield link
        finally:
            await link.aclose()

    @contextlib.asynccontextmanager
    async def session(
        self,
        asked: LineAsked,
        *,
        name: str = "",
        between_blocks: Between | None = None,
        times: Times | None = None,
        manner: Manner = LIS200,
    ) -> AsyncIterator[Session]:
        """A session with the meter that ``asked`` names; the line is opened and closed with it."""
        async with (
            self.link(asked.endpoint, asked.rate) as link,
            open_session(
                link,
                asked.line,
                asked.device(name),
                memory=NoMemory(),
                now=self.now,
                access=self.code,
                between_blocks=between_blocks,
                times=times or Times(tries=asked.tries),
                observer=self.observer,
                manner=manner,
            ) as session,
        ):
            yield session

    def stopped(self) -> None:
        """Say in trace and capture that somebody stops the command."""
        if self._recorder is not None:
            self._recorder.stopped()

    def note(self, text: str) -> None:
        """Say in trace and capture what begins."""
        if self._recorder is not None:
            self._recorder.note(text)


class Progress:
    """One line on standard error that is written over, for somebody who waits; nothing where nobody looks."""

    def __init__(self, stage: Stage) -> None:
        self._shown = stage.progress

    def show(self, text: str, done: float | None = None) -> None:
        """Show ``text``, and how much is done (0 to 1) as a bar if that is known."""
        if not self._shown:
            return
        bar = ""
        if done is not None:
            filled = round(max(0.0, min(1.0, done)) * 30)
            bar = f"[{'#' * filled}{'.' * (30 - filled)}] {100 * max(0.0, min(1.0, done)):3.0f} %  "
        click.echo(f"\r\x1b[K{bar}{text}", err=True, nl=False)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


class Asked(Protocol):
    """What a command wants, in a form that a capture can hold."""

    @property
    def on(self) -> LineAsked:
        """The line."""

    async def carry_out(self, stage: Stage) -> int:
        """Do it, print what it brings, return the exit status."""


class NoMemory:
    """A ``LineMemory`` for one call: it begins and ends empty."""

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        """Nothing."""
        del device, archive
        return None

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        """Forget it."""
        del device, archive, layout

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        """Nothing."""
        del device, archive
        return None

    def line_rate(self, line: uuid.UUID) -> int | None:
        """Nothing."""
        del line
        return None

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        """Forget it."""
        del line, rate


# --- options -------------------------------------------------------------------------------------------------------

_LINE_OPTIONS = (
    click.option(
        "--rate", type=click.IntRange(50, 4_000_000), default=300, show_default=True, help="Opening rate in baud."
    ),
    click.option("--fixed-rate", is_flag=True, help="Never change the rate (wired terminals)."),
    click.option("--parity", type=click.Choice(PARITIES), default="auto", show_default=True, help="auto learns it."),
    click.option("--wake-up", is_flag=True, help="Send the wake-up of battery devices first (about four seconds)."),
)
_METER_OPTIONS = (
    click.option(
        "--password-file",
        type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
        help=f"File with the code of the lock; or set {PASSWORD_VARIABLE}.",
    ),
    click.option(
        "--lock",
        type=click.IntRange(1, 6),
        default=CUSTOMER_LOCK,
        show_default=True,
        help="The lock that the password opens: 3 supplier, 4 customer, 5 data collector, 6 further user.",
    ),
    click.option("--timezone", default="", help="IANA zone of the meter's clock; else this machine's."),
    click.option("--echo", is_flag=True, help="The line returns what we send (optical heads, two-wire RS-485)."),
    click.option("--trace", is_flag=True, help="Show the conversation on standard error as it goes; codes masked."),
    click.option(
        "--capture",
        type=click.Path(dir_okay=False, path_type=pathlib.Path),
        metavar="FILE",
        help="Record the conversation, for `replay` and `capture`; codes masked.",
    ),
)
_TRIES = click.option(
    "--tries", type=click.IntRange(1, 20), default=3, show_default=True, help="How often the meter is called."
)
_ADDRESS = click.option("--address", default="", help="The meter's bus address; without one every meter is called.")


def meter_options(command: F) -> F:
    """The options of a command that looks for meters: code, zone, trace."""
    return functools.reduce(lambda made, option: option(made), reversed(_METER_OPTIONS), command)


def line_options(command: F) -> F:
    """The options of a command that knows its line, ``meter_options`` among them."""
    options = (_ADDRESS, *_LINE_OPTIONS, _TRIES)
    return functools.reduce(lambda made, option: option(made), reversed(options), meter_options(command))


def line_asked(
    endpoint: str,
    *,
    password_file: pathlib.Path | None,
    lock: int,
    timezone: str,
    **rest: Any,  # noqa: ANN401 - the fields of LineAsked
) -> tuple[LineAsked, MeterPassword | None]:
    """Check what can be checked without a meter.

    Raises:
        click.UsageError: naming the option that is wrong.
    """
    try:
        read_endpoint(endpoint)
        zoneinfo.ZoneInfo(timezone or "UTC")
        code = _code(password_file, lock)
    except (LinkError, SettingsError) as error:
        raise click.UsageError(str(error)) from error
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise click.UsageError(f"--timezone: {timezone!r} is no IANA zone such as Europe/Berlin") from error
    asked = LineAsked(
        endpoint=endpoint,
        timezone=timezone or machine_zone(),
        lock=lock,
        code_length=len(code.password) if code else 0,
        **rest,
    )
    return asked, code


def _code(file: pathlib.Path | None, lock: int) -> MeterPassword | None:
    if file is not None:
        return meter_password(read_secret(file, "--password-file"), lock, "--password-file")
    text = os.environ.get(PASSWORD_VARIABLE)
    return meter_password(text, lock, PASSWORD_VARIABLE) if text else None


def machine_zone() -> str:
    """This machine's IANA zone, where it can be told; a meter usually stands in the zone of its gateway."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named in zoneinfo.available_timezones():
        return named
    link = pathlib.Path("/etc/localtime")
    _, found, name = str(link.readlink()).partition("/zoneinfo/") if link.is_symlink() else ("", "", "")
    return name if found and name in zoneinfo.available_timezones() else "UTC"


# --- carrying out --------------------------------------------------------------------------------------------------


def on_a_line(asked: Asked, code: MeterPassword | None, *, trace: bool, capture: pathlib.Path | None) -> None:
    """Carry out on the real line; ends with the command's exit status."""
    with contextlib.ExitStack() as open_files:
        sinks: list[Sink] = []
        try:
            clock = system_clock()
            if capture is not None:
                sinks.append(
                    open_files.enter_context(contextlib.closing(CaptureFile(capture, _head(asked, clock.now()))))
                )
        except (CaptureError, ContractError) as error:
            raise click.UsageError(str(error)) from error
        if trace:
            shown = Trace()
            click.echo(TITLE, err=True)
            sinks.append(functools.partial(show, shown))
            open_files.callback(_show_rest, shown)
        recorder = Recorder(sinks) if sinks else None
        now = clock.now if recorder is None else lambda: recorder.looked(clock.now())
        progress = sys.stderr.isatty() and not trace
        stage = Stage(open_link, now, code=code, recorder=recorder, progress=progress)
        with asyncio.Runner() as runner:
            _ended(asked, runner, stage)


def on_a_recording(asked: Asked, head: Head, records: list[Record]) -> None:
    """Carry out offline on what was recorded; ends with the command's exit status."""

    async def open_recording(endpoint: str, rate: int) -> Link:
        del rate
        return ReplayLink(endpoint, records, _this_task().cancel)

    stage = Stage(open_recording, RecordedClock(head.began, records).now, code=asked.on.masked_code)
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        _ended(asked, runner, stage)


def show(trace: Trace, record: Record) -> None:
    """Be the sink that prints."""
    for line in trace.lines(record):
        click.echo(line, err=True)


def _show_rest(trace: Trace) -> None:
    for line in trace.rest():
        click.echo(line, err=True)


def _head(asked: Asked, now: dt.datetime) -> Head:
    software = f"metergate {importlib.metadata.version('metergate')}"
    return Head(software=software, began=now, endpoint=asked.on.endpoint, asked=msgspec.to_builtins(asked))


def _ended(asked: Asked, runner: asyncio.Runner, stage: Stage) -> None:
    meter = who(asked.on.device(), asked.on.line)
    try:
        status = runner.run(_stoppable(asked.carry_out(stage), stage))
    except CallError as error:
        raise click.ClickException(f"{meter}: {in_words_of_here(error)}") from error
    except FAILURES as error:
        locked = isinstance(error, MeterRefusal) and error.code == NO_RIGHT_TO_READ
        advice = f"; give the code of a lock (--lock, --password-file or {PASSWORD_VARIABLE})" if locked else ""
        raise click.ClickException(f"{cause_of(error, meter)}{advice}") from error
    except asyncio.CancelledError:
        raise click.ClickException("stopped before it was done; the session was ended, the line is free") from None
    if status:
        raise click.exceptions.Exit(status)


async def _stoppable(work: Awaitable[int], stage: Stage) -> int:
    task = _this_task()

    def stop() -> None:
        stage.stopped()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await work


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call runs as a task")
    return task
