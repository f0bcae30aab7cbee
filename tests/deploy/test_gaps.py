"""The demo's strip: what it shows, and which gaps it counts, of what a hub answers."""

import datetime as dt
from typing import Any

from deploy.demo.gaps import QUARTER, Watch
from deploy.demo.hub_client import HubClient

SIX = dt.datetime(2026, 3, 2, 6, tzinfo=dt.UTC)
EVIDENCE = "archive 2 was asked; the meter answered: #0103"


def answer(minutes: int, *states: str) -> list[dict[str, Any]]:
    """Return what ``/v1/completeness/slots`` says so many minutes after six, a span for each quarter of an hour."""
    spans = [
        {
            "start": (SIX + position * QUARTER).isoformat(),
            "end": (SIX + position * QUARTER).isoformat(),
            "state": state,
            "reason": "not_brought" if state == "missing" else "",
            "evidence": EVIDENCE if state == "unrecoverable" else "",
        }
        for position, state in enumerate(states)
    ]
    return [{"as_of": (SIX + dt.timedelta(minutes=minutes)).isoformat(), "spans": spans}]


def backfill(state: str, first: int, last: int) -> dict[str, Any]:
    start, end = (SIX + position * QUARTER for position in (first, last))
    return {"state": state, "start": start.isoformat(), "end": end.isoformat()}


def watch() -> Watch:
    return Watch(HubClient("http://127.0.0.1:9", ""), "device", "series", SIX)


def test_a_gap_opens_is_fetched_and_closes() -> None:
    seen = watch()
    seen.take(answer(40, "stored", "missing", "due"), [])
    assert seen.strip() == "06:00 =?."
    assert seen.told() == "1 missing (not brought)"
    assert not seen.is_whole()
    seen.take(answer(55, "stored", "missing", "missing", "stored"), [backfill("settling", 1, 1)])
    assert seen.strip() == "06:00 =~?="
    assert seen.told() == "1 missing (not brought), 1 being fetched"
    seen.take(answer(70, "stored", "stored", "unrecoverable", "stored"), [backfill("done", 1, 2)])
    assert seen.strip() == "06:00 ==x="
    assert seen.is_whole()
    assert list(seen.evidence()) == [(SIX + 2 * QUARTER, EVIDENCE)]
    (gap,) = seen.gaps()
    assert (gap.start, gap.end) == (SIX + QUARTER, SIX + 2 * QUARTER)
    assert gap.closed is not None
    assert gap.closed - gap.seen == dt.timedelta(minutes=30)


def test_two_gaps_with_something_between_them_are_two_and_one_that_is_open_is_open() -> None:
    seen = watch()
    seen.take(answer(80, "missing", "stored", "missing", "missing", "due"), [])
    seen.take(answer(95, "stored", "stored", "stored", "missing", "stored"), [])
    first, second = seen.gaps()
    assert first.closed == SIX + dt.timedelta(minutes=95)
    assert second.closed is None
    assert not seen.is_whole()


def test_what_is_not_pushed_after_the_end_is_no_gap() -> None:
    seen = watch()
    seen.until = SIX + QUARTER
    seen.take(answer(80, "stored", "stored", "missing", "missing"), [])
    assert seen.gaps() == []
    assert seen.strip() == "06:00 =="


def test_what_was_only_due_is_no_gap() -> None:
    seen = watch()
    seen.take(answer(20, "stored", "due"), [])
    seen.take(answer(35, "stored", "stored"), [])
    assert seen.gaps() == []
    assert not seen.is_whole()
    assert seen.told() == "nothing is missing"
