"""docs/contract.md says what the contract is: its blocks run, its tables are the structs'."""

import asyncio
import pathlib
import re
import sys

import msgspec
import pytest

from protocol import commands, reports, wire
from protocol.commands import FINAL_STATES
from protocol.plans import MAX_PLAN_BYTES, MISSED_POLICIES, PARITIES
from protocol.schedules import OFFSET_LIMITS
from protocol.topics import HELLO, QOS, Channel, relay_filters
from tests.docs.blocks import ROOT, blocks_of, python_script
from tests.docs.layouts import layout_rows
from tests.protocol.strategies import wire_structs

PAGE = ROOT / "docs" / "contract.md"
TEXT = PAGE.read_text(encoding="utf-8")


async def test_its_blocks_run_against_the_golden_bytes(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "contract.md.py"
    script.write_text(python_script(PAGE), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().splitlines() == [
        "m-1 2:300 2026-11-22T06:00:00+00:00 3481.9070 m3",
        "m-1 7:310/3 2026-11-22T06:00:00+00:00 -0.010 bar",
        "m-1 6:210_1 2026-11-22T06:00:07.250000+00:00 1E+3 ",
    ]


@pytest.mark.parametrize("kind", wire_structs(), ids=lambda kind: kind.__name__)
def test_every_layout_is_the_structs(kind: type[msgspec.Struct]) -> None:
    section = re.split(rf"^### {kind.__name__}$", TEXT, flags=re.MULTILINE)
    assert len(section) == 2, f"docs/contract.md has no section ### {kind.__name__}"
    table = re.search(r"^\| # \|.*\n\|[-:| ]*\n((?:\|.*\n)+)", section[1], flags=re.MULTILINE)
    assert table is not None
    shown = [tuple(cell.strip() for cell in row.strip("|").split("|")[:4]) for row in table[1].splitlines()]
    assert shown == layout_rows(kind)


@pytest.mark.parametrize("channel", Channel)
def test_every_channel_has_its_row(channel: Channel) -> None:
    named = "name" if channel is Channel.PUSH else "caller"
    topic = f"amr/v1/<gateway>/{channel}" + (f"/<{named}>" if channel.has_caller else "")
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{topic}` | {channel} |"))
    assert row.split("|")[4].strip().startswith("yes") == channel.retained


def test_every_word_on_the_wire_is_named() -> None:
    words = {
        *FINAL_STATES,
        *(value for name, value in vars(commands).items() if name.isupper() and isinstance(value, str)),
        *(value for name, value in vars(reports).items() if name.isupper() and isinstance(value, str)),
        *OFFSET_LIMITS,
        *PARITIES,
        *MISSED_POLICIES,
    }
    assert [word for word in sorted(words) if f"`{word}`" not in TEXT] == []


def test_every_bound_and_filter_is_named() -> None:
    for bound in (wire.MAX_MESSAGE_BYTES, wire.MAX_BATCH_BYTES, MAX_PLAN_BYTES, *OFFSET_LIMITS.values()):
        assert re.search(rf"\b{bound}\b", TEXT), bound
    assert f"at most {wire.MAX_DECIMAL_DIGITS} digits" in TEXT
    assert f"-{wire.MAX_DECIMAL_EXPONENT}..{wire.MAX_DECIMAL_EXPONENT}" in TEXT
    assert f"QoS {QOS}" in TEXT
    for topic in (HELLO, *relay_filters()):
        assert f"`{topic}`" in TEXT


def test_the_caller_is_a_whole_program() -> None:
    named = {block.name: block.text for block in blocks_of(PAGE) if block.name}
    assert set(named) == {"caller.py"}
    compile(named["caller.py"], "caller.py", "exec")
