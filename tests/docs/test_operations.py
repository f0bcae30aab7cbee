"""docs/operations.md lists every event that agent and hub log, and every command and figure that it names is there."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_NOT_LOGS = {"migrations", "simulator"}
"""Folders whose modules log for other readers."""


def strings_of(node: ast.expr, constants: dict[str, str]) -> set[str]:
    """Return the texts that an argument can be."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=one, orelse=other):
            return strings_of(one, constants) | strings_of(other, constants)
        case ast.Name(id=name) if name in constants:
            return {constants[name]}
    raise AssertionError(f"the name of an event is not plain to see: {ast.unparse(node)}")


def events_of(room: str) -> set[str]:
    """Return the names of all events that a room's modules log."""
    found: set[str] = set()
    for path in (ROOT / room).rglob("*.py"):
        if _NOT_LOGS & set(path.relative_to(ROOT).parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=level), args=[name, *_]):
                    if level in _LEVELS:
                        found |= strings_of(name, constants)
    return found


@pytest.mark.parametrize(("room", "title"), [("agent", "Events of the agent"), ("hub", "Events of the hub")])
def test_every_event_is_listed(room: str, title: str) -> None:
    section = PAGE.split(f"### {title}\n")[1].split("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert events_of(room) == listed


def test_every_figure_is_one_of_ours() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for room in ("agent", "hub") for path in (ROOT / room).glob("*.py")
    )
    named = set(re.findall(r"`metergate_(?:agent_)?(\w+)`", PAGE))
    assert len(named) > 8
    for name in named:
        assert re.search(rf'"(?:metergate_)?{name.removesuffix("_total")}(?:_total)?"', sources), name


def test_the_commands_have_the_options_that_are_shown() -> None:
    for command, options in (
        (("metergate-hub", "backup"), {"--data", "--replace", "--json"}),
        (("metergate-hub", "restore"), {"--data", "--verify", "--json"}),
        (("metergate-hub", "relay"), {"--metrics-port"}),
        (("metergate-agent", "outbox"), {"--config", "--json"}),
    ):
        program = pathlib.Path(sys.executable).parent / command[0]
        text = subprocess.run([program, *command[1:], "--help"], capture_output=True, text=True, check=True).stdout
        for option in options:
            assert option in text, command
