"""Pushed, polled and both, with real processes: a gateway without power for six hours, a way that loses datagrams.

Two volume correctors push a counter every quarter of an hour over UDP, which loses a tenth, and are polled for a value
that they never push. A third is polled for its archive, which is so short that some two of the six hours are
overwritten when the power is back. All is judged from outside: by REST, the simulators' truth and their wire log.
"""

import collections
import dataclasses
import datetime as dt
import decimal
import json
import pathlib
import re
import signal
import socket
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.mosquitto import free_port
from deploy.demo.expected import instant
from tests.parts.databases import OF_WALKS, database_url
from tests.parts.site import Site, site

__all__ = ["database_url"]

RATE = 1200.0
"""An hour passes in three seconds."""
HOUR, QUARTER = dt.timedelta(hours=1), dt.timedelta(minutes=15)
AWAY, KEPT_ROWS = 6 * HOUR, 18
PUSHING = {"Heating plant": "4011220", "Bakery": "4011221"}
POLLED, POLLED_SERIAL = "Hospital", "4011222"
VOLUME, PRESSURE = "7-0:3.0.0", "7:310/3"
LATE_SECONDS = 2.5
"""Real seconds after which a run is late, before the next one is due: meters share the line, and machines are busy."""
WASTE = 1.3
"""Bytes that backfills may move for each byte that who knew all would have needed."""


def due(series: str) -> list[dict[str, object]]:
    """One archived series, every quarter of an hour."""
    return [{"series": series, "interval": "quarter_hour", "archive": 3}]


def build(opened: Site) -> None:
    """Have the hub know three meters on one line, two of which push as well."""
    endpoint = opened.start_line(
        "one",
        *(f"{address}:{serial}" for address, serial in enumerate(PUSHING.values(), 1)),
        extra=(
            *("--meter", f"3:{POLLED_SERIAL}:EK280,rows={KEPT_ROWS}"),
            *("--log", str(opened.folder / "wire.jsonl")),
        ),
    )
    opened.create_basics()
    opened.create_series({VOLUME: "m3"})
    opened.create_gateway("gw-1", endpoint)
    opened.create_task("pressure", "read_single_value", schedule="hourly", address="7:310")
    opened.create_task(
        "archive",
        "read_archive_by_offset_seconds",
        schedule="hourly",
        offset_seconds=5400,
        archive_number=3,
        control_position=3,
    )
    mappings = [{"archive": 3, "source": "4:300", "series": VOLUME}]
    opened.create_type("pushing", "Elster", opened.series, model="EK280", expectations=due(VOLUME), mappings=mappings)
    for address, (name, serial) in enumerate(PUSHING.items(), 1):
        opened.create_meter(name, serial, "gw-1", "pressure", address=str(address), kind="pushing")
        opened.hub.patch(f"/v1/metering/meter-devices/{opened.devices[name]}", dlms_system_title=serial)
    opened.create_type("polled", "Elster", opened.series, model="EK280", expectations=due(PRESSURE))
    opened.create_meter(POLLED, POLLED_SERIAL, "gw-1", "archive", address="3", kind="polled")
    port = free_port(socket.SOCK_DGRAM)
    opened.hub.post(
        "/v1/receivers",
        organization=opened.organization,
        gateway=opened.gateways["gw-1"],
        name="modems",
        receiver="dlms_push",
        endpoint=f"udp://127.0.0.1:{port}",
        receiver_kwargs={"security": "none"},
        meter_devices=[opened.devices[name] for name in PUSHING],
    )
    serials = [part for serial in PUSHING.values() for part in ("--serial", serial)]
    opened.stage.start(
        "modems",
        [
            *("metergate-agent", "push", "dlms_push_gas", f"udp:127.0.0.1:{port}", *serials, "--seed", "5"),
            *("--aligned", "--every", "900", "--loss", "0.1", "--truth", str(opened.folder / "pushed.jsonl")),
        ],
        hello=True,
    )


@pytest.mark.parametrize("database_url", OF_WALKS, indirect=True)
def test_after_six_hours_away_every_slot_is_stored_or_lost_for_good(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path, rate=RATE) as opened:
        build(opened)
        opened.start_agent("gw-1")
        opened.wait_for("a run of each", lambda: opened.count("/v1/runs/", outcome="done") >= len(opened.devices))
        begun, off = first_run(opened), opened.clock.now()
        opened.kill_agent("gw-1")
        opened.wait_for("its absence is noticed", lambda: not opened.gateway("gw-1")["online"])
        opened.clock.wait_until(off + AWAY, lambda: None)
        opened.start_agent("gw-1")
        opened.wait_for("it is back", lambda: bool(opened.gateway("gw-1")["online"]))
        back = opened.clock.now()
        opened.wait_for("a gap is being fetched", lambda: opened.count("/v1/commands/", origin="backfill") > 0)
        # What is under way is known to the database alone.
        opened.signal_hub(signal.SIGKILL)
        opened.start_hub()
        opened.clock.wait_until(back + HOUR, lambda: None)
        span = {"start": begun.isoformat(), "end": opened.clock.now().isoformat()}
        opened.wait_for(
            "every slot is stored or lost for good",
            lambda: whole(opened.hub.get("/v1/completeness", organization=opened.organization, **span)),
        )
        slots_are_told(opened, span, off, back)
        values_are_the_meters(opened)
        schedules_were_in_time(opened, back)
        nothing_was_fetched_without_need(opened)


def first_run(opened: Site) -> dt.datetime:
    """Return the first tick that was run: who is polled before there is a gateway cannot be read."""
    return max(instant(run["tick"]) for run in opened.hub.all("/v1/runs/", outcome="done") if run["tick"])


def whole(total: dict[str, Any]) -> bool:
    """Whether every slot is stored or lost for good."""
    return bool(total["expected"]) and total["expected"] == total["stored"] + total["unrecoverable"]


def slots_are_told(opened: Site, span: dict[str, str], off: dt.datetime, back: dt.datetime) -> None:
    """What is lost for good was overwritten, or shown while nobody looked; each says so."""
    lost = collections.Counter[str]()
    polls = list(opened.hub.all("/v1/runs/", task=opened.tasks["archive"], outcome="done"))
    polled = min(instant(run["ended"]) for run in polls if instant(run["started"]) > back)
    for name, device in opened.devices.items():
        for series in {POLLED: (PRESSURE,)}.get(name, (VOLUME, "7:310")):
            [found] = opened.hub.get(
                "/v1/completeness/slots", meter_device=device, series=opened.series[series], **span
            )
            assert found["spans"], (name, series)
            for one in found["spans"]:
                assert one["state"] in {"stored", "unrecoverable"}, (name, series, one)
                if one["state"] == "stored":
                    continue
                lost[series] += one["count"]
                assert off - HOUR <= instant(one["start"]) <= instant(one["end"]) <= back + HOUR, one
                if series == PRESSURE:
                    # The first poll after it would have brought what was not overwritten.
                    assert instant(one["end"]) <= polled - KEPT_ROWS * QUARTER
                    assert "archive 3 was asked from" in one["evidence"]
                    assert "#0103" in one["evidence"]
                else:
                    # Missed while the gateway was away, or begun and never read: killed, or behind others on the line.
                    assert (series, one["reason"] in {"skipped", "line", "interrupted"}) == ("7:310", True), one
                    assert one["evidence"]
    # 18 rows are four and a half hours. What else is lost is what it took to come back.
    assert lost[PRESSURE] >= (AWAY - KEPT_ROWS * QUARTER) // QUARTER, lost
    assert lost["7:310"] >= len(PUSHING) * (AWAY // HOUR - 1), lost
    assert lost[VOLUME] == 0


def values_are_the_meters(opened: Site) -> None:
    """Pushed or fetched, a value is the meter's own, and both ways bring the same one."""
    said = {
        (row["meter"], instant(row["timestamp"])): decimal.Decimal(row["value"])
        for row in map(json.loads, (opened.folder / "pushed.jsonl").read_text().splitlines())
    }
    for name, serial in PUSHING.items():
        readings = list(volumes(opened, name))
        assert len({row["timestamp"] for row in readings}) == len(readings) > 0
        for row in readings:
            at = instant(row["timestamp"])
            if (serial, at) in said:
                assert decimal.Decimal(row["value"]) == said[serial, at]
    assert opened.count("/v1/metering/staged-meter-readings") == 0


def volumes(opened: Site, name: str) -> Iterator[dict[str, Any]]:
    return opened.hub.all(
        "/v1/metering/meter-readings", meter_device=opened.devices[name], series=opened.series[VOLUME]
    )


def schedules_were_in_time(opened: Site, back: dt.datetime) -> None:
    runs = [run for run in opened.hub.all("/v1/runs/", outcome="done") if run["tick"] and instant(run["tick"]) > back]
    late = [(instant(run["started"]) - instant(run["tick"])).total_seconds() / RATE for run in runs]
    assert len(runs) >= 3
    assert max(late) < LATE_SECONDS, sorted(late)


@dataclasses.dataclass
class Talk:
    """One session on the line: whom with, how many bytes, and the archive rows in it: numbers and lengths by answer."""

    address: str
    bytes: int = 0
    answers: list[list[tuple[int, int]]] = dataclasses.field(default_factory=list)


_CALL = re.compile(rb"/\?(\d+)!")
_ROW = re.compile(rb"\(\d+\)\((\d+)\)\(\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d\)")


def talks(path: pathlib.Path) -> list[Talk]:
    """Return the sessions of a wire log, in order."""
    found: list[Talk] = []
    for line in map(json.loads, path.read_text().splitlines()):
        text = bytes(byte & 0x7F for byte in bytes.fromhex(line["hex"]))
        call = _CALL.search(text) if line["dir"] == "rx" else None
        if call is not None:
            found.append(Talk(call[1].decode()))
        if not found:
            continue
        found[-1].bytes += len(text)
        rows = [(match.start(), int(match[1])) for match in _ROW.finditer(text)]
        if line["dir"] == "tx" and rows:
            ends = [*(start for start, _ in rows[1:]), len(text)]
            found[-1].answers.append([(number, end - start) for (start, number), end in zip(rows, ends, strict=True)])
    return found


def nothing_was_fetched_without_need(opened: Site) -> None:
    """No row came twice but where an answer reads on from it, and backfills cost little more than what was missing."""
    heard = talks(opened.folder / "wire.jsonl")
    opening = statistics.median(talk.bytes for talk in heard if not talk.answers)
    for address, name in enumerate(opened.devices, 1):
        sessions = [talk for talk in heard if talk.address == str(address) and talk.answers]
        seen = set[int]()
        for rows in (answer for talk in sessions for answer in talk.answers):
            assert not seen & {number for number, _ in rows[1:]}, (name, rows)
            seen |= {number for number, _ in rows}
        if name not in PUSHING:
            continue
        # What came through the push is collected at once, what an archive had an hour later or more.
        missing = [
            row for row in volumes(opened, name) if instant(row["collected"]) - instant(row["timestamp"]) > HOUR / 2
        ]
        lengths = [length for talk in sessions for answer in talk.answers for _, length in answer]
        ideal = len(missing) * statistics.mean(lengths) + len(sessions) * opening
        waste = sum(talk.bytes for talk in sessions) / ideal
        sys.stdout.write(f"{name}: {len(missing)} rows missing, {len(lengths)} read in {len(sessions)}: {waste:.3f}\n")
        assert len(missing) >= AWAY // QUARTER
        assert waste < WASTE
