"""Each promise of docs/guarantees.md names what shows it, and what it names is there."""

import ast
import functools
import importlib.util
import pathlib
import re

import pytest

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "guarantees.md"
_PROMISED, _NOT_PROMISED = PAGE.read_text(encoding="utf-8").split("\n## What is not promised\n")
ROWS = [
    (cells[0].strip(), cells[1].strip())
    for line in _PROMISED.splitlines()
    if line.startswith("| ") and (cells := line.strip("| ").split(" | "))[0] != "promise"
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_BENCH = re.compile(r"`python -m benchmarks (\w+)[^`]*`")


@functools.cache
def names_in(path: pathlib.Path) -> set[str]:
    """Return the names of a module's tests that pytest runs."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, functions)
        and not any(re.search(r"mark\.(skip|xfail)", ast.unparse(mark)) for mark in node.decorator_list)
    }


@pytest.mark.parametrize(("promise", "proofs"), ROWS, ids=[promise[:50] for promise, _ in ROWS])
def test_each_promise_is_shown_by_what_there_is(promise: str, proofs: str) -> None:
    assert promise.endswith(".")
    named, benches = _TEST.findall(proofs), _BENCH.findall(proofs)
    assert named, "a promise without a test"
    assert len(named) + len(benches) == proofs.count("`") // 2, "something that is neither a test nor a bench"
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no test {name}"
    for bench in benches:
        assert importlib.util.find_spec(f"benchmarks.{bench}"), bench


def test_the_page_says_what_is_not_promised() -> None:
    assert len(ROWS) > 20
    assert _NOT_PROMISED.count("\n- **") > 5
    assert "`tests/" not in _NOT_PROMISED
