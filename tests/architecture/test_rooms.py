"""The rooms keep to themselves: imports, topics, sizes, excepts, owners of packages."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("protocol", "contexts", "receivers", "mqtt", "client", "agent", "hub")
PROGRAMS = (*ROOMS, "benchmarks", "deploy")
MODULES = sorted(path for room in PROGRAMS for path in (ROOT / room).rglob("*.py"))
EVERYTHING = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]


def test_the_rooms_import_only_what_they_may() -> None:
    lint = subprocess.run(
        [pathlib.Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_each_top_level_package_has_one_owner(room: str) -> None:
    """Short names are good names only while nobody else installs a package of that name."""
    assert set(importlib.metadata.packages_distributions().get(room, [])) <= {"metergate"}
    for distribution in importlib.metadata.distributions():
        if distribution.name != "metergate":
            assert not any(str(file).startswith(f"{room}/") for file in distribution.files or ()), distribution.name


def test_topics_are_written_in_one_place() -> None:
    """Prose may name a topic; code builds and parses it through ``protocol.topics``."""
    written = re.compile(r"amr/v1|\$share/")
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if path == ROOT / "protocol" / "topics.py" or not written.search(text):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                assert not written.search(node.value), f"{path.relative_to(ROOT)}:{node.lineno} spells a topic"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_stays_readable(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 600, "over 600 lines: cut it"
    if path.name != "__init__.py" or text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module opens with its role and rules"


def test_no_drawer_is_called_by_a_drawers_name() -> None:
    drawers = {"utils", "util", "helpers", "helper", "manager", "service", "services", "common", "misc"}
    assert [path for path in EVERYTHING if drawers & {*path.relative_to(ROOT).with_suffix("").parts}] == []


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {name.id for name in caught if isinstance(name, ast.Name)}
    return handler.type is None or bool(names & {"Exception", "BaseException"})


def test_no_error_is_swallowed_by_a_broad_except() -> None:
    """What is caught broadly is raised again; ``except*`` and process boundaries included."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and _is_broad(node):
                again = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert again, f"{path.relative_to(ROOT)}:{node.lineno} catches everything and goes on"


def test_modules_read_at_run_time_import_for_real() -> None:
    """Postponed annotations break msgspec structs and Litestar handlers in ways that show late."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if re.search(r"^import msgspec|^from (msgspec|litestar)", text, flags=re.MULTILINE):
            assert "from __future__ import annotations" not in text, path
