"""The soak in its shortest form: one line, a few seconds of everything that an hour has."""

import json

import pytest

from benchmarks import soak, soak_site

JUDGED = ("missing", "duplicates", "wrong", "commands_run_twice", "commands_without_end", "unexplained")


LEAD_SECONDS, MORE_TIME = 40.0, 2.0
"""Beside other tests the site does not stand in the bench's own 15 s, and would be set up once more with 75."""


def test_a_moment_of_ordinary_life(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_site, "LEAD_SECONDS", LEAD_SECONDS)
    monkeypatch.setattr(soak_site, "MORE_TIME", MORE_TIME)
    soak.main(["--minutes", "0.2", "--lines", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert {name: result[name] for name in JUDGED} == dict.fromkeys(JUDGED, 0), result["examples"]
    assert not result["ended_by_themselves"]
    assert result["expected"] > 100
    assert result["broker_restarts"] >= 1
    assert result["plan_edits"] >= 1
    assert {"agent", "rest", "relay", "broker", "postgres", "lines-0"} <= result["processes"].keys()
    assert result["store_rows"] > 100
