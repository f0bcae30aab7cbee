"""The clock seam: shown time can be set, real time cannot."""

import datetime as dt
import pathlib
import time

import pytest

from agent.clocks import Clock, system_clock
from protocol.clock_settings import ClockSetting
from protocol.wire import ContractError


def test_without_a_setting_it_is_the_machine_s_clock() -> None:
    clock = system_clock({})
    assert not clock.settable
    assert clock.rate == 1.0
    assert abs(clock.now() - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)
    assert clock.now().tzinfo is dt.UTC


def test_a_set_clock_starts_where_it_was_set_and_runs_at_its_rate() -> None:
    anchor = time.time() - 10
    clock = Clock(ClockSetting(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), anchor, 60.0))
    shown = clock.now() - dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert dt.timedelta(minutes=10) <= shown < dt.timedelta(minutes=12)
    assert abs(clock.system_now() - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)


async def test_sleep_counts_in_shown_time_and_monotonic_in_real_time() -> None:
    clock = Clock(ClockSetting(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), time.time(), 3600.0))
    before, real = clock.now(), clock.monotonic()
    await clock.sleep(360)
    await clock.sleep(-5)
    assert clock.now() - before >= dt.timedelta(seconds=359)
    assert 0.09 < clock.monotonic() - real < 5


def test_the_clock_cannot_be_set_on_a_real_gateway() -> None:
    with pytest.raises(ContractError, match="METERGATE_ENVIRONMENT"):
        system_clock({"METERGATE_CLOCK": "2026-01-01T00:00:00Z,60"})
    clock = system_clock({"METERGATE_CLOCK": "2026-01-01T00:00:00Z,60", "METERGATE_ENVIRONMENT": "test"})
    assert clock.settable


def test_a_clock_that_goes_by_a_file_follows_it_and_is_refused_on_a_real_gateway(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "clock"
    path.write_text(f"2026-01-01T00:00:00Z@{time.time()!r},1", encoding="utf-8")
    with pytest.raises(ContractError, match="METERGATE_ENVIRONMENT"):
        system_clock({"METERGATE_CLOCK_FILE": str(path)})
    with pytest.raises(ContractError, match="METERGATE_CLOCK_FILE"):
        system_clock({"METERGATE_CLOCK_FILE": str(tmp_path / "none"), "METERGATE_ENVIRONMENT": "test"})
    clock = system_clock({"METERGATE_CLOCK_FILE": str(path), "METERGATE_ENVIRONMENT": "test"})
    assert (clock.now().year, clock.judged, clock.settable) == (2026, False, True)
    fresh = tmp_path / "fresh"
    fresh.write_text(f"2036-01-01T00:00:00Z@{time.time()!r},60,judged", encoding="utf-8")
    fresh.replace(path)
    assert (clock.now().year, clock.rate, clock.judged, clock.synchronised()) == (2036, 60.0, True, False)
