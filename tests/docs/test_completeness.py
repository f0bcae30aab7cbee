"""docs/completeness.md and docs/operators.md: what operators ask and do, typed after the first look, is as shown.

Both on one site: the second page goes on where the first one ends.
"""

import datetime as dt
import pathlib
import re

import click
import pytest

from client.cli import api
from hub.reasons import REASONS, STATES
from tests.docs import test_readme
from tests.docs.blocks import ROOT, blocks_of
from tests.docs.test_readme import as_pattern, type_in

PAGE = ROOT / "docs" / "completeness.md"
OPERATORS = ROOT / "docs" / "operators.md"
RATE = 60.0
"""A minute passes in a second, so that nobody waits for what the hub looks at twice a minute."""
PATIENCE = 240.0
"""Seconds for two pages on a busy machine."""


async def test_every_question_is_answered_as_shown(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_readme, "PATIENCE", PATIENCE)
    now = dt.datetime.now(dt.UTC)
    monkeypatch.setenv("METERGATE_CLOCK", f"{now.isoformat()}@{now.timestamp()!r},{RATE!r}")
    monkeypatch.setenv("METERGATE_ENVIRONMENT", "test")
    first_look = [block for block in blocks_of(ROOT / "README.md") if block.language == "bash"]
    blocks = [*blocks_of(PAGE), *blocks_of(OPERATORS)]
    for block in blocks:
        if block.name:
            (tmp_path / block.name).write_text(block.text, encoding="utf-8")
    typed = [block for block in blocks if block.language == "bash"]
    printed, rest = await type_in([*first_look, *typed], tmp_path)
    said = printed[len(first_look) :]
    assert len(said) == len(typed), f"the block on line {typed[len(said)].line} failed:\n{rest}"
    for block, following in zip(blocks, blocks[1:] + blocks[:1], strict=True):
        if block.language == "bash" and following.language == "text":
            answer = said[typed.index(block)]
            assert as_pattern(following.text).search(answer), (
                f"line {following.line} shows something else:\n{answer}\n{rest}"
            )


def test_the_operators_page_names_every_command() -> None:
    text = OPERATORS.read_text(encoding="utf-8")
    named = [name for name in api.list_commands(click.Context(api)) if not re.search(rf"\b{name}\b", text)]
    assert named == []


def test_every_state_and_every_reason_stands_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    states, reasons = re.findall(r"\n\| (?:state|reason) \| meaning \|\n(.*?)(?=\n\n)", text, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in states.splitlines()))) == {
        "stored",
        *STATES,
    }
    assert set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in reasons.splitlines()))) == set(REASONS)
