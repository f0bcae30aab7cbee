"""How close a session on a slow line comes to what the line allows, ours beside the public client's.

The simulator honours the line's speed and logs when every byte passed; both readers run against it in this run. The
*limit* of a session is what its characters take at the line's rate (10 bits each, both ways), plus the time the meter
itself took to react, plus the reader's minimum reaction time before each telegram that it sends; from the first byte
of the request to the last byte of the break. The figure is limit over wall time: 1 is a reader that wastes nothing. A
reader that answers sooner than the minimum reaction time breaks the protocol; that is said beside its figure.

Method: the meter's side measures (monotonic clock of the simulator's process), so neither reader marks its own work;
by what the simulator hands over its last byte late counts as the meter's time, because no reader can do anything then.
``ratio`` is the median session's, which is wanted to reach 0.98, ``best`` the best one's: what a busy machine takes
from its processes is in the first and mostly not in the second. Each reader speaks the session
that it would in practice: ours with the archive's columns remembered, as at every poll but the first; the public
client with ten rows to a block, as its users ask for. Then the agent's line worker spends days with a meter: what
handshakes, archives that are held in part, blocks and buses cost (``benchmarks/_poll_days.py``).
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import itertools
import json
import pathlib
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from iec62056_21.client import Iec6205621Client
from iec62056_21.messages import CommandMessage, DataSet

from agent.links import open_link
from agent.session import open_session
from benchmarks._poll_days import show
from benchmarks._poll_wire import BITS, Memory, archive_range, simulated, size_of, telegrams
from contexts.catalogue import check_call, find_call
from contexts.meters import Moment
from protocol.plans import Device, Line

RATES = (9600, 19200)
REACTION = 0.02
"""Minimum reaction time of a reader in seconds, for a meter whose maker's third letter is lower case (``Els``)."""
TOLERANCE = 0.0005
"""Seconds by which two processes may disagree about an instant before a gap counts as too short."""
ADDRESS = "1"
ROWS = 96
WANTED = 0.98
SHORT_PER_LONG = 5


@dataclasses.dataclass(frozen=True)
class Figure:
    """One session's figures, times in seconds; ``best`` is the best ratio of all sessions of its kind."""

    case: str
    rate: int
    reader: str
    ratio: float
    wall: float
    limit: float
    characters: int
    telegrams: int
    shortest_gap: float
    keeps_reaction_time: bool
    best: float = 0.0


async def ours(endpoint: str, rate: int, call: str, kwargs: dict[str, Any], memory: Memory) -> int:
    """Make one call over a session of its own, as the agent does; returns the number of values."""
    line = Line(uuid.uuid4(), "line", endpoint, rate=rate, fixed_rate=True)
    device = Device(uuid.uuid4(), "meter", line.id, "UTC", ADDRESS)
    link = await open_link(endpoint, rate)
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
    start, end = (f"{limit:%Y-%m-%d,%H:%M:%S}" for limit in archive_range(_now(), ROWS))
    data = DataSet(address="3:V.0", value=f"3;{start};{end};10")
    client.transport.send(CommandMessage(command="R", command_type=3, data_set=data).to_bytes())
    client.read_response()


def measure(log: pathlib.Path, offset: int, case: str, rate: int, reader: str) -> Figure:
    """Turn what the simulator has logged since ``offset`` into figures."""
    said = telegrams(log, offset)
    characters = sum(telegram.characters for telegram in said)
    pairs = list(itertools.pairwise(said))
    gaps = [after.start - before.passed for before, after in pairs if after.direction == "rx"]
    reactions = [after.start - before.end for before, after in pairs if after.direction == "tx"]
    reactions += [telegram.passed - telegram.end for telegram in said]
    # A reader is judged by the line's own last bit, before which it cannot have had the telegram.
    shortest = min(after.start - before.end for before, after in pairs if after.direction == "rx")
    wall = said[-1].end - said[0].start
    limit = characters * BITS / rate + sum(reactions) + len(gaps) * REACTION
    return Figure(
        case,
        rate,
        reader,
        limit / wall,
        wall,
        limit,
        characters,
        len(said),
        shortest,
        shortest >= REACTION - TOLERANCE,
    )


async def session(
    log: pathlib.Path, case: str, rate: int, reader: str, speak: Callable[[], Awaitable[object]]
) -> Figure:
    """Let a reader speak one session, then measure it in the simulator's log."""
    offset = await asyncio.to_thread(size_of, log)
    await speak()
    # The break is logged once its last bit has passed the throttled line, a little after the reader has gone.
    await asyncio.sleep(0.2)
    return measure(log, offset, case, rate, reader)


async def run(rate: int, repeats: int, folder: pathlib.Path) -> list[Figure]:
    """Measure both readers in both cases at a rate, interleaved; return the median session of each."""
    start, end = archive_range(_now(), ROWS)
    archive = {"archive_number": 3, "control_position": 3}
    span = {"start_date": start.isoformat(), "end_date": end.isoformat(), **archive}
    cases = (
        ("one value", "read_single_value", {"address": "2:300"}, _their_value),
        (f"{ROWS} rows", "read_archive_by_date", span, _their_archive),
    )
    memory = Memory()
    figures: list[Figure] = []
    pty_log, tcp_log = folder / f"pty-{rate}.log", folder / f"tcp-{rate}.log"
    with simulated(pty_log, "pty", rate) as pty, simulated(tcp_log, "tcp:127.0.0.1:0", rate) as tcp:
        # The poll before, which reads the columns once.
        await ours(tcp, rate, "read_archive_by_date", {**span, "start_date": span["end_date"]}, memory)
        for turn in range(repeats):
            # A long session averages over its many telegrams, a short one needs repeating.
            for case, call, kwargs, peer in cases if turn % SHORT_PER_LONG == 0 else cases[:1]:
                for reader, endpoint, log in (("metergate, pty", pty, pty_log), ("metergate, TCP", tcp, tcp_log)):
                    figures.append(
                        await session(log, case, rate, reader, partial(ours, endpoint, rate, call, kwargs, memory))
                    )
                speak = partial(asyncio.to_thread, theirs, tcp, peer)
                figures.append(await session(tcp_log, case, rate, "iec62056-21 0.0.2, TCP", speak))
    return _medians(figures)


def _medians(figures: Sequence[Figure]) -> list[Figure]:
    by_kind: dict[tuple[str, int, str], list[Figure]] = {}
    for figure in figures:
        by_kind.setdefault((figure.case, figure.rate, figure.reader), []).append(figure)
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
    repeats = max(1, options.repeats)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for rate in RATES:
            figures += asyncio.run(run(rate, repeats, folder))
        shown = asyncio.run(show(folder, RATES))
    mine = [figure for figure in figures if figure.reader.startswith("metergate")]
    good = all(figure.ratio >= WANTED and figure.keeps_reaction_time for figure in mine)
    good = good and all(one.good for one in shown)
    if options.json:
        rows = [dataclasses.asdict(figure) for figure in figures]
        days = [{**dataclasses.asdict(one), "good": one.good} for one in shown]
        print(json.dumps({"benchmark": "poll", "wanted": WANTED, "good": good, "figures": rows, "days": days}))
        return 0 if good else 1
    print(f"limit over wall time (1 is a reader that wastes nothing; wanted of ours: {WANTED})\n")
    print(
        f"{'case':<12}{'Bd':>6}  {'reader':<24}{'ratio':>7}{'best':>7}{'wall s':>9}{'limit s':>9}{'bytes':>8}"
        f"{'shortest gap':>14}"
    )
    for f in figures:
        gap = f"{f.shortest_gap * 1000:.1f} ms" + ("" if f.keeps_reaction_time else " !")
        print(
            f"{f.case:<12}{f.rate:>6}  {f.reader:<24}{f.ratio:>7.3f}{f.best:>7.3f}{f.wall:>9.3f}{f.limit:>9.3f}"
            f"{f.characters:>8}{gap:>14}"
        )
    if not all(figure.keeps_reaction_time for figure in figures):
        print(f"\n! breaks the protocol: answers sooner than the minimum reaction time, {REACTION * 1000:.0f} ms")
    print(f"\n{'what a day costs':<48}{'Bd':>6}{'figure':>9}{'at most':>9}")
    for one in shown:
        print(f"{one.what:<48}{one.rate:>6}{one.figure:>9.4g}{one.bound:>9.4g}  {one.note}{'' if one.good else '  !'}")
    return 0 if good else 1
