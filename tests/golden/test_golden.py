"""Bytes of every released contract decode for ever, and the newest are those that this version makes."""

import json
import pathlib
from typing import Any

import pytest

from protocol.wire import encode
from tests.golden.make import write
from tests.golden.messages import KINDS, REPORTS, described, same_content
from tests.protocol.strategies import wire_structs

FOLDER = pathlib.Path(__file__).parent
VERSIONS = sorted((path for path in FOLDER.glob("v*") if path.is_dir()), key=lambda path: int(path.name[1:]))
CASES = [path for folder in VERSIONS for path in sorted(folder.glob("*.bin"))]


def assert_holds(expected: Any, got: Any) -> None:  # noqa: ANN401 - whatever JSON can show
    """Everything that was there is there; fields that were appended since may stand beside it."""
    if isinstance(expected, dict):
        assert isinstance(got, dict)
        for key, value in expected.items():
            assert key in got
            assert_holds(value, got[key])
    elif isinstance(expected, list):
        assert isinstance(got, list)
        assert len(got) == len(expected)
        for one, other in zip(expected, got, strict=True):
            assert_holds(one, other)
    else:
        assert got == expected


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden_bytes_decode(path: pathlib.Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert_holds(expected, described(KINDS[path.stem].read(path.read_bytes())))


def test_the_newest_golden_bytes_are_those_of_this_version(tmp_path: pathlib.Path) -> None:
    """A change of the bytes is a change of the contract: append a field, then ``python -m tests.golden.make vN``."""
    write(tmp_path / "now")
    newest = VERSIONS[-1]
    assert {path.name for path in newest.iterdir()} == {path.name for path in (tmp_path / "now").iterdir()}
    for path in newest.glob("*.bin"):
        made = (tmp_path / "now" / path.name).read_bytes()
        assert same_content(path.stem, made) == same_content(path.stem, path.read_bytes()), path.name


def test_every_wire_struct_has_golden_bytes() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in VERSIONS[-1].glob("*.json"))
    for kind in wire_structs():
        if kind.__name__ not in {"Batch", "GatewayPlan"}:  # shown as what is in them
            assert f'"{kind.__name__}"' in shown


@pytest.mark.parametrize("name", REPORTS)
def test_golden_bytes_are_encoded_as_they_were_decoded(name: str) -> None:
    data = (VERSIONS[-1] / f"{name}.bin").read_bytes()
    assert encode(KINDS[name].read(data)) == data
