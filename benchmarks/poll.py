"""How close a session on a 9600-baud line comes to what the line allows, ours beside the public client's.

The simulator honours the line's speed and logs when every byte passed; both readers run against it in this run. The
*limit* of a session is what its characters take at the line's rate (10 bits each, both ways), plus the time the meter
itself took to react, plus the reader's minimum reaction time before each telegram that it sends; from the first byte
of the request to the last byte of the break. The figure is limit over wall time: 1 is a reader that wastes nothing. A
reader that answers sooner than the minimum reaction time breaks the protocol; that is said beside its figure.

Method: the meter's side measures (monotonic clock of the simulator's process), so neither reader marks its own work;
by what the simulator hands over its last byte late counts as the meter's time, because no reader can do anything then.
``ratio`` is the median session's, ``best`` the best one's: what a busy machine takes from its processes is in the
first and mostly not in the second, which is therefore what is wanted to reach 0.98. Each reader speaks the session
that it would in practice: ours with the archive's columns remembered, as at every poll but the first; the public
client with ten rows to a block, as its users ask for.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from iec62056_21.client import Iec6205621Client
from iec62056_21.messages import CommandMessage, DataSet

from agent.links import open_link
from agent.session import open_session
from contexts.catalogue import check_call, find_call
from contexts.meters import Held, Layout, Moment
from protocol.plans import Device, Line

RATE = 9600
BITS = 10
REACTION = 0.02
"""Minimum reaction time of a reader in seconds, for a meter whose maker's third letter is lower case (``Els``)."""
TOLERANCE = 0.0005
"""Seconds by which two processes may disagree about an instant before a gap counts as too short."""
ADDRESS, SERIAL = "1", "11000001"
ROWS = 96
QUARTER = dt.timedelta(minutes=15)
WANTED = 0.98
SHORT_PER_LONG = 5


@dataclasses.dataclass(frozen=True)
class Telegram:
    """What one side said without a break: direction as the meter sees it, characters, first and last bit in seconds.

    ``passed`` is when the last bit had really passed: the simulator's process wakes a little after ``end``.
    """

    direction: str
    characters: int
    start: float
    end: float
    passed: float


@dataclasses.dataclass(frozen=True)
class Figure:
    """One session's figures, times in seconds; ``best`` is the best ratio of all sessions of its kind."""

    case: str
    reader: str
    ratio: float
    wall: float
    limit: float
    characters: int
    telegrams: int
    shortest_gap: float
    keeps_reaction_time: bool
    best: float = 0.0


class Memory:
    """What a gateway would remember from the poll before: the columns."""

    def __init__(self) -> None:
        self._layouts: dict[int, Layout] = {}

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        """Return what was kept."""
        del device
        return self._layouts.get(archive)

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        """Keep it."""
        del device
        self._layouts[archive] = layout

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        """Nothing is held: the rows are to be read."""
        del device, archive
        return None

    def line_rate(self, line: uuid.UUID) -> int | None:
        """No session was left open."""
        del line
        return None

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        """No crash is part of this benchmark."""
        del line, rate


@contextlib.contextmanager
def simulated(log: pathlib.Path, listen: str) -> Iterator[str]:
    """Run the simulator as a process; yields its endpoint."""
    command = [sys.executable, "-m", "agent.simulator", "--listen", listen, "--meter", f"{ADDRESS}:{SERIAL}:EK280"]
    command += ["--throttle", "--fixed-rate", "--rate", str(RATE), "--offer", str(RATE)]
    command += ["--interval", "15", "--history", "2", "--timezone", "UTC", "--seed", "7", "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        announced = process.stdout.readline() if process.stdout else ""
        yield json.loads(announced)["endpoint"]
    finally:
        process.terminate()
        process.communicate()


def archive_range(now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the limits, both included, of the newest 96 quarter-hour rows that are there for certain."""
    end = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - QUARTER
    return end - (ROWS - 1) * QUARTER, end


async def ours(endpoint: str, call: str, kwargs: dict[str, Any], memory: Memory) -> int:
    """Make one call over a session of its own, as the agent does; returns the number of values."""
    line = Line(uuid.uuid4(), "line", endpoint, rate=RATE, fixed_rate=True)
    device = Device(uuid.uuid4(), "meter", line.id, "UTC", ADDRESS)
    link = await open_link(endpoint, RATE)
    try:
        async with open_session(link, line, device, memory=memory, now=_now) as session:
            moment = Moment(now=_now(), reference=_now())
            checked = check_call("generic_lis200", call, kwargs)
            answer = await find_call("generic_lis200", call).run(session, moment, checked)
    finally:
        await link.aclose()
    return len(answer.values)


def theirs(endpoint: str, read: Callable[[Iec6205621Client], None]) -> None:
    """Make one read over a session of its own with the public client, in the sequence that its documentation shows."""
    host, _, port = endpoint.removeprefix("socket://").rpartition(":")
    client = Iec6205621Client.with_tcp_transport((host, int(port)), device_address=ADDRESS)
    client.connect()
    try:
        client.access_programming_mode()
        read(client)
        client.send_break()
    finally:
        client.disconnect()


def _their_value(client: Iec6205621Client) -> None:
    client.read_single_value("2:300.0")


def _their_archive(client: Iec6205621Client) -> None:
    start, end = (f"{limit:%Y-%m-%d,%H:%M:%S}" for limit in archive_range(_now()))
    data = DataSet(address="3:V.0", value=f"3;{start};{end};10")
    client.transport.send(CommandMessage(command="R", command_type=3, data_set=data).to_bytes())
    client.read_response()


def measure(log: pathlib.Path, offset: int, case: str, reader: str) -> Figure:
    """Turn what the simulator has logged since ``offset`` into figures."""
    telegrams = _telegrams([json.loads(line) for line in log.read_bytes()[offset:].splitlines()])
    seconds_per_character = BITS / RATE
    characters = sum(telegram.characters for telegram in telegrams)
    pairs = list(itertools.pairwise(telegrams))
    gaps = [after.start - before.passed for before, after in pairs if after.direction == "rx"]
    reactions = [after.start - before.end for before, after in pairs if after.direction == "tx"]
    reactions += [telegram.passed - telegram.end for telegram in telegrams]
    # A reader is judged by the line's own last bit, before which it cannot have had the telegram.
    shortest = min(after.start - before.end for before, after in pairs if after.direction == "rx")
    wall = telegrams[-1].end - telegrams[0].start
    limit = characters * seconds_per_character + sum(reactions) + len(gaps) * REACTION
    return Figure(
        case,
        reader,
        limit / wall,
        wall,
        limit,
        characters,
        len(telegrams),
        shortest,
        shortest >= REACTION - TOLERANCE,
    )


def _telegrams(chunks: Sequence[dict[str, Any]]) -> list[Telegram]:
    """Join chunks of one direction that follow each other."""
    telegrams: list[Telegram] = []
    for chunk in chunks:
        sent = chunk["dir"] == "tx"
        passed = max(chunk["t"], chunk["end"]) if sent else chunk["end"]
        this = Telegram(chunk["dir"], len(chunk["hex"]) // 2, chunk["start"], chunk["end"], passed)
        if telegrams and telegrams[-1].direction == this.direction:
            before = telegrams.pop()
            this = dataclasses.replace(this, characters=before.characters + this.characters, start=before.start)
        telegrams.append(this)
    return telegrams


async def session(log: pathlib.Path, case: str, reader: str, speak: Callable[[], Awaitable[object]]) -> Figure:
    """Let a reader speak one session, then measure it in the simulator's log."""
    offset = await asyncio.to_thread(_size, log)
    await speak()
    # The break is logged once its last bit has passed the throttled line, a little after the reader has gone.
    await asyncio.sleep(0.2)
    return measure(log, offset, case, reader)


async def run(repeats: int, folder: pathlib.Path) -> list[Figure]:
    """Measure both readers in both cases, interleaved; return the median session of each."""
    start, end = archive_range(_now())
    archive = {"archive_number": 3, "control_position": 3}
    span = {"start_date": start.isoformat(), "end_date": end.isoformat(), **archive}
    cases = (
        ("one value", "read_single_value", {"address": "2:300"}, _their_value),
        (f"{ROWS} rows", "read_archive_by_date", span, _their_archive),
    )
    memory = Memory()
    figures: list[Figure] = []
    pty_log, tcp_log = folder / "pty.log", folder / "tcp.log"
    with simulated(pty_log, "pty") as pty, simulated(tcp_log, "tcp:127.0.0.1:0") as tcp:
        # The poll before, which reads the columns once.
        await ours(tcp, "read_archive_by_date", {**span, "start_date": span["end_date"]}, memory)
        for turn in range(repeats):
            # A long session averages over its many telegrams, a short one needs repeating.
            for case, call, kwargs, peer in cases if turn % SHORT_PER_LONG == 0 else cases[:1]:
                for reader, endpoint, log in (("metergate, pty", pty, pty_log), ("metergate, TCP", tcp, tcp_log)):
                    figures.append(await session(log, case, reader, partial(ours, endpoint, call, kwargs, memory)))
                speak = partial(asyncio.to_thread, theirs, tcp, peer)
                figures.append(await session(tcp_log, case, "iec62056-21 0.0.2, TCP", speak))
    return _medians(figures)


def _size(log: pathlib.Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _medians(figures: Sequence[Figure]) -> list[Figure]:
    by_kind: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        by_kind.setdefault((figure.case, figure.reader), []).append(figure)
    return [_median(group) for group in by_kind.values()]


def _median(group: Sequence[Figure]) -> Figure:
    ordered = sorted(group, key=lambda figure: figure.ratio)
    return dataclasses.replace(
        ordered[len(ordered) // 2],
        best=ordered[-1].ratio,
        shortest_gap=min(figure.shortest_gap for figure in group),
        keeps_reaction_time=all(figure.keeps_reaction_time for figure in group),
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when ours waste more than 2 % or answer too soon."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks poll", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="short sessions of each reader; the median counts (5)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(run(max(1, options.repeats), pathlib.Path(folder)))
    mine = [figure for figure in figures if figure.reader.startswith("metergate")]
    good = all(figure.best >= WANTED and figure.keeps_reaction_time for figure in mine)
    if options.json:
        rows = [dataclasses.asdict(figure) for figure in figures]
        print(json.dumps({"benchmark": "poll", "rate": RATE, "wanted": WANTED, "good": good, "figures": rows}))
        return 0 if good else 1
    print(f"limit over wall time at {RATE} Bd (1 is a reader that wastes nothing; wanted of ours: {WANTED})\n")
    print(
        f"{'case':<12}{'reader':<26}{'ratio':>7}{'best':>7}{'wall s':>9}{'limit s':>9}{'bytes':>8}{'shortest gap':>14}"
    )
    for f in figures:
        gap = f"{f.shortest_gap * 1000:.1f} ms" + ("" if f.keeps_reaction_time else " !")
        print(
            f"{f.case:<12}{f.reader:<26}{f.ratio:>7.3f}{f.best:>7.3f}{f.wall:>9.3f}{f.limit:>9.3f}{f.characters:>8}{gap:>14}"
        )
    if not all(figure.keeps_reaction_time for figure in figures):
        print(f"\n! breaks the protocol: answers sooner than the minimum reaction time, {REACTION * 1000:.0f} ms")
    return 0 if good else 1
