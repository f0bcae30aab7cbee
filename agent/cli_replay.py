"""``metergate-agent replay``: a recorded conversation again, offline, through the same core and the same commands.

Rules: prints what the command printed then, on the same outputs, and ends with the same exit status; what was said must
be said again byte for byte.
"""

import contextlib
import io
import pathlib

import click
import msgspec

from agent.capture import CaptureError, Head, Record, read_capture
from agent.cli_archive import ArchiveAsked
from agent.cli_identify import IdentifyAsked
from agent.cli_meter import WIDE, on_a_recording, show
from agent.cli_read import ReadAsked
from agent.trace import TITLE, Trace

Recorded = ReadAsked | ArchiveAsked | IdentifyAsked

_HELP = """Run a recorded conversation again, offline.

FILE was written by --capture of `read`, `archive` or `identify`. No line is touched and nothing is waited for; the
recording answers as the meter did, and the command prints what it printed then. Codes of locks are not in a recording.

\b
What did the technician see?
  metergate-agent replay cellar.jsonl

\b
And what passed on the line, telegram by telegram, with its times?
  metergate-agent replay cellar.jsonl --trace

Exit status: that of the recorded command; 1 too if the program of today says something else than was said then, 2 if
FILE is no capture.
"""


@click.command("replay", help=_HELP, context_settings=WIDE)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--trace", is_flag=True, help="First show the recorded conversation, on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, whatever was asked for then.")
def command(file: pathlib.Path, *, trace: bool, as_json: bool) -> None:
    """Run a recorded conversation again."""
    try:
        head, records = read_capture(file)
        asked = asked_in(file, head)
    except CaptureError as error:
        raise click.UsageError(str(error)) from error
    if trace:
        _show_all(records)
    if as_json:
        asked = msgspec.structs.replace(asked, as_json=True)
    on_a_recording(asked, head, records)


def asked_in(file: pathlib.Path, head: Head) -> Recorded:
    """What the recorded command was asked to do.

    Raises:
        CaptureError: when this program has no such command.
    """
    try:
        asked: Recorded = msgspec.convert(head.asked, Recorded)
    except msgspec.ValidationError as error:
        raise CaptureError(f"{file} holds a command that this program does not know: {error}") from error
    # A readout that wrote a file then does not write over it now.
    return msgspec.structs.replace(asked, csv="") if isinstance(asked, ArchiveAsked) else asked


def replayed(file: pathlib.Path) -> tuple[int, str]:
    """The exit status and standard output of a replay, for regression tests; a failure's cause is the last line.

    Raises:
        CaptureError: when the file is no capture.
    """
    head, records = read_capture(file)
    printed = io.StringIO()
    status = 0
    with contextlib.redirect_stdout(printed):
        try:
            on_a_recording(asked_in(file, head), head, records)
        except click.ClickException as error:
            status = error.exit_code
            click.echo(f"Error: {error.format_message()}")
        except click.exceptions.Exit as ended:
            status = ended.exit_code
    return status, printed.getvalue()


def _show_all(records: list[Record]) -> None:
    trace = Trace()
    click.echo(TITLE, err=True)
    for record in records:
        show(trace, record)
    for line in trace.rest():
        click.echo(line, err=True)
