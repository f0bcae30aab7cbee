"""On-demand commands, through REST and by a stranger's MQTT client, with the hub there and away."""

import asyncio
import datetime as dt
import json
import pathlib
import re
import signal
import time
import uuid
from typing import Any

import aiomqtt
import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from deploy.demo.hub_client import RestError
from tests.parts.databases import ON_POSTGRESQL, ON_SQLITE, database_url
from tests.parts.site import Site, site
from tests.system.test_kills import polling_site

__all__ = ["database_url"]

DAY = 86_400


def invoke(opened: Site, **changes: object) -> dict[str, Any]:
    """Ask for a single value through REST."""
    body = {
        "meter_device": opened.devices["Heating plant"],
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "4:302"},
        "run_offset_seconds": 0,
        "ttl_seconds": DAY,
        **changes,
    }
    return dict(opened.hub.post("/v1/metering/amr-tasks/invoke", **body))


def follow(opened: Site, path: str, last: str = "") -> list[tuple[str, Any]]:
    """Read server-sent events to their end; return ids and data."""
    headers = {**opened.hub.headers, "Last-Event-ID": last} if last else opened.hub.headers
    text = httpx.get(opened.hub.url + path, headers=headers, timeout=60).raise_for_status().text
    found = re.findall(r"^id: (\d+)\nevent: \w+\ndata: (.*)$", text, re.MULTILINE)
    return [(number, json.loads(data)) for number, data in found]


@ON_POSTGRESQL
def test_a_value_on_demand(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        answer = invoke(opened)
        ended = opened.hub.get(f"/v1/commands/{answer['command']}", wait=30)
        assert ended["state"] == "done", ended
        assert [reading["series"] for reading in ended["readings"]] == ["4:302"]

        # What became of it is told by a process that only has the database in common with the relay.
        path = f"/v1/commands/{invoke(opened)['command']}/events"
        told = follow(opened, path)
        states = [data["state"] for _, data in told]
        # On a busy machine the hub hears of a later state first: what is behind it by then is told of no more.
        order = ["pending", "sent", "accepted", "running", "done"]
        assert states == [state for state in order if state in states]
        assert {"pending", "sent", "done"} <= {*states}
        assert follow(opened, path, told[1][0]) == told[2:]

        call = {"meter_execution_type": "generic_lis200", "task_call": "read_single_value"}
        gateway, kwargs = opened.gateways["gw-1"], {"address": "4:302"}
        batch = opened.hub.post(
            "/v1/command-batches", gateway=gateway, **call, task_kwargs=kwargs, ttl_seconds=DAY, priority=1
        )
        progress = follow(opened, f"/v1/command-batches/{batch['id']}/events")[-1][1]
        assert progress["final"], progress
        assert progress["states"] == {"done": batch["commands"]}

        wrong = invoke(opened, task_kwargs={"address": "9:999"})
        ended = opened.hub.get(f"/v1/commands/{wrong['command']}", wait=30)
        assert ended["state"] == "failed"
        assert "#0" in ended["cause"]
        assert [run["kind"] for run in opened.hub.all("/v1/runs", command=wrong["command"])] == ["device"]

        delayed = invoke(opened, run_offset_seconds=900)
        ended = opened.hub.get(f"/v1/commands/{delayed['command']}", wait=30)
        assert ended["state"] == "done", ended

        for changes, status, text in (
            ({"task_kwargs": {"adress": "2:300"}}, "422", "adress"),
            ({"task_kwargs": {}}, "422", "address"),
            ({"meter_device": str(uuid.uuid4())}, "404", ""),
            ({"run_offset_seconds": -1}, "422", "run_offset_seconds"),
        ):
            with pytest.raises(RestError, match=status) as refused:
                invoke(opened, **changes)
            assert text in str(refused.value)


@ON_SQLITE
def test_commands_that_cannot_run_end_all_the_same(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        opened.end_agent("gw-1")
        answer = invoke(opened, ttl_seconds=900)
        path = f"/v1/commands/{answer['command']}"
        opened.wait_for("expiry", lambda: opened.hub.get(path)["state"] == "expired")
        opened.start_agent("gw-1")
        opened.wait_settled()
        time.sleep(2)
        assert opened.hub.get(path)["state"] == "expired"
        assert '"single":"4:302"' not in opened.truth_path("one").read_text().replace(" ", "")

        # The store that a command was accepted by is lost: nobody knows whether it ran, so it does not run again.
        answer = invoke(opened, run_offset_seconds=3600)
        path = f"/v1/commands/{answer['command']}"
        opened.wait_for("acceptance", lambda: opened.hub.get(path)["state"] in {"accepted", "running"})
        opened.kill_agent("gw-1")
        for file in opened.agent_folder("gw-1").glob("agent.db*"):
            file.unlink()
        opened.start_agent("gw-1")
        opened.wait_for("its end", lambda: opened.hub.get(path)["state"] == "interrupted")


class Stranger:
    """A direct invocation by somebody who knows only ``docs/contract.md``: no module of ours is used."""

    def __init__(self, opened: Site, name: str) -> None:
        self.opened = opened
        self.name = name
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()

    def command(self, call: str, kwargs: dict[str, object]) -> list[object]:
        """The array of a Command, field by field."""
        now = self.opened.clock.now()
        return [uuid.uuid4().bytes, "gw-1", "generic_lis200", call, kwargs, now, DAY, None, "Heating plant"]

    async def invoke(self, command: list[object], *, times: int = 1) -> list[list[Any]]:
        """Publish the command and collect the updates until one is final."""
        topic, reply = f"amr/v1/gw-1/invoke/{self.name}", f"amr/v1/gw-1/reply/{self.name}"
        body = msgspec.msgpack.encode(command)
        signature = self.key.sign(b"metergate/1\0" + topic.encode() + b"\0" + body)
        payload = msgspec.msgpack.encode([self.public, body, signature])
        updates = []
        async with (
            asyncio.timeout(30),
            aiomqtt.Client("127.0.0.1", self.opened.broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
        ):
            await client.subscribe(reply, qos=1)
            for _ in range(times):
                await client.publish(topic, payload, qos=1)
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                _, inner, _ = msgspec.msgpack.decode(message.payload)
                update = msgspec.msgpack.decode(inner)
                updates.append(update)
                if update[3] in {"done", "failed", "refused", "expired", "cancelled", "interrupted"}:
                    break
        return updates


@ON_SQLITE
async def test_a_stranger_invokes_with_the_hub_stopped(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        stranger = Stranger(opened, "head-end")
        unlisted = Stranger(opened, "nobody")
        opened.hub.post(
            "/v1/callers/",
            organization=opened.organization,
            gateway=opened.gateways["gw-1"],
            name="head-end",
            public_key=stranger.public.hex(),
            allowed=["generic_lis200.read_single_value"],
        )
        opened.wait_settled()
        begun = opened.clock.now()
        opened.signal_hub(signal.SIGKILL)

        command = stranger.command("read_single_value", {"address": "4:302"})
        updates = await stranger.invoke(command, times=2)
        assert updates[-1][3] == "done", updates
        assert len(updates[-1][9]) == 1
        value = updates[-1][9][0][3]
        served = opened.truth_path("one").read_text().replace(" ", "").count('"single":"4:302"')
        assert served == 1, "two deliveries run once"

        refused = await stranger.invoke(stranger.command("set_time", {}))
        assert refused[-1][3] == "refused"
        refused = await unlisted.invoke(unlisted.command("read_single_value", {"address": "4:302"}))
        assert refused[-1][3] == "refused"

        opened.start_hub()
        command_id = uuid.UUID(bytes=command[0])  # type: ignore[arg-type]
        done = f"/v1/commands/?state=done&origin={stranger.name}"
        opened.wait_for("the invocation in the hub", lambda: opened.hub.get(done)["count"] == 1)
        recorded = opened.hub.get(f"/v1/commands/{command_id}")
        assert recorded["origin"] == "head-end"
        path, series = "/v1/metering/meter-readings", opened.series["4:302"]
        opened.wait_for(
            "its reading in the hub", lambda: value in {row["value"] for row in opened.hub.all(path, series=series)}
        )
        opened.finish(begun + dt.timedelta(minutes=15), ("Heating plant", "2:300"), ("Heating plant", "4:302"))
