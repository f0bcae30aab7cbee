import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.lis200_times import candidates, local_time, meter_window, nearest, resolve, summer_hints

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")

ZONES = [
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/London",
    "Australia/Lord_Howe",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Asia/Tehran",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Antarctica/Troll",
    "UTC",
]


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def naive(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def changes(zone: ZoneInfo) -> list[dt.datetime]:
    """Every change of offset in 2011 to 2026, to the minute, found by plain search."""
    found = []
    instant = utc("2011-06-01")
    while instant < utc("2026-06-01"):
        following = instant + dt.timedelta(hours=12)
        if instant.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            exact = instant
            while exact.astimezone(zone).utcoffset() == instant.astimezone(zone).utcoffset():
                exact += dt.timedelta(minutes=15)
            found.append(exact)
        instant = following
    return found


CHANGES = {name: changes(ZoneInfo(name)) for name in ZONES}


@st.composite
def regular_rows(draw: st.DrawFn) -> tuple[ZoneInfo, list[dt.datetime]]:
    """True instants of the rows of a regular archive around a change (or anywhere), neighbours on both sides."""
    name = draw(st.sampled_from(ZONES))
    zone = ZoneInfo(name)
    step = dt.timedelta(minutes=draw(st.sampled_from([1, 3, 5, 15, 30, 60, 120, 180, 1440])))
    near = draw(st.sampled_from(CHANGES[name] or [utc("2024-03-31T01:00")]))
    # Meters count their periods from the full hour, so the rows lie on a multiple of the period.
    base = dt.datetime.fromtimestamp(near.timestamp() // step.total_seconds() * step.total_seconds(), dt.UTC)
    reach = dt.timedelta(hours=5) // step + 2
    first, last = draw(st.integers(-reach - 3, -reach)), draw(st.integers(reach, reach + 3))
    return zone, [base + step * position for position in range(first, last + 1)]


@given(regular_rows())
def test_local_stamps_in_row_order_resolve_to_the_true_instants(case: tuple[ZoneInfo, list[dt.datetime]]) -> None:
    zone, instants = case

    assert resolve(zone, [local_time(zone, instant) for instant in instants]) == instants


@given(regular_rows(), st.data())
def test_a_cut_in_utc_is_within_what_the_meter_is_asked(
    case: tuple[ZoneInfo, list[dt.datetime]], data: st.DataObject
) -> None:
    zone, instants = case
    start = data.draw(st.sampled_from(instants)) + dt.timedelta(seconds=data.draw(st.integers(-5000, 5000)))
    end = start + dt.timedelta(seconds=data.draw(st.integers(0, 30_000)))

    low, high = meter_window(zone, start, end)
    assert high is not None
    # The meter compares what its rows show, nothing else; what it answers is resolved and cut exactly.
    answered = [shown for shown in (local_time(zone, instant) for instant in instants) if low <= shown <= high]
    resolved = [instant for instant in resolve(zone, answered) if start <= instant <= end]

    expected = [instant for instant in instants if start <= instant <= end]
    if instants[1] - instants[0] <= dt.timedelta(hours=1):
        assert resolved == expected
    else:  # of rarer rows the neighbours that decide may lie outside the window: none is lost, none is invented
        stamps = [set(candidates(zone, local_time(zone, instant))) for instant in instants]
        doubtful = {instant for stamp in stamps if len(stamp) > 1 for instant in stamp}
        assert set(resolved) - doubtful <= set(expected)
        assert set(expected) - doubtful <= set(resolved)


@pytest.mark.parametrize(
    ("zone", "stamps", "expected"),
    [
        pytest.param(
            BERLIN,
            ["2024-10-27T01:00", "2024-10-27T02:00", "2024-10-27T02:00", "2024-10-27T03:00"],
            ["2024-10-26T23:00", "2024-10-27T00:00", "2024-10-27T01:00", "2024-10-27T02:00"],
            id="hours through the autumn change",
        ),
        pytest.param(
            BERLIN,
            ["2024-10-27T02:30", "2024-10-27T02:45", "2024-10-27T03:00", "2024-10-27T02:15", "2024-10-27T02:30"],
            ["2024-10-27T00:30", "2024-10-27T00:45", "2024-10-27T01:00", "2024-10-27T01:15", "2024-10-27T01:30"],
            id="the period that ends at the change is stamped before the clock is put back",
        ),
        pytest.param(
            BERLIN,
            ["2024-10-27T03:00", "2024-10-27T02:15"],
            ["2024-10-27T01:00", "2024-10-27T01:15"],
            id="the same as the first row of an answer",
        ),
        pytest.param(
            BERLIN,
            ["2024-10-27T01:45", "2024-10-27T02:00"],
            ["2024-10-26T23:45", "2024-10-27T00:00"],
            id="a single doubtful row, decided by the row before",
        ),
        pytest.param(
            BERLIN,
            ["2024-10-27T02:45", "2024-10-27T03:00"],
            ["2024-10-27T01:45", "2024-10-27T02:00"],
            id="a single doubtful row, decided by the row after",
        ),
        pytest.param(
            BERLIN,
            ["2024-03-31T01:45", "2024-03-31T02:00", "2024-03-31T03:15"],
            ["2024-03-31T00:45", "2024-03-31T01:00", "2024-03-31T01:15"],
            id="the period that ends at the spring change is stamped 02:00",
        ),
        pytest.param(
            BERLIN,
            ["2024-03-31T02:15", "2024-03-31T02:30"],
            ["2024-03-31T01:15", "2024-03-31T01:30"],
            id="a clock that does not go forward in spring",
        ),
        pytest.param(
            LORD_HOWE,
            ["2024-04-07T01:15", "2024-04-07T01:30", "2024-04-07T01:45", "2024-04-07T01:30", "2024-04-07T01:45"],
            ["2024-04-06T14:15", "2024-04-06T14:30", "2024-04-06T14:45", "2024-04-06T15:00", "2024-04-06T15:15"],
            id="half an hour back on Lord Howe Island",
        ),
        pytest.param(
            BERLIN,
            ["2010-03-28T02:52:27", "2010-03-28T03:09:04", "2010-03-28T02:09:05"],
            ["2010-03-28T01:52:27", "2010-03-28T01:09:04", "2010-03-28T01:09:05"],
            id="clock put back by hand in the spring hour, as a real DL220 logged it",
        ),
        pytest.param(
            BERLIN,
            ["2024-06-01T10:00", "2024-06-01T09:30", "2024-06-01T09:45"],
            ["2024-06-01T08:00", "2024-06-01T07:30", "2024-06-01T07:45"],
            id="a clock that was put back keeps its rows in order",
        ),
    ],
)
def test_known_nights(zone: ZoneInfo, stamps: list[str], expected: list[str]) -> None:
    assert resolve(zone, [naive(stamp) for stamp in stamps]) == [utc(instant) for instant in expected]


def test_the_summer_time_message_decides_where_order_cannot() -> None:
    # The whole first pass is missing; the rows lie as evenly in either pass.
    stamps = [naive(f"2024-10-27T{text}") for text in ("01:45", "02:15", "02:30", "02:45", "03:15")]
    active: list[bool | None] = [True, False, False, False, False]

    resolved = resolve(BERLIN, stamps, summer=summer_hints(stamps, active))

    assert resolved[1:4] == [utc(f"2024-10-27T01:{minute}") for minute in (15, 30, 45)]


def test_a_meter_that_never_shows_summer_time_says_nothing_by_it() -> None:
    assert summer_hints([naive("2024-10-27T02:15")], [False]) == [None]


def test_what_is_known_of_the_first_row_decides_the_rest() -> None:
    stamps = [naive("2024-10-27T02:15"), naive("2024-10-27T02:30")]

    assert resolve(BERLIN, stamps, first=utc("2024-10-27T01:15"))[1] == utc("2024-10-27T01:30")
    assert resolve(BERLIN, stamps, first=utc("2024-10-27T00:15"))[1] == utc("2024-10-27T00:30")


def test_a_time_alone_is_the_one_nearest_to_now() -> None:
    doubtful = naive("2024-10-27T02:30")

    assert nearest(BERLIN, doubtful, utc("2024-10-27T01:31")) == utc("2024-10-27T01:30")
    assert nearest(BERLIN, doubtful, utc("2024-10-27T00:31")) == utc("2024-10-27T00:30")


def test_a_window_away_from_changes_is_asked_as_it_is() -> None:
    assert meter_window(BERLIN, utc("2024-07-01T06:00"), utc("2024-07-01T07:00")) == (
        naive("2024-07-01T08:00"),
        naive("2024-07-01T09:00"),
    )
    assert meter_window(BERLIN, utc("2024-07-01T06:00")) == (naive("2024-07-01T08:00"), None)


def test_a_window_within_the_repeated_hour_is_asked_wide_enough() -> None:
    assert meter_window(BERLIN, utc("2024-10-27T00:30"), utc("2024-10-27T01:15")) == (
        naive("2024-10-27T01:00"),
        naive("2024-10-27T04:00"),
    )
