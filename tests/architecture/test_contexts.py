"""A context is added in its own room: nobody else names it, and a session knows it by its manner only.

Commands for people (``agent/cli*.py``) may name a call in a hint or an example; nothing that runs may.
"""

import ast
import pathlib

import pytest

from contexts.catalogue import CONTEXTS
from contexts.meters import LIS200

ROOT = pathlib.Path(__file__).parents[2]
OTHERS = sorted(path for room in ("protocol", "agent", "hub", "migrations") for path in (ROOT / room).rglob("*.py"))
FIRST = "generic_lis200"
"""The context that everything began with: help texts have their examples from it."""


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@pytest.mark.parametrize("context", [name for name in CONTEXTS if name != FIRST])
def test_no_other_room_names_a_context_or_its_parts(context: str) -> None:
    stem = context.removeprefix("generic_")
    for path in OTHERS:
        if path.parent.name == "agent" and path.name.startswith("cli"):
            continue
        text = path.read_text(encoding="utf-8")
        assert stem not in text, f"{path.relative_to(ROOT)} names {stem}: what it needs belongs into a Manner"


def test_no_other_room_imports_a_context_but_through_the_catalogue() -> None:
    for path in OTHERS:
        imported = _imports(ast.parse(path.read_text(encoding="utf-8")))
        assert not {name for name in imported if name.startswith("contexts.generic_")}, path.relative_to(ROOT)


def test_meters_that_are_not_lis_200_say_so_by_their_manner() -> None:
    for name, context in CONTEXTS.items():
        for call in context.calls.values():
            assert (call.manner == LIS200) is (name == FIRST), f"{name}.{call.name}"
