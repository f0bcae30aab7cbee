"""``metergate-agent capture``: what can be made of a recorded conversation: a simulated meter, a regression test.

Rules: reads the capture, writes new files and never over old ones.
"""

import pathlib
import pprint
import re
import shutil

import click
import msgspec

from agent.capture import CaptureError, Head, Heard, Looked, Record, Said, read_capture
from agent.cli_meter import WIDE
from agent.cli_replay import asked_in, replayed
from agent.simulator.recorded import PersonaError, persona_of

_HELP = """Make a simulated meter or a regression test of a recorded conversation.

FILE was written by --capture of `read`, `archive` or `identify`. Without options: says what it holds.

\b
A meter of the field on the desk: it answers what the real one answered
  metergate-agent capture cellar.jsonl --persona cellar.json
  metergate-agent simulate --persona cellar.json --listen tcp:127.0.0.1:4001

\b
A failure of the field as a test: the conversation must go the same way and print the same for ever
  metergate-agent capture cellar.jsonl --test tests/field/test_cellar.py

Exit status: 0 done, 1 failed (the cause is on standard error), 2 wrong usage.
"""

_TEST = '''"""Regression test made from a capture of {endpoint} at {began}: {title}."""

import pathlib

from agent.cli_replay import replayed

CAPTURE = pathlib.Path(__file__).with_name({name!r})
STATUS = {status}
PRINTED = (
{printed}
)


def test_{function}_goes_the_same_way_and_prints_the_same() -> None:
    assert replayed(CAPTURE) == (STATUS, PRINTED)
'''


@click.command("capture", help=_HELP, context_settings=WIDE)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option(
    "--persona", type=click.Path(dir_okay=False, path_type=pathlib.Path), metavar="OUT", help="Write a simulated meter."
)
@click.option(
    "--test",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    metavar="OUT",
    help="Write a pytest file, and the capture beside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(file: pathlib.Path, *, persona: pathlib.Path | None, test: pathlib.Path | None, as_json: bool) -> None:
    """Make something of a capture."""
    try:
        head, records = read_capture(file)
        asked_in(file, head)
    except CaptureError as error:
        raise click.UsageError(str(error)) from error
    for out in (persona, test):
        if out is not None and out.exists():
            raise click.UsageError(f"{out} exists; name another file")
    told = _told(file, head, records)
    try:
        if persona is not None:
            told["persona"] = _write_persona(file, persona, head, records)
        if test is not None:
            told["test"] = _write_test(file, test, head)
    except (PersonaError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    if as_json:
        click.echo(msgspec.json.encode(told))
    else:
        for key, value in told.items():
            click.echo(f"{key:<10} {value}")


def _told(file: pathlib.Path, head: Head, records: list[Record]) -> dict[str, str]:
    said = [record for record in records if isinstance(record, Said)]
    heard = [record for record in records if isinstance(record, Heard)]
    passed: list[Said | Heard] = [*said, *heard]
    moved = sum(len(record.data) // 2 for record in passed)
    seconds = max((record.at for record in passed), default=0.0)
    return {
        "capture": str(file),
        "command": str(head.asked.get("command", "")),
        "line": head.endpoint,
        "began": head.began.isoformat(timespec="seconds"),
        "software": head.software,
        "holds": f"{len(said)} telegrams said, {moved} bytes in both directions, {seconds:.1f} s",
        "masked": f"{sum(record.masked for record in said)} telegrams carried a code, which is not in the file",
    }


def _write_persona(file: pathlib.Path, out: pathlib.Path, head: Head, records: list[Record]) -> str:
    passed = [
        (isinstance(record, Said), bytes.fromhex(record.data)) for record in records if isinstance(record, Said | Heard)
    ]
    shown = [record.shows for record in records if isinstance(record, Looked)]
    made = persona_of(passed, address="", source=f"{file.name}, {head.endpoint}", began=head.began, shown=shown)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    return f"{out}: {made.ident}, serial number {made.serial}, {len(made.exchanges)} commands with their answers"


def _write_test(file: pathlib.Path, out: pathlib.Path, head: Head) -> str:
    status, printed = replayed(file)
    out.parent.mkdir(parents=True, exist_ok=True)
    copy = out.with_suffix(".jsonl")
    if copy.exists() and not copy.samefile(file):
        raise PersonaError(f"{copy} exists; name another test")
    if not copy.exists():
        shutil.copyfile(file, copy)
    lines = printed.splitlines(keepends=True) or [""]
    shown = "\n".join(f"    {pprint.saferepr(line)}" for line in lines)
    title = f"metergate-agent {head.asked.get('command', '')}"
    function = re.sub(r"\W+", "_", out.stem.removeprefix("test_")).strip("_").lower() or "capture"
    began = head.began.isoformat(timespec="seconds")
    text = _TEST.format(
        endpoint=head.endpoint,
        began=began,
        title=title,
        name=copy.name,
        status=status,
        printed=shown,
        function=function,
    )
    out.write_text(text, encoding="utf-8")
    return f"{out}, with {copy.name}"
