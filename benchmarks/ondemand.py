"""How long an operator waits for a value beyond what the line takes: REST request to the result in the answer.

A site of real processes (``benchmarks/_ondemand_site.py``) with a throttled line of 9600 baud. A command is asked for
and waited for: a POST, and a GET that waits. From the time that takes the *limit* of the session is taken away: its
characters at the line's rate both ways, the meter's reaction, and the reader's minimum reaction before each telegram it
sends (as the bench ``poll`` has it). What is left is everything else: REST, database, notice, broker, agent, its store,
what the reader wastes on the line, the report's way back, and the answer. Wanted on an idle line: p50 at most 60 ms and
p95 at most 150 ms. While the archive of another meter is read on the same line: at most that and one block of the
readout more, the longest one that there was; each of these commands is held against it.

Method: the line's side is what the simulator logs, with the system's monotonic clock; the moments between are those
that the command's own states tell. ``until the value`` counts the limit only up to the answer that has the value: the
break that ends a session is not waited for by anybody, so that this figure is the harder one.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks._ondemand_site import ASKED, RATE, TICK, Command, OnDemandSite, site, wait_for
from benchmarks._poll_wire import BITS, BREAK, REQUEST, Telegram, chunks, size_of, telegrams
from benchmarks.loaded_hub import quantile
from benchmarks.poll import REACTION
from deploy.demo.processes import StartError

WANTED_P50, WANTED_P95 = 0.060, 0.150
DATABASES = ("postgresql", "sqlite")
SETTLE_SECONDS = 0.3
"""How long after an answer the wire log has the session's break, and the line is closed again."""
WARMING = 3
SET_UP_SECONDS, EACH_SECONDS = 40.0, 1.6
"""What setting up takes at most, and each command on an idle line with the pause before it: then the readout is due."""

LONG_SECONDS = 1.0
"""What takes longer on the line is a block of an archive."""
MEANING = {
    "rest": "request to command written",
    "publish": "written to accepted by the agent: notice, claim, broker, agent's store",
    "agent": "accepted to the first character on the line",
    "line": "first character to value: what the line itself takes",
    "waste": "first character to value: what the reader takes beyond that",
    "done": "value to result: what the agent makes of it, before it is stored",
    "back": "result to answer: agent's store, report, relay, commit, notice, REST",
}


@dataclasses.dataclass(frozen=True)
class Waited:
    """One command, in seconds: what it took beyond the session's limit, and where that went."""

    beyond: float
    beyond_value: float
    limit: float
    steps: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The commands of one database, on an idle line and while an archive was read; seconds."""

    database: str
    idle: tuple[Waited, ...]
    busy: tuple[Waited, ...]
    block: float
    """The longest block of the readout, with what the reader says before it."""

    @property
    def good(self) -> bool:
        """Whether it is as wanted."""
        beyond = [one.beyond for one in self.idle]
        late = [one.beyond > WANTED_P95 + self.block for one in self.busy]
        quick = quantile(beyond, 0.5) <= WANTED_P50 and quantile(beyond, 0.95) <= WANTED_P95
        return bool(beyond) and quick and not any(late)


def main(arguments: Sequence[str]) -> int:
    """Ask, print; exit status 1 when it took longer than wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ondemand", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both", help="behind the hub (both)")
    parser.add_argument("--commands", type=int, default=40, help="on an idle line (40)")
    parser.add_argument("--busy", type=int, default=15, help="while an archive is read; 0: none (15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="keep logs and databases in DIR")
    options = parser.parse_args(arguments)
    verdicts = []
    for database in DATABASES if options.database == "both" else (options.database,):
        with tempfile.TemporaryDirectory(prefix="metergate-ondemand-") as temporary:
            # The temporary one itself: PostgreSQL, as another user, must reach what is in it.
            folder = options.keep / database if options.keep else pathlib.Path(temporary)
            verdicts.append(measure(folder, database, max(2, options.commands), options.busy))
        if not options.json:
            sys.stdout.write(f"{_shown(verdicts[-1])}\n")
            sys.stdout.flush()
    good = all(verdict.good for verdict in verdicts)
    if options.json:
        sys.stdout.write(f"{json.dumps(_document(verdicts, good=good))}\n")
    return 0 if good else 1


def measure(folder: pathlib.Path, database: str, commands: int, busy: int) -> Verdict:
    """Run a site, and ask."""
    lead = SET_UP_SECONDS + EACH_SECONDS * (WARMING + commands)
    chance = random.Random(1)  # noqa: S311 - no secret
    with site(folder, database, lead) as opened:
        # What setting up has written, here and for a database before this one, is no part of a command's flushes.
        os.sync()
        # The first ones warm what is made once: connections, prepared statements, the meter's columns.
        for _ in range(WARMING):
            _one(opened, chance)
        idle = tuple(_one(opened, chance) for _ in range(commands))
        if opened.clock.now() > TICK:
            raise StartError("the readout began before the idle commands had ended: this machine is too busy")
        if not busy:
            return Verdict(database, idle, (), 0.0)
        begun = size_of(opened.wire)
        opened.clock.wait_until(TICK, lambda: None)
        wait_for("the archive is read", lambda: any(took > LONG_SECONDS for took in _block_times(opened.wire, begun)))
        found = tuple(_one(opened, chance, busy=True) for _ in range(busy))
        blocks = _block_times(opened.wire, begun)
    return Verdict(database, idle, found, max(blocks))


def _one(opened: OnDemandSite, chance: random.Random, *, busy: bool = False) -> Waited:
    """Ask once, at whatever moment of a readout."""
    time.sleep(SETTLE_SECONDS + chance.random() * (2.0 if busy else 0.5))
    offset = size_of(opened.wire)
    # Both clocks of this machine, in one moment.
    ahead = time.time() - time.monotonic()
    command = opened.ask()
    time.sleep(SETTLE_SECONDS)
    return _judged(opened, command, _session(chunks(opened.wire, offset)), ahead)


def _session(pieces: Sequence[Telegram]) -> list[Telegram]:
    """Return the telegrams of the session with the meter that was asked, request to break."""
    said: list[Telegram] = []
    for piece in pieces:
        if not said and not (piece.direction == "rx" and f"{REQUEST}{ASKED}!" in piece.text):
            continue
        if said and said[-1].direction == piece.direction:
            before = said.pop()
            said.append(dataclasses.replace(piece, text=before.text + piece.text, start=before.start))
        else:
            said.append(piece)
        if BREAK in said[-1].text and said[-1].direction == "rx":
            return said
    raise RuntimeError("the wire log has no whole session with the meter that was asked")


def _limit(said: Sequence[Telegram]) -> float:
    """Return what the line takes for these telegrams, as the bench ``poll`` has it."""
    pairs = list(itertools.pairwise(said))
    reactions = sum(after.start - before.end for before, after in pairs if after.direction == "tx")
    reactions += sum(telegram.passed - telegram.end for telegram in said)
    answers = sum(after.direction == "rx" for _, after in pairs)
    return sum(telegram.characters for telegram in said) * BITS / RATE + reactions + answers * REACTION


def _judged(opened: OnDemandSite, command: Command, said: Sequence[Telegram], ahead: float) -> Waited:
    took = command.answered - command.asked
    # The break is the last thing that is said; before it came the answer with the value.
    to_value = said[:-1]
    limit, limit_of_value = _limit(said), _limit(to_value)
    first, value = said[0].start + ahead, to_value[-1].passed + ahead
    written = opened.real(command.row["created_at"])
    told = {step["state"]: opened.real(step["at"]) for step in command.row["updates"]}
    accepted, done = told["accepted"], told["done"]
    steps = {
        "rest": written - command.asked,
        "publish": accepted - written,
        "agent": first - accepted,
        "line": limit_of_value,
        "waste": value - first - limit_of_value,
        "done": done - value,
        "back": command.answered - done,
    }
    return Waited(took - limit, took - limit_of_value, limit, steps)


def _block_times(wire: pathlib.Path, offset: int) -> list[float]:
    """Return how long each thing that a meter said took, with what came before it: the acknowledgement's character."""
    pairs = itertools.pairwise(telegrams(wire, offset))
    return [said.end - before.end + BITS / RATE + REACTION for before, said in pairs if said.direction == "tx"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _figures(waited: Sequence[Waited]) -> dict[str, object]:
    def spread(values: list[float]) -> dict[str, float]:
        return {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "most": max(values)}

    if not waited:
        return {"commands": 0}
    return {
        "commands": len(waited),
        "beyond": spread([one.beyond for one in waited]),
        "beyond_value": spread([one.beyond_value for one in waited]),
        "limit": statistics.median(one.limit for one in waited),
        "steps": {name: spread([one.steps[name] for one in waited]) for name in MEANING},
    }


def _document(verdicts: Sequence[Verdict], *, good: bool) -> dict[str, object]:
    databases = [
        {
            "database": one.database,
            "good": one.good,
            "idle": _figures(one.idle),
            "busy": _figures(one.busy),
            "block": one.block,
        }
        for one in verdicts
    ]
    wanted = {"p50": WANTED_P50, "p95": WANTED_P95}
    return {"benchmark": "ondemand", "wanted": wanted, "good": good, "databases": databases}


def _shown(verdict: Verdict) -> str:
    """Return a verdict as text, in milliseconds."""
    lines = [f"{verdict.database}: milliseconds beyond the limit of the session"]
    for what, waited in (("idle line", verdict.idle), ("archive readout", verdict.busy)):
        if not waited:
            continue
        lines.append(f"  {what}, {len(waited)} commands")
        rows = [("beyond the session's limit", [one.beyond for one in waited])]
        rows.append(("beyond the limit until the value", [one.beyond_value for one in waited]))
        rows += [(f"  {meaning}", [one.steps[name] for one in waited]) for name, meaning in MEANING.items()]
        lines.append(f"    {'':<72}{'p50':>7}{'p95':>7}{'most':>7}")
        for name, values in rows:
            parts = (quantile(values, 0.5), quantile(values, 0.95), max(values))
            lines.append(f"    {name:<72}" + "".join(f"{_milliseconds(part):>7}" for part in parts))
        median = statistics.median(one.limit for one in waited)
        lines.append(f"    {'(the limit of the session itself)':<72}{_milliseconds(median):>7}")
    if verdict.busy:
        lines.append(f"  longest block of the readout: {_milliseconds(verdict.block)}")
    bounds = (
        f"p50 {_milliseconds(WANTED_P50)}, p95 {_milliseconds(WANTED_P95)}; beside a readout that and one block more"
    )
    lines.append(f"  wanted: {bounds}: {'as wanted' if verdict.good else 'MISSED'}")
    return "\n".join(lines)
