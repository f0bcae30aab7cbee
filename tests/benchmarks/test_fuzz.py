"""The fuzz bench in short: nothing breaks; it would find it if it did; and what it ever found stays mended."""

import json

import pytest

from benchmarks import fuzz
from benchmarks._fuzz_targets import Notes, Target, broken_unless

FOUND = {
    "a unit with a control character": (
        "rows",
        b"\x00'\x13#()()()()(8:1)()()\x1e\x1e()()()()(\\x00)\x1e(840)(2014-05-02,10:00:00)(8899)(14)(0)(003)(CRC Ok)",
    ),
    "a layout whose attributes have different lengths": (
        "rows",
        (
            b"E\x1f\x0f#(1)(0)(1:400)(0)(2)(0)(4)(0)(6)(0)(5)(0)(4)(0)(6)(0)(3)()\x1e(Gr)(t)()(P)(S2)(7)()()()()()()()()()()()()()"
            b"\x1e)\x1e(79)(2)(2011-03-21,14:59:51)(0)(0)(0)(0)(11\x005)(23.06)(06)(596)(0)(14)(0)(0)(15)(0x8203)(CR)"
        ),
    ),
    "a unit of a pushed value with a NUL": ("dsmr_p1", b"/\n0-1:24.2.1(1102161005)(7*\x00)\n!"),
    "a field of a pushed reading with a name without an end": ("amr_um", b'{"' + b"e" * 4000 + b'":1}'),
}


def test_nothing_breaks_in_a_short_run() -> None:
    figures, failures = fuzz.run(15, "tests")
    assert [(failure.what, failure.where, failure.command) for failure in failures] == []
    assert {figure.target for figure in figures} == set(fuzz.TARGETS)
    assert all(figure.inputs and figure.reached > 5 for figure in figures)
    assert all(figure.peak <= figure.bound for figure in figures)


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_stays_mended(found: str) -> None:
    target, data = FOUND[found]
    assert fuzz.tried(fuzz.TARGETS[target], data) is None


def _brittle(data: bytes, notes: Notes) -> None:
    notes.reached.add(data[:2])
    if b"(#" in data:
        raise KeyError(data)
    if data.endswith(b"\x04\x04"):
        while True:
            pass
    broken_unless(len(data) < 3000, "too much is kept")


def test_a_broken_promise_is_found_shrunk_and_repeatable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Target("brittle", lambda: [b"(1)(2)"], _brittle)
    monkeypatch.setattr(fuzz, "LONGEST", 0.05)
    monkeypatch.setattr(fuzz, "TARGETS", {"brittle": target})
    _, failures = fuzz.run(3, "1", [target])
    found = {failure.what.partition(":")[0]: failure for failure in failures}
    assert found["KeyError"].data == b"(#"
    assert fuzz.tried(target, b"\x04\x04") == fuzz.Failure("brittle", b"\x04\x04", "no end in time", "")
    with pytest.raises(KeyError):
        fuzz.main(found["KeyError"].command.split()[4:])
    assert fuzz.main(["--minutes", "0.02", "--seed", "1", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["good"] is False
    assert told["seed"] == "1"


def test_an_input_that_breaks_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--replay", "texts:28"]) == 0
    assert "nothing is broken" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["--replay", "nobody:28"])
