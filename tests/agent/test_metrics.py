"""The page for Prometheus: what it says of a running agent, its format, and that it never stands in the way."""

import asyncio
import datetime as dt
import pathlib

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics
from agent.app import Agent
from agent.settings import SettingsError, read_settings
from tests.parts.gateways import fast_clock, gateway_settings, running
from tests.parts.mosquitto import free_port


async def get(port: int, request: bytes = b"GET /metrics HTTP/1.1", seconds: float = 0) -> tuple[str, str]:
    """Return status line and body; for so many seconds nobody may listen yet."""
    async with asyncio.timeout(seconds or None):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                if not seconds:
                    raise
                await asyncio.sleep(0.05)
    writer.write(request + b"\r\nHost: x\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    assert f"Content-Length: {len(body.encode())}" in head or request.startswith(b"HEAD")
    return head.splitlines()[0], body


def figures(page: str) -> dict[tuple[str, str], float]:
    """Read a page with Prometheus' own parser: value by name and the one label's value."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_a_running_agent_is_seen(tmp_path: pathlib.Path) -> None:
    port = free_port()
    settings = gateway_settings(tmp_path, f"mqtt://127.0.0.1:{free_port()}", "gw-1")
    clock = fast_clock()
    async with running(Agent(msgspec.structs.replace(settings, metrics_port=port), clock)) as agent:
        with agent.store.transaction():
            agent.store.readings.append([bytes(50)] * 3)
        status, page = await get(port, seconds=30)
        assert status == "HTTP/1.1 200 OK"
        found = figures(page)
        assert found["metergate_agent_info", "gw-1"] == 1
        assert found["metergate_agent_outbox_rows", "readings"] == 3
        assert found["metergate_agent_outbox_rows", "report"] == 0
        assert found["metergate_agent_outbox_oldest_seconds", "readings"] > 0
        assert ("metergate_agent_outbox_drain_seconds", "readings") not in found  # nobody can know it yet
        assert found["metergate_agent_connected", ""] == 0
        assert found["process_resident_memory_bytes", ""] > 1e6
        assert (await get(port, b"GET / HTTP/1.1"))[0] == "HTTP/1.1 404 Not Found"
        assert (await get(port, b"POST /metrics HTTP/1.1"))[0] == "HTTP/1.1 405 Method Not Allowed"
        assert (await get(port, b"HEAD /metrics HTTP/1.1")) == ("HTTP/1.1 200 OK", "")
        assert (await get(port, b"nonsense"))[0] == "HTTP/1.1 405 Method Not Allowed"


async def test_a_port_that_is_taken_costs_the_figures_only(tmp_path: pathlib.Path) -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        settings = gateway_settings(tmp_path, f"mqtt://127.0.0.1:{free_port()}", "gw-1")
        async with running(Agent(msgspec.structs.replace(settings, metrics_port=port), fast_clock())) as agent:
            await asyncio.sleep(0.2)
            with agent.store.transaction():
                agent.store.readings.append([bytes(50)])
            assert agent.store.depth() == 1


def test_counters_and_labels_are_written_as_prometheus_reads_them() -> None:
    name = f'odd "\\\n {dt.datetime.now(dt.UTC)}'
    metrics.count("runs_total", outcome=name)
    metrics.count("runs_total", 2, outcome=name)
    found = figures(metrics.render(metrics.counted()))
    assert found["metergate_agent_runs_total", name] == 3
    assert ("metergate_agent_connections_total", "") in found
    with pytest.raises(KeyError):
        metrics.count("unheard_of")


def test_the_port_is_a_setting(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.toml"
    rest = 'gateway = "gw-1"\nbroker = "mqtt://localhost"\ndata = "."\n'
    path.write_text(f"{rest}metrics_port = 9464\n")
    assert read_settings(path).metrics_port == 9464
    path.write_text(f"{rest}metrics_port = 99999\n")
    with pytest.raises(SettingsError, match="metrics_port"):
        read_settings(path)
