"""Setting a meter's clock: only when needed, allowed and safe, and verified."""

import datetime as dt

import pytest

from contexts.catalogue import CallError
from contexts.lis200_times import local_time
from contexts.meters import Moment
from tests.contexts.scripted_meters import (
    BERLIN,
    ScriptedMeter,
    call,
    utc,
)


class TestSetTime:
    NOW = utc("2024-06-01T12:20:00")

    def meter(self, shown: str, gateway: dt.datetime = NOW, *, period: str = "60*min") -> ScriptedMeter:
        meter = ScriptedMeter()
        meter.gateway = gateway
        meter.objects = {"1:400.0": [shown], "4:150.0": [period], "2:141.0": ["06:00"]}
        return meter

    async def test_the_clock_is_set_in_the_meters_zone(self) -> None:
        meter = self.meter("2024-06-01,14:21:30")

        answer = await call(meter, "set_time")

        assert meter.written == [("1:0400.0", "2024-06-01,14:20:00")]
        assert answer.result == {
            "before": "2024-06-01T12:21:30+00:00",
            "after": "2024-06-01T12:20:00+00:00",
            "drift_seconds": 90.0,
            "remaining_seconds": 0.0,
            "set": True,
        }
        assert not answer.problems

    @pytest.mark.parametrize(
        ("shown", "allowed", "writes"),
        [("14:20:05", None, 0), ("14:20:06", None, 1), ("14:19:55", None, 0), ("14:19:54", None, 1),
         ("14:20:06", 60, 0), ("14:20:01", 0, 1)],
    )  # fmt: skip
    async def test_within_the_allowed_drift_nothing_is_done(self, shown: str, allowed: int | None, writes: int) -> None:
        meter = self.meter(f"2024-06-01,{shown}")
        before = list(meter.objects["1:400.0"])

        answer = await call(meter, "set_time", None, **({} if allowed is None else {"allowed_drift_seconds": allowed}))

        assert len(meter.written) == writes
        assert answer.result["set"] is bool(writes)
        assert writes or meter.objects["1:400.0"] == before
        assert answer.result["drift_seconds"] != 0

    @pytest.mark.parametrize(
        ("shown", "gateway", "period", "why"),
        [
            ("14:00:40", "12:00:10", "60*min", "a measuring period ends at 14:00"),
            ("13:59:10", "11:59:40", "60*min", "a measuring period ends at 14:00"),
            ("14:05:00", "11:55:00", "60*min", "a measuring period ends at 14:00"),
            ("14:14:50", "12:14:00", "15*min", "a measuring period ends at 14:15"),
            ("06:10:00", "04:10:40", "1440*min", None),
            ("05:59:50", "03:59:00", "1440*min", "a gas day ends at 06:00"),
            ("14:10:00", "12:20:00", "60*min", None),
            ("08:20:00", "12:20:00", "60*min", None),
        ],
    )
    async def test_around_the_end_of_a_period_it_is_refused_unless_forced(
        self, shown: str, gateway: str, period: str, why: str | None
    ) -> None:
        meter = self.meter(f"2024-06-01,{shown}", utc(f"2024-06-01T{gateway}"), period=period)

        if why is not None:
            with pytest.raises(CallError, match=why):
                await call(meter, "set_time")
            assert not meter.written
            await call(meter, "set_time", force=True)
        else:
            await call(meter, "set_time")
        assert len(meter.written) == 1

    @pytest.mark.parametrize("gateway", ["2024-10-27T00:20:00", "2024-10-27T01:40:00", "2024-03-31T00:20:00"])
    async def test_around_a_change_of_summer_time_it_is_refused_unless_forced(self, gateway: str) -> None:
        now = utc(gateway)
        meter = self.meter((local_time(BERLIN, now) - dt.timedelta(seconds=20)).strftime("%Y-%m-%d,%H:%M:%S"), now)

        with pytest.raises(CallError, match="summer time is within an hour"):
            await call(meter, "set_time")
        await call(meter, "set_time", force=True)

        assert len(meter.written) == 1

    async def test_a_logger_has_its_period_at_its_channel(self) -> None:
        meter = self.meter("2024-06-01,14:14:50", utc("2024-06-01T12:14:00"))
        meter.model = "DL220"
        meter.objects["5:150.0"] = ["15*min"]

        with pytest.raises(CallError, match="14:15"):
            await call(meter, "set_time")

    async def test_the_lines_delay_is_added(self) -> None:
        meter = self.meter("2024-06-01,14:30:00")
        meter.seconds_per_character = 1 / 30
        meter.seconds_per_exchange = 47 / 30 + 0.4  # the meter's reaction time and ours behind the answer

        answer = await call(meter, "set_time", force=True)

        # Asked at 14:20:00 and 14:30:00 shown when 16 characters had come; read by 14:20:01.97, 35 on the way.
        assert answer.result["drift_seconds"] == pytest.approx(600 - 16 / 30, abs=0.001)
        assert meter.written == [("1:0400.0", "2024-06-01,14:20:03")]

    async def test_how_often_a_read_was_repeated_does_not_delay_the_write(self) -> None:
        meter = self.meter("2024-06-01,14:30:00")
        meter.seconds_per_character = 1 / 960
        meter.reads_take = [3.0, 0.1]  # the first was asked twice

        answer = await call(meter, "set_time", force=True)

        assert answer.result["drift_seconds"] == pytest.approx(597, abs=0.1)
        assert meter.written == [("1:0400.0", "2024-06-01,14:20:03")]

    async def test_a_long_way_to_the_meter_is_half_of_the_time_that_a_read_takes(self) -> None:
        meter = self.meter("2024-06-01,14:30:00")
        meter.seconds_per_exchange = 4.0

        await call(meter, "set_time", force=True)

        # Three reads in 12 s, none quick; the write arrives 2 s later.
        assert meter.written == [("1:0400.0", "2024-06-01,14:20:14")]

    async def test_a_locked_clock_is_told_with_before_and_drift(self) -> None:
        meter = self.meter("2024-06-01,14:21:30")
        meter.refused = {"1:0400.0": 19}

        answer = await call(meter, "set_time")

        assert answer.result["drift_seconds"] == 90.0
        assert answer.result["set"] is False
        assert "#0019" in answer.problems[0]
        assert "3, supplier" in answer.problems[0]

    async def test_a_clock_that_takes_another_time_is_a_problem(self) -> None:
        meter = _StubbornClock(rows=[])
        meter.gateway, meter.objects = self.NOW, {"1:400.0": ["2024-06-01,14:21:30"]}

        answer = await call(meter, "set_time")

        assert answer.result["set"] is True
        assert "was set, but shows 2024-06-01T12:21:30+00:00 afterwards" in answer.problems[0]

    async def test_an_unbelieved_clock_does_not_spread(self) -> None:
        meter = self.meter("2024-06-01,14:21:30")
        at = meter.gateway

        with pytest.raises(CallError, match="not confirmed, nothing was set"):
            await call(meter, "set_time", Moment(at, at, clock_believed=False), force=True)

        assert meter.written == []

    async def test_in_the_repeated_hour_the_drift_is_not_an_hour(self) -> None:
        meter = self.meter("2024-10-27,02:30:05", utc("2024-10-27T01:30:00"))

        assert (await call(meter, "set_time")).result["drift_seconds"] == 5.0


class _StubbornClock(ScriptedMeter):
    async def write(self, address: str, value: str) -> None:
        self.written.append((address, value))
