"""Each fact of docs/lis200.md names tests that hold it, and what it names is there."""

import ast
import functools
import pathlib
import re

import pytest

from agent.simulator.cli import command
from agent.simulator.faults import FAULTS
from agent.simulator.personas import PERSONAS
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "lis200.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")] for line in PAGE.splitlines() if re.match(r"\| \d", line)
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


@functools.cache
def names_in(path: pathlib.Path) -> set[str]:
    """Return the names of a module's tests that pytest runs, those in classes with their class."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for test in inside:
            if isinstance(test, functions) and not any(
                re.search(r"mark\.(skip|xfail)", ast.unparse(mark)) for mark in test.decorator_list
            ):
                names.add(f"{prefix}{test.name}")
    return names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1][:40]}")
def test_each_fact_is_held_by_tests_that_there_are(row: list[str]) -> None:
    section, fact, tests = row
    assert re.fullmatch(r"[1-58](\.\d+)?", section)
    assert fact.endswith(".")
    named = _TEST.findall(tests)
    assert named, "a fact without a test"
    assert len(named) == tests.count("`") // 2, "something that is no test"
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no test {name}"


def rows_of(title: str) -> list[list[str]]:
    """Return the cells of the table under a title."""
    table = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]


LINES, CHECKS = rows_of("Everything lines do"), rows_of("What is checked beyond the block check")


@pytest.mark.parametrize("row", [*LINES, *CHECKS], ids=lambda row: row[0][:50])
def test_what_lines_do_and_what_is_checked_is_held_by_tests_that_there_are(row: list[str]) -> None:
    named = _TEST.findall(row[-1])
    assert named
    assert len(named) == row[-1].count("`") // 2
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no test {name}"


def test_everything_that_lines_do_can_be_simulated_by_name() -> None:
    named = {name for row in LINES for name in re.findall(r"`([\w-]+)`", row[1])}
    assert all(row[1].count("`") for row in LINES)
    options = {name for option in command.params for name in option.opts}
    assert named <= {*FAULTS, *PERSONAS, *options}
    assert set(FAULTS) <= named


def test_every_section_is_there_and_what_is_not_shown_says_why() -> None:
    sections = {row[0] for row in ROWS}
    wanted = [f"1.{n}" for n in range(1, 10)] + [f"2.{n}" for n in range(1, 6)] + [f"3.{n}" for n in range(1, 6)]
    assert {*wanted, "4", "5.1", "5.2", "5.3"} <= sections
    assert {f"8.{n}" for n in (1, 4, 7, 8, 9, 11, 12, 13, 14, 16, 19)} <= sections
    not_shown = PAGE.split("\n## What no test shows, and why\n")[1]
    assert not_shown.count("\n- **") > 5
