"""The doctor: what it says of a hub in order, of one that is not, and that it leaves nothing behind."""

import asyncio
import datetime as dt
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.broker import embedded_broker
from hub.clocks import Clock
from hub.connection import read_url
from hub.database import create_engine, writing
from hub.doctor import FAILED, Report, examine
from hub.keys import open_key
from hub.models import Gateway
from hub.partitions import make_partitions
from hub.secrets_ring import Ring, note_ring, ring_file
from mqtt.connection import connect
from protocol.topics import DOCTOR
from tests.parts.databases import database_url, engine, new_sqlite
from tests.parts.estates import make_estate

__all__ = ["database_url", "engine"]

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
HUB = str(Path(sys.executable).parent / "metergate-hub")


def found(report: Report) -> dict[str, tuple[str, str]]:
    """Return status and text by check."""
    return {line.check: (line.status, line.text) for line in report.lines}


def shape(report: str) -> list[str]:
    """Return what a report says, without what is another time another."""
    bare = re.sub(r"/\S*?/?hub\.(db|key)", r"PLACE/hub.\1", report)
    bare = re.sub(r"(settings\.data +)\S+", r"\1PLACE", bare)
    bare = re.sub(r"fingerprint [0-9a-f-]+", "fingerprint", bare)
    return re.sub(r"[0-9][0-9,.:TZ-]*", "#", bare).splitlines()


async def test_of_a_hub_in_order_it_says_what_the_documentation_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(tmp_path.chmod, 0o700)
    url = await new_sqlite(tmp_path / "hub.db")
    ring = Ring(open_key(tmp_path / "hub.key"), ring_file(tmp_path / "hub.key"))
    started = create_engine(url)
    async with writing(started) as session:
        await note_ring(session, ring)
    await started.dispose()
    monkeypatch.delenv("METERGATE_CLOCK", raising=False)
    async with embedded_broker() as broker:
        report = await examine(url, read_url(broker.url), tmp_path, tmp_path / "hub.key", Clock())
        # What it retained it has taken back.
        async with connect(read_url(broker.url), "test") as connection:
            await connection.subscribe([f"{DOCTOR}/#"])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(connection.messages())
    shown = PAGE.split("Of a hub with everything in order:\n\n```\n")[1].split("```")[0]
    assert shape(report.text()) == shape(shown)
    assert report.exit_status == 0


async def test_what_is_wrong_in_a_database_is_said_with_what_to_do(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    clock = Clock()
    long_ago = clock.now() - dt.timedelta(days=2)
    async with writing(engine) as session:
        gateway = await session.get(Gateway, estate.gateway)
        assert gateway is not None
        gateway.online, gateway.last_seen, gateway.depth, gateway.oldest = False, long_ago, 3, long_ago
        gateway.clock_believed = False
    url = engine.url.render_as_string(hide_password=False)
    report = await examine(url, None, None, None, clock)
    said = found(report)
    assert said["gateways"] == ("ok", "1 known, 0 online")
    for check in ("gateways.away", "gateways.outboxes", "gateways.clocks"):
        assert said[check][0] == "warn"
        assert said[check][1].endswith(": gw-1")
    assert (said["broker"][0], said["keys.hub"][0]) == ("skipped", "skipped")
    if engine.dialect.name == "postgresql":
        # The tests' server does not sync.
        assert said["database.durability"][0] == "fail"
        assert (said["database.partitions"][0], report.exit_status) == ("warn", FAILED)
        await make_partitions(engine, clock.now())
        assert found(await examine(url, None, None, None, clock))["database.partitions"][0] == "ok"
    assert all(line.advice for line in report.lines if line.status in {"warn", "fail"})


def test_nothing_there_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    place = tmp_path / "nowhere"
    command = [HUB, "doctor", "--data", str(place), "--broker", "mqtt://127.0.0.1:1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == FAILED, done.stderr
    said = {line["check"]: line for line in json.loads(done.stdout)["lines"]}
    for check in ("settings.data", "database", "keys.hub", "broker"):
        assert said[check]["status"] == "fail"
        assert said[check]["advice"]
    assert not place.exists()
