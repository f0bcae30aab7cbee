"""Archives: deterministic rows, numbers as a device counts them, clock changes, truth."""

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agent.simulator.archives import Row
from agent.simulator.bus import VirtualBus, virtual_bus
from agent.simulator.meters import VirtualMeter
from tests.agent.simulator.plain_reader import SetClock

MODELS = ["EK280", "TC220", "DL220"]
AUTUMN = dt.datetime(2025, 10, 26, 3, 30, tzinfo=dt.UTC)


def meter(
    model: str,
    now: Callable[[], dt.datetime],
    *,
    history_days: float = 2,
    interval: int = 60,
    seed: int = 1,
    drift: float = 0,
    truth: Path | None = None,
) -> VirtualMeter:
    bus = virtual_bus(
        f"1:4711:{model}", now=now, history_days=history_days, interval=interval, seed=seed, drift=drift, truth=truth
    )
    return bus.meters[0]


def everything(of: VirtualMeter) -> list[Row]:
    return of.archives.everything()


@pytest.mark.parametrize("model", MODELS)
def test_any_process_at_any_time_computes_the_same_rows(model: str, clock: SetClock) -> None:
    old = meter(model, clock.now, history_days=40)
    clock.advance(days=1, minutes=17)
    old.advance()
    fresh = meter(model, clock.now, history_days=5)
    rows = everything(fresh)
    assert rows
    assert everything(old)[-len(rows) :] == rows
    assert everything(meter(model, clock.now, history_days=5, seed=2)) != rows


@pytest.mark.parametrize("model", MODELS)
def test_numbers(model: str, clock: SetClock) -> None:
    """AONo has no gaps within an archive; GONo counts all rows of the device, so it has gaps within each of them."""
    it = meter(model, clock.now, history_days=40)
    everywhere = [row.gono for row in everything(it)]
    assert everywhere == sorted(set(everywhere))
    for archive in it.persona.archives:
        rows = it.archives.rows(archive.number)
        assert [row.aono for row in rows] == list(range(rows[0].aono, rows[0].aono + len(rows)))
        assert len({len(row.groups) for row in rows} | {len(archive.layout)}) == 1
    hours = it.archives.rows(2 if model == "DL220" else 3)
    assert any(later.gono - row.gono > 1 for row, later in zip(hours, list(hours)[1:], strict=False))


@pytest.mark.parametrize("model", MODELS)
def test_totals_only_grow(model: str, clock: SetClock) -> None:
    it = meter(model, clock.now, history_days=10, interval=15)
    for archive in it.persona.archives:
        rows = it.archives.rows(archive.number)
        for source in rows[0].values if rows else ():
            if source.split(":")[1] in {"300", "302", "202", "203"}:
                totals = [Decimal(row.values[source]) for row in rows]
                assert totals == sorted(totals)
                assert totals[0] < totals[-1]


def test_a_single_value_continues_its_archive(clock: SetClock) -> None:
    clock.instant = dt.datetime(2025, 3, 12, 10, 0, 0, tzinfo=dt.UTC)
    it = meter("EK280", clock.now)
    assert it.quantity("2:300") == it.archives.rows(3)[-1].values["2:300"]


def test_model_layouts(clock: SetClock) -> None:
    counts = {
        model: {archive.number: len(archive.layout) for archive in meter(model, clock.now).persona.archives}
        for model in MODELS
    }
    assert counts == {
        "EK280": {1: 22, 2: 36, 3: 18, 4: 5, 5: 11, 7: 18},
        "TC220": {1: 22, 3: 14, 4: 5, 5: 11, 7: 14},
        "DL220": {1: 14, 2: 9, 3: 14, 4: 9, 10: 5},
    }


def test_the_repeated_hour_has_its_rows_twice(clock: SetClock) -> None:
    clock.instant = AUTUMN
    it = meter("EK280", clock.now, history_days=0.18)
    rows = [row for row in it.archives.rows(3) if row.event == 0x8104]
    assert [(row.groups[2][11:], row.groups[15]) for row in rows] == [
        ("02:00:00", "16"),
        ("02:00:00", "0"),
        ("03:00:00", "0"),
        ("04:00:00", "0"),
    ]
    assert [row.groups[3] for row in it.archives.rows(4) if row.event == 0x1F02] == ["0x1F02"]


def test_battery_operation_is_shown_beside_summer_time(clock: SetClock) -> None:
    clock.instant = dt.datetime(2025, 7, 1, 12, tzinfo=dt.UTC)
    assert meter("TC220", clock.now).archives.rows(3)[-1].groups[11] == "15;16"


def test_changes_of_parameters_leave_rows_off_the_hour(clock: SetClock) -> None:
    rows = list(meter("EK280", clock.now, history_days=20).archives.rows(3))
    pairs = [(row, rows[index + 1]) for index, row in enumerate(rows) if row.event == 0x8303]
    assert 5 <= len(pairs) <= 7
    for before, after in pairs:
        assert after.event == 0x8203
        assert after.clock == before.clock + 1
        assert before.clock % 3600
    assert sum(row.event == 0x8104 for row in rows) == 20 * 24


def test_the_archive_reaches_back_as_far_as_asked(clock: SetClock) -> None:
    rows = meter("EK280", clock.now, history_days=1, interval=15).archives.rows(3)
    assert sum(row.event == 0x8104 for row in rows) == 96
    assert clock.now().timestamp() - rows[0].clock <= 86400


def test_setting_the_clock_moves_stamps_but_not_the_gas(clock: SetClock, tmp_path: Path) -> None:
    it = meter("EK280", clock.now, truth=tmp_path / "truth")
    gas = Decimal(it.quantity("2:300"))
    it.set_clock(dt.datetime(2025, 3, 12, 8, 15, 0))  # noqa: DTZ001 - a meter's local time; it showed 10:30:10
    before, after = list(it.archives.rows(3))[-2:]
    assert (before.event, before.groups[2]) == (0x8303, "2025-03-12,10:30:10")
    assert (after.event, after.groups[2]) == (0x8203, "2025-03-12,08:15:00")
    assert before.values["2:300"] == after.values["2:300"] == str(gas)
    audit = list(it.archives.rows(5))[-1]
    assert audit.groups[3:6] == ("0001:0400", "2025-03-12,10:30:10", "2025-03-12,08:15:00")
    clock.advance(hours=1)
    it.advance()
    again = list(it.archives.rows(3))[-1]
    assert (again.groups[2], again.aono) == ("2025-03-12,09:00:00", after.aono + 1)
    assert Decimal(again.values["2:300"]) > gas
    it.close()
    last = json.loads((tmp_path / "truth").read_text().splitlines()[-1])
    assert (last["timestamp"], last["aono"]) == ("2025-03-12T08:00:00Z", again.aono)


def test_a_drifting_clock_is_late_or_early(clock: SetClock) -> None:
    it = meter("EK280", clock.now, drift=3600)
    assert it.archives.rows(3)[-1].groups[2] == "2025-03-12,11:00:00"
    assert it.quantity("system status") == "0"


def test_before_the_meters_were_put_into_service_there_is_nothing(clock: SetClock) -> None:
    clock.instant = dt.datetime(2019, 5, 1, tzinfo=dt.UTC)
    assert everything(meter("EK280", clock.now)) == []


def test_the_truth_is_what_the_archives_hold(clock: SetClock, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    bus = virtual_bus("1:4711:EK280", "2:4712:TC220", "3:4713:DL220", now=clock.now, truth=truth, history_days=35)
    clock.advance(hours=5)
    for it in bus.meters:
        it.advance()
    bus.close()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert _told(lines) == _held(bus)
    row = next(line for line in lines if line["archive"] == 3 and line["serial"] == "4711")
    assert set(row["values"]) == {"2:300", "2:302", "4:300", "4:302", "7:310", "6:310_1", "8:310", "5:310"}
    assert row["units"]["6:310_1"] == "°C"
    assert row["units"]["7:310"] == "bar"
    local = dt.datetime.strptime(row["local"], "%Y-%m-%d,%H:%M:%S").replace(tzinfo=ZoneInfo("Europe/Berlin"))
    assert local == dt.datetime.fromisoformat(row["timestamp"])


def _told(lines: list[dict[str, Any]]) -> set[tuple[str, int, int, tuple[str, ...]]]:
    return {(line["serial"], line["archive"], line["aono"], tuple(line["row"])) for line in lines}


def _held(bus: VirtualBus) -> set[tuple[str, int, int, tuple[str, ...]]]:
    return {(it.serial, row.archive, row.aono, row.groups) for it in bus.meters for row in everything(it)}


def test_a_short_archive_overwrites_its_oldest_rows_and_the_others_are_as_long_as_ever(clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280,rows=5", "2:4712:EK280", now=clock.now, interval=15, history_days=2)
    short, usual = bus.meters
    assert len(short.archives.rows(3)) == 5
    assert len(usual.archives.rows(3)) >= 192
    assert len(short.archives.rows(7)) == len(usual.archives.rows(7))
    newest = short.archives.rows(3)[-1]
    clock.advance(minutes=30)
    short.advance()
    assert [row.aono - newest.aono for row in short.archives.rows(3)] == [-2, -1, 0, 1, 2]
    bus.close()


@pytest.mark.parametrize("word", ["rows=0", "rows=many", "rows"])
def test_an_archive_without_rows_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="rows=NUMBER"):
        virtual_bus(f"1:4711:EK280,{word}")
