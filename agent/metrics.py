"""Figures for Prometheus: counters of this process, and one page of text on a loopback port (``metrics_port``).

The text format is written by hand (exposition format 0.0.4): an edge process needs no library for it. The server
answers ``GET /metrics`` and nothing else, on 127.0.0.1 only; who wants the figures elsewhere puts a proxy before it.
A port that is taken costs the figures, never the polling.
"""

import asyncio
import collections
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import structlog

from agent.backlog import Backlog

log = structlog.get_logger(__name__)

HOST = "127.0.0.1"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "metergate_agent_"
_MOST_REQUEST_BYTES = 8 * 1024
_PATIENCE = 5.0
_SELF = pathlib.Path("/proc/self")

_COUNTED = {
    "runs_total": "Runs that ended, by outcome",
    "readings_total": "Readings stored in the outbox",
    "batches_sent_total": "Batches sent, repetitions included",
    "batches_resent_total": "Batches sent again because no receipt came",
    "rows_receipted_total": "Rows that a receipt was accepted for",
    "connections_total": "Connections made to the broker",
}
_counters: collections.Counter[tuple[str, tuple[tuple[str, str], ...]]] = collections.Counter()


class Sample(NamedTuple):
    """One figure: a metric's name without prefix, its help, its value, and its labels."""

    name: str
    text: str
    value: float
    labels: Mapping[str, str] = {}
    kind: str = "gauge"


def count(name: str, amount: int = 1, **labels: str) -> None:
    """Add to a counter of this process.

    Raises:
        KeyError: when there is no counter of that name.
    """
    _COUNTED[name]
    _counters[name, tuple(sorted(labels.items()))] += amount


def counted() -> list[Sample]:
    """Return the counters; one that counts without labels begins at 0."""
    # A copy, made at once: another thread counts on.
    now = dict(_counters)
    found = {name for name, _ in now}
    return [Sample(name, _COUNTED[name], value, dict(labels), "counter") for (name, labels), value in now.items()] + [
        Sample(name, text, 0, {}, "counter") for name, text in _COUNTED.items() if name not in found
    ]


def of_backlog(found: Backlog) -> list[Sample]:
    """Return what a store says; what is not known has no sample."""
    samples = [
        Sample("store_bytes", "Size of the store's files", found.bytes),
        Sample("session", "Number of the present session", found.session),
    ]
    for channel, one in found.channels.items():
        figures = (
            ("outbox_rows", "Rows without a receipt", one.waiting),
            ("outbox_oldest_seconds", "Age of the oldest row without a receipt", one.oldest_seconds or 0),
            ("outbox_aside_rows", "Rows that fit into no message of this broker", one.aside),
            ("outbox_tail_rows", "Receipted rows kept for a restored hub", one.tail),
            ("outbox_arriving_rows_per_second", "New rows in the last minute", one.arriving_per_second),
            ("outbox_receipted_rows_per_second", "Receipts while rows are sent", one.rows_per_second),
            ("outbox_drain_seconds", "How long the waiting rows will take", one.drain_seconds),
        )
        samples += [
            Sample(name, text, value, {"channel": channel}) for name, text, value in figures if value is not None
        ]
    return samples


def of_process() -> list[tuple[str, str, float]]:
    """Return memory and open files under the names that Prometheus' own libraries use; nothing where unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int((_SELF / "statm").read_text(encoding="ascii").split()[1])
        return [
            ("process_resident_memory_bytes", "Resident memory", pages * os.sysconf("SC_PAGE_SIZE")),
            ("process_open_fds", "Open file descriptors", len(os.listdir(_SELF / "fd"))),  # noqa: PTH208 - names only
        ]
    return []


def render(samples: Iterable[Sample], process: Iterable[tuple[str, str, float]] = ()) -> str:
    """Write the page: the samples of one metric stand together behind its help and type."""
    metrics: dict[str, list[Sample]] = {}
    for sample in samples:
        metrics.setdefault(sample.name, []).append(sample)
    lines: list[str] = []
    for name, group in metrics.items():
        lines += [f"# HELP {_PREFIX}{name} {group[0].text}", f"# TYPE {_PREFIX}{name} {group[0].kind}"]
        for sample in group:
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
            lines.append(f"{_PREFIX}{name}{{{labels}}} {sample.value}" if labels else f"{_PREFIX}{name} {sample.value}")
    for name, text, value in process:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


async def serve(port: int, page: Callable[[], str]) -> None:
    """Serve the page for ever; ``page`` is called in a thread of its own, because it reads a file."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                writer.write(await _answer(reader, page))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("metrics_not_read")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    try:
        server = await asyncio.start_server(answer, HOST, port, limit=_MOST_REQUEST_BYTES)
    except OSError as error:
        log.error("metrics_unavailable", port=port, cause=error.strerror, advice="choose another metrics_port")  # noqa: TRY400 - the cause is the sentence
        return
    async with server:
        log.info("metrics_served", url=f"http://{HOST}:{port}/metrics")
        await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, page: Callable[[], str]) -> bytes:
    request = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].split(b" ")
    status, body = "404 Not Found", "only /metrics is here\n"
    if request[0] not in {b"GET", b"HEAD"}:
        status, body = "405 Method Not Allowed", "only GET is understood\n"
    elif len(request) > 1 and request[1].split(b"?", 1)[0] == b"/metrics":
        status, body = "200 OK", await asyncio.to_thread(page)
    content = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if request[0] == b"HEAD" else content)
