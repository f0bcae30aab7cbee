"""docs/calls.md lists every call with its kwargs as the catalogue has them, and its examples are good calls."""

import json
import re

import msgspec
import pytest

from contexts.calls import Call
from contexts.catalogue import CONTEXTS, check_call
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "calls.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
CALLS = [(name, call) for name, context in CONTEXTS.items() for call in context.calls.values()]


def described(field: msgspec.structs.FieldInfo) -> str:
    for extra in getattr(field.type, "__metadata__", ()):
        if isinstance(extra, msgspec.Meta) and extra.description:
            return extra.description
    raise AssertionError(f"{field.name} has no description")


def table_of(call: Call) -> str:
    """The table of a call's kwargs; a dash for none."""
    lines = ["| kwarg | default | what |", "|---|---|---|"]
    for field in msgspec.structs.fields(call.kwargs):
        default = "required" if field.required else f"`{json.dumps(field.default)}`"
        lines.append(f"| `{field.name}` | {default} | {described(field)} |")
    return "\n".join(lines) if len(lines) > 2 else "No kwargs."


@pytest.mark.parametrize(("context", "call"), CALLS, ids=lambda value: getattr(value, "name", value))
def test_every_call_stands_there_with_its_kwargs_and_an_example(context: str, call: Call) -> None:
    section = re.search(rf"^### {call.name}$(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)

    assert section is not None, f"docs/calls.md has no section ### {call.name}"
    assert table_of(call) in section[1], f"expected in docs/calls.md:\n{table_of(call)}"
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", section[1], re.DOTALL)]
    assert examples
    for example in examples:
        assert example["meter_execution_type"] == context
        assert example["task_call"] == call.name
        check_call(context, call.name, example.get("task_kwargs"))


def test_no_call_stands_there_that_does_not_exist() -> None:
    named = set(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE))

    assert named == {call.name for _, call in CALLS}
