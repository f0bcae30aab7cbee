"""Virtual DLMS meters say what their receiver takes: plain, ciphered, over a way that loses, doubles and swaps."""

import datetime as dt
import decimal
from zoneinfo import ZoneInfo

import pytest

from agent.simulator.bus import virtual_bus
from agent.simulator.pushing import Hazards, Way
from agent.simulator.pushing_dlms import CipheredDlmsMeter, DlmsMeter, GasDlmsMeter, keys, title_of
from receivers.catalogue import check_receiver, find_receiver
from receivers.receiver import Arrival, KnownMeter, Meters, Pushed, Undecodable

AT = dt.datetime(2026, 3, 29, 0, 59, 58, 700_000, tzinfo=dt.UTC)


def receive(frames: list[bytes], meters: Meters, at: dt.datetime = AT, **kwargs: object) -> list[Arrival]:
    receiver = find_receiver("dlms_push")
    intake = receiver.open(check_receiver("dlms_push", "udp://127.0.0.1:4059", kwargs), meters, b"")
    found: list[Arrival] = []
    for frame in frames:
        decoder = intake.connection()
        found += [*decoder.receive(frame, at), *decoder.end(at)]
    return found


def test_what_a_plain_meter_says_is_what_is_read() -> None:
    meter = DlmsMeter(7, "E0017")
    found = receive([meter.payload(AT)], Meters(), security="none")
    said = [(one.meter, one.series, one.value, one.unit, one.timestamp) for one in meter.said(AT)]
    assert [
        (one.meter, one.series, one.value, one.unit, one.timestamp) for one in found if isinstance(one, Pushed)
    ] == said


@pytest.mark.parametrize("serial", ["4D4D4D0000BC614E", "E0017"])
def test_a_ciphered_meter_is_known_by_its_title_and_opened_by_its_keys(serial: str) -> None:
    meter = CipheredDlmsMeter(7, serial)
    known = KnownMeter(meter.title.hex(), "M1", ZoneInfo("Europe/Vienna"), keys(7, serial))
    found = receive([meter.payload(AT)], Meters([known]))
    said = [(one.meter, one.value, one.timestamp) for one in meter.said(AT)]
    assert [(one.meter, one.value, one.timestamp) for one in found if isinstance(one, Pushed)] == said
    (strange,) = receive([CipheredDlmsMeter(8, serial).payload(AT)], Meters([known]))
    assert isinstance(strange, Undecodable)
    assert len(title_of(serial)) == 8


def test_what_a_way_loses_is_missing_and_nothing_comes_twice() -> None:
    meter = CipheredDlmsMeter(7, "E0017")
    known = KnownMeter(meter.title.hex(), "M1", ZoneInfo("UTC"), keys(7, "E0017"))
    way = Way(Hazards(loss=0.1, double=0.2, swap=0.2), 3)
    instants = [AT.replace(microsecond=0) + dt.timedelta(seconds=n) for n in range(200)]
    frames = [frame for at in instants for frame in way.passes(meter.payload(at))]
    found = receive(frames, Meters([known]))
    times = [one.timestamp for one in found if isinstance(one, Pushed) and one.series == "1-0:1.8.0"]
    assert way.lost > 5
    assert way.doubled > 5
    assert way.swapped > 5
    assert len(times) == len(set(times))
    assert 200 - way.lost - 1 <= len(times) <= 200 - way.lost
    assert not [one for one in found if isinstance(one, Undecodable)]


def test_a_volume_corrector_pushes_what_its_archive_has() -> None:
    bus = virtual_bus("1:4711:EK280", seed=7, now=lambda: AT, interval=15, history_days=0.5)
    rows = [row for row in bus.meters[0].archives.rows(3) if row.event == 0x8104]
    meter = GasDlmsMeter(7, "4711")
    for row in rows:
        at = dt.datetime.fromtimestamp(row.clock, dt.UTC)
        (found,) = receive([meter.payload(at)], Meters(), security="none")
        assert isinstance(found, Pushed)
        assert (found.meter, found.series, found.unit, found.timestamp) == ("4711", "7-0:3.0.0", "m3", at)
        assert found.value == decimal.Decimal(row.values["4:300"])
    assert len(rows) == 48
    bus.close()
