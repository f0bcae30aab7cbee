"""What the bench ``poll`` shows beside single sessions: what a meter's whole day costs, through the real line worker.

Everything is read from the simulator's wire log: handshakes and bytes of five due tasks, bytes of the second day's
archive, turnarounds and lengths of blocks, and the gaps between the meters of a bus.
"""

import asyncio
import dataclasses
import datetime as dt
import itertools
import pathlib
import re
import statistics
import uuid
from collections.abc import Sequence
from typing import Any

from agent.clocks import Clock
from agent.lines import LineWorker
from agent.runs import Run, RunResult
from benchmarks._poll_wire import (
    ACK,
    BITS,
    BREAK,
    FIRST_SERIAL,
    REQUEST,
    Memory,
    Telegram,
    archive_range,
    chunks,
    simulated,
    size_of,
    telegrams,
)
from contexts.meters import Held
from protocol.plans import Device, Line
from protocol.reports import DONE

VALUES = ("2:300", "2:302", "4:300", "4:302")
METERS = 4
SECOND_DAY_ROWS = 96
MORE_ROWS = 8
"""Of the first day before those of the second."""
MOST_OVERHEAD = 1.1
MOST_TURNAROUND = 0.03
LONGEST_BLOCK = 3.0
MOST_GAP = 0.02
"""Seconds from a meter's break to the next one's request: a reader's minimum reaction time, though none is asked."""
PATIENCE = 180.0
_GROUP = re.compile(r"\(([^()]*)\)")
SETTLE = 0.2


@dataclasses.dataclass(frozen=True)
class Shown:
    """One figure: what it is, at which rate, how much, its bound (at most), and what to know of it."""

    what: str
    rate: int
    figure: float
    bound: float
    note: str

    @property
    def good(self) -> bool:
        """Whether the bound holds."""
        return self.figure <= self.bound


class Gateway:
    """A line worker with what a gateway remembers; every call is one that was due."""

    def __init__(self, endpoint: str, rate: int, meters: int = 1) -> None:
        self.line = Line(uuid.uuid4(), "line", endpoint, rate=rate, fixed_rate=True)
        self.devices = [
            Device(uuid.uuid4(), f"meter {n + 1}", self.line.id, "UTC", str(n + 1), str(FIRST_SERIAL + n))
            for n in range(meters)
        ]
        self.memory = Memory()
        self._results: asyncio.Queue[RunResult] = asyncio.Queue()
        self._worker = LineWorker(
            self.line,
            memory=self.memory,
            clock=Clock(),
            passwords={},
            on_started=lambda _: None,
            on_result=self._results.put_nowait,
        )

    async def work(self, *due: tuple[Device, str, dict[str, Any]]) -> list[RunResult]:
        """Carry out what is due, all at once."""
        now = dt.datetime.now(dt.UTC)
        for device, call, kwargs in due:
            self._worker.submit(
                Run(uuid.uuid4(), device, "generic_lis200", call, kwargs, tick=now, task=uuid.uuid4(), not_before=now)
            )
        working = asyncio.create_task(self._worker.run())
        try:
            async with asyncio.timeout(PATIENCE):
                results = [await self._results.get() for _ in due]
                await asyncio.sleep(SETTLE)
        finally:
            working.cancel()
            await asyncio.wait([working])
        failed = [result.cause for result in results if result.outcome != DONE]
        if failed:
            raise RuntimeError(f"a run failed: {failed[0]}")
        return results


async def show(folder: pathlib.Path, rates: Sequence[int]) -> list[Shown]:
    """Measure everything at each of the rates; slow lines are only asked what fits into a minute."""
    shown: list[Shown] = []
    for rate in rates:
        log = folder / f"days-{rate}.log"
        with simulated(log, "pty", rate, METERS) as endpoint:
            shown += await day(Gateway(endpoint, rate), log, rate)
            shown.append(await _bus(Gateway(endpoint, rate, METERS), log, rate))
    for rate, rows in ((2400, 24), (300, 6)):
        log = folder / f"days-{rate}.log"
        with simulated(log, "pty", rate) as endpoint:
            shown += await _readout(Gateway(endpoint, rate), log, rate, rows)
    return shown


async def day(gateway: Gateway, log: pathlib.Path, rate: int, rows: int = SECOND_DAY_ROWS) -> list[Shown]:
    """The first day: five tasks at once; the second day, of so many rows: what is not held yet."""
    (device,) = gateway.devices
    archive = {"archive_number": 3, "control_position": 3, "offset_seconds": (rows + MORE_ROWS) * 900}
    read_archive = (device, "read_archive_by_offset_seconds", archive)
    results = await gateway.work(*((device, "read_single_value", {"address": v}) for v in VALUES), read_archive)
    first = telegrams(log, 0)
    handshakes = sum(telegram.text.count(REQUEST) for telegram in first)
    answer = next(result.answer for result in results if result.answer is not None and result.answer.held is not None)
    shown = [
        Shown("five due tasks: handshakes", rate, handshakes, 1, f"{_characters(first)} bytes in all"),
        *_turnarounds(first, rate),
    ]
    # As if those of the last day had not been there yet.
    held = answer.held
    if held is None:
        raise RuntimeError("the meter's rows have no numbers")
    _, number, stamp, *_ = _GROUP.findall(_rows(first)[-rows - 1])
    through = dt.datetime.fromisoformat(stamp).replace(tzinfo=dt.UTC)
    before = Held(held.start, through, int(number))
    gateway.memory.hold(3, before)
    begun = size_of(log)
    await gateway.work(read_archive)
    return [*shown, _overhead(telegrams(log, begun), rate, rows)]


def _overhead(session: Sequence[Telegram], rate: int, wanted: int) -> Shown:
    """All bytes but opening, serial number and break, over those of the new rows."""
    opening = next(i for i, telegram in enumerate(session) if telegram.text.startswith("\x01P0")) + 1
    checks = [i for i, telegram in enumerate(session) if telegram.text.startswith("\x01R1\x021:180")]
    clock = [i for i, telegram in enumerate(session) if telegram.text.startswith("\x01R1\x021:400")]
    apart = {i + step for i in checks for step in (0, 1)} | set(range(opening))
    rest = [t for i, t in enumerate(session) if i not in apart and t.text != BREAK]
    rows = _rows(session)
    new = sum(len(row) + 2 for row in rows[1:])
    # A quarter of an hour may have passed meanwhile.
    if not wanted <= len(rows) - 1 <= wanted + 1:
        raise RuntimeError(f"{len(rows) - 1} rows came on the second day instead of {wanted}")
    note = f"{len(rows) - 1} new rows of {new} bytes; the clock's reading {'is counted' if clock else 'was not due'}"
    return Shown("second day: bytes over those of new rows", rate, _characters(rest) / new, MOST_OVERHEAD, note)


async def _readout(gateway: Gateway, log: pathlib.Path, rate: int, rows: int) -> list[Shown]:
    (device,) = gateway.devices
    start, end = archive_range(dt.datetime.now(dt.UTC), rows)
    span = {"start_date": start.isoformat(), "end_date": end.isoformat()}
    await gateway.work((device, "read_archive_by_date", {**span, "archive_number": 3, "control_position": 3}))
    return _turnarounds(telegrams(log, 0), rate)


def _turnarounds(session: Sequence[Telegram], rate: int) -> list[Shown]:
    """What passes between the blocks of an archive, over the time of all of it; and the longest block."""
    blocks = _blocks_of(session)
    between = sum(after.start - before.end for before, after in itertools.pairwise(blocks))
    longest = max(blocks, key=lambda block: block.end - block.start)
    one_row = "\r\n" not in longest.text
    return [
        Shown(
            "turnarounds over archive time",
            rate,
            between / (blocks[-1].end - blocks[0].start),
            MOST_TURNAROUND,
            f"{len(blocks)} blocks",
        ),
        Shown(
            "longest block, seconds",
            rate,
            longest.end - longest.start,
            float("inf") if one_row else LONGEST_BLOCK,
            "one row, which cannot be shorter" if one_row else f"{longest.characters} bytes",
        ),
    ]


async def _bus(gateway: Gateway, log: pathlib.Path, rate: int) -> Shown:
    """How long the line rests between one meter's break and the next one's request."""
    begun = size_of(log)
    await gateway.work(*((device, "read_single_value", {"address": "2:300"}) for device in gateway.devices))
    heard = [piece for piece in chunks(log, begun) if piece.direction == "rx"]
    text = "".join(piece.text for piece in heard)
    starts = [piece.start + i * BITS / rate for piece in heard for i in range(piece.characters)]
    gaps = []
    at = text.find(BREAK)
    while at >= 0 and (call := text.find(REQUEST, at)) >= 0:
        gaps.append(max(0.0, starts[call] - starts[at + len(BREAK) - 1] - BITS / rate))
        at = text.find(BREAK, call)
    what = "bus: seconds from a break to the next request"
    return Shown(what, rate, statistics.median(gaps), MOST_GAP, f"{METERS} meters, longest {max(gaps):.4f}")


def _blocks_of(session: Sequence[Telegram]) -> list[Telegram]:
    """What follows an R3 or an acknowledgement: the blocks of an archive."""
    return [
        after
        for before, after in itertools.pairwise(session)
        if after.direction == "tx" and (before.text == ACK or before.text.startswith("\x01R3"))
    ]


def _rows(session: Sequence[Telegram]) -> list[str]:
    return [row for block in _blocks_of(session) for row in block.text[1:-2].split("\r\n") if row]


def _characters(session: Sequence[Telegram]) -> int:
    return sum(telegram.characters for telegram in session)
