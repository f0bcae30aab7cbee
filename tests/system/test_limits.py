"""A broker that takes small packets only, a payload that nobody can read, and a hub that is newer than its agent.

Where the database does not matter there is one course on SQLite.
"""

import asyncio
import collections
import pathlib
import signal
import sqlite3
import time
import zlib
from typing import Any

import msgspec
import pytest
from paho.mqtt import publish

from hub.keys import open_key
from protocol.envelopes import open_envelope
from protocol.readings import checked_batch
from protocol.topics import Channel, parse_topic, topic_for
from tests.parts.databases import new_sqlite
from tests.parts.site import Site, site
from tests.parts.tape import tape
from tests.system.test_kills import polling_site

PACKET = 16_384


@pytest.fixture
def sqlite_url(tmp_path: pathlib.Path) -> str:
    """Return the URL of an empty, migrated SQLite database."""
    return asyncio.run(new_sqlite(tmp_path / "hub.db"))


def test_a_broker_that_takes_small_packets(sqlite_url: str, tmp_path: pathlib.Path) -> None:
    limited = site(sqlite_url, tmp_path, max_packet_size=PACKET)
    with limited as opened, tape(opened.broker.port, "amr/v1/+/readings") as batches:
        endpoint = opened.start_line("one", "1:4011220", "2:4011221")
        opened.create_basics()
        opened.create_gateway("gw-1", endpoint)
        opened.create_task(
            "archive", "read_archive_by_offset_seconds", offset_seconds=86_400, archive_number=3, control_position=3
        )
        opened.create_meter("A", "4011220", "gw-1", "archive", address="1")
        opened.create_meter("B", "4011221", "gw-1", "archive", address="2")
        opened.start_agent("gw-1")
        opened.wait_settled()
        begun = opened.clock.now()
        # A day's rows of both meters: many times what one packet takes, and enough for the window to open.
        opened.broker.kill()
        time.sleep(12)
        opened.broker.start()
        opened.finish(begun)

        sizes = [len(payload) for _, payload, _ in batches.messages]
        assert max(sizes) < PACKET
        assert max(sizes) > PACKET // 2, "nothing came near the limit"
        names = collections.Counter(
            checked_batch(open_envelope(topic, payload).body).name for topic, payload, _ in batches.messages
        )
        assert max(names.values()) <= 3, names
        log = (tmp_path / "agent-gw-1.log").read_text()
        # At the beginning, and after the broker's return.
        assert log.count('"event": "online"') <= 3, log


def test_a_payload_that_nobody_can_read(sqlite_url: str, tmp_path: pathlib.Path) -> None:
    with site(sqlite_url, tmp_path) as opened, tape(opened.broker.port, "amr/v1/gw-1/receipt") as receipts:
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        stored = opened.wait_readings(0)
        heard = len(receipts.messages)
        topics = [topic_for("gw-1", channel) for channel in (Channel.READINGS, Channel.REPORT, Channel.ONLINE)]
        # Nonsense for everybody: the hub's topics, and those that the agent listens to.
        topics += [topic_for("gw-1", channel) for channel in (Channel.PLAN, Channel.COMMAND, Channel.RECEIPT)]
        for topic in topics:
            assert parse_topic(topic).gateway == "gw-1"
            publish.single(topic, b"\xc1 no message at all", 1, hostname="127.0.0.1", port=opened.broker.port)

        opened.wait_for("both payloads in quarantine", lambda: opened.count("/v1/quarantine") == 2)
        kept = opened.hub.all("/v1/quarantine", gateway="gw-1")
        seen = {row["channel"]: bytes.fromhex(row["payload"]) for row in kept}
        assert seen == dict.fromkeys(("readings", "report"), b"\xc1 no message at all")
        opened.wait_readings(stored)
        opened.finish(begun, ("Heating plant", "2:300"))
        assert len(receipts.messages) > heard
        for topic, payload, _ in receipts.messages[heard:]:
            if payload != b"\xc1 no message at all":
                assert b"quarantined" not in open_envelope(topic, payload).body


def test_a_hub_that_is_newer_than_its_agent(sqlite_url: str, tmp_path: pathlib.Path) -> None:
    with site(sqlite_url, tmp_path) as opened:
        polling_site(opened, start_agent=False)
        for name in ("odd schedule", "odd context", "odd field"):
            opened.create_task(name, "read_single_value", address="2:302")
        device = f"/v1/metering/meter-devices/{opened.devices['Heating plant']}"
        opened.hub.patch(device, meter_tasks=list(opened.tasks.values()))
        write_what_rest_refuses(opened)
        # An edit, so that the plan is made anew.
        opened.hub.patch(f"/v1/metering/amr-tasks/{opened.tasks['archive']}", name="Archive")
        with tape(opened.broker.port, "amr/v1/gw-1/plan") as plans:
            opened.start_agent("gw-1")
            opened.wait_settled()
            opened.wait_for("a plan on the wire", lambda: bool(plans.messages))
        begun = opened.clock.now()
        told = {problem["item"]: problem["text"] for problem in opened.gateway("gw-1")["problems"]}
        words = {"odd schedule": "fortnightly", "odd context": "modbus", "odd field": "phase"}
        assert told.keys() == {opened.tasks[name] for name in words}
        for name, word in words.items():
            assert word in told[opened.tasks[name]]
        opened.wait_readings(0)

        # The next contract: every item has one field more, and so has the document.
        opened.signal_hub(signal.SIGKILL)
        revision = say_the_plan_in_the_next_contract(opened, plans.messages[-1][1])
        log = tmp_path / "agent-gw-1.log"
        opened.wait_for("the plan of the next contract", lambda: f'"revision": {revision},' in log.read_text())
        served = opened.truth_path("one").stat().st_size
        opened.wait_for("a poll by it", lambda: opened.truth_path("one").stat().st_size > served)
        opened.start_hub()
        # The hub lifts its own above the agent's.
        opened.wait_for("a plan above it", lambda: opened.gateway("gw-1")["desired_revision"] > revision)
        opened.wait_settled()
        for name in words:
            # REST would not even switch them off.
            del opened.tasks[name]
        opened.finish(begun, ("Heating plant", "2:300"))


def write_what_rest_refuses(opened: Site) -> None:
    """Change tasks as a newer hub would know them, behind the back of this one."""
    with sqlite3.connect(opened.folder / "hub.db", timeout=30) as database:
        for name, column, value in (
            ("odd schedule", "schedule", "fortnightly"),
            ("odd context", "meter_execution_type", "modbus"),
            ("odd field", "task_kwargs", '{"address": "2:302", "phase": "L1"}'),
        ):
            changed = database.execute(f"UPDATE amr_tasks SET {column} = ? WHERE name = ?", (value, name))  # noqa: S608
            assert changed.rowcount == 1
    database.close()


def say_the_plan_in_the_next_contract(opened: Site, payload: bytes) -> int:
    """Publish the plan with a field more everywhere, signed by the hub's key; return its revision."""
    topic = topic_for("gw-1", Channel.PLAN)
    plan: list[Any] = msgspec.msgpack.decode(zlib.decompress(open_envelope(topic, payload).body))
    plan[1] += 1
    for items in plan[3:7]:
        for item in items:
            item.append({"since": "the next contract"})
    plan.append(["a list of something new"])
    key = open_key(opened.folder / "hub.key")
    body = zlib.compress(msgspec.msgpack.encode(plan))
    publish.single(topic, key.seal(topic, body), 1, retain=True, hostname="127.0.0.1", port=opened.broker.port)
    return int(plan[1])
