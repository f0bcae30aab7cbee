"""What noise on the line gets past everything that is checked: wrong values stored, of a million rows.

Two parts. *Every error of a kind*: representative telegrams, each with all its single errors (a bit flipped, a byte
lost, a byte of any value inserted, a byte doubled) and all pairs of flipped bits. What the core takes for a whole
telegram and says something else than was sent is put on the line of a session, to see what the session makes of it.
*A million rows*: archives are read over lines on which telegrams of both sides are struck at random, by sessions as
the agent runs them: core, conversation, session and context are the real ones, only time is not waited for. Whatever
the context hands on to be stored is compared with what the meter held.

Wanted, else the exit status is 1: no wrong value with parity, for any single error and any two bits; none without
parity, for any single error; and none with ``verify: twice`` for anything else. The rest is printed as it is. *Wrong*
is a value that the meter did not hold at that time; *missing* is one that it held and a run that ended well did not
bring; *failed* are runs that gave up, whose rows are read by a later one. *Bytes* is what was moved on the line
compared with what the same reads move on a quiet one, ``verify: twice`` included.
"""

import argparse
import asyncio
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence

from agent.conversation import SessionError
from agent.links import LinkError
from agent.session import FAILURES
from benchmarks import _noise_line as lines
from benchmarks._noise_errors import Specimen, every_error
from benchmarks._noise_site import EVEN, NONE, Figure, Site, told_by, wrong_of

ROWS = 1_000_000
RATE = 0.0001
"""Of one byte to be struck: on a block of 2800 bytes one time in four."""
DAYS = 8
ARCHIVES = (("EK280", 3, 3), ("DL220", 2, 3), ("TC220", 3, 2), ("EK280", 4, 3))
"""Model, archive and its time column."""
SAMPLE, SHORT_SAMPLE = 500, 40
"""How many of the pairs of a telegram that pass the block check without parity are put on a line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """One kind of noise: ``weight`` is its share of the rows, ``judged`` whether no value may be wrong."""

    parity: str
    kind: str
    strike: lines.Strike
    verify: str
    judged: bool
    weight: int


SINGLE: tuple[tuple[str, lines.Strike], ...] = (
    ("one bit flipped", lines.one_bit),
    ("one byte lost", lines.drop),
    ("one byte inserted", lines.insert),
    ("one byte doubled", lines.double),
)
REST: tuple[tuple[str, str, lines.Strike], ...] = (
    (NONE, "two bits flipped", lines.two_bits),
    (NONE, "two bits of one column", lines.one_column),
    (NONE, "a burst", lines.burst),
    (EVEN, "a burst", lines.burst),
    (EVEN, "two bytes lost", lines.two_drops),
    (EVEN, "a byte moved", lines.swap),
)
COURSES = (
    *(Course(EVEN, kind, strike, "once", judged=True, weight=5) for kind, strike in SINGLE),
    Course(EVEN, "two bits flipped", lines.two_bits, "once", judged=True, weight=5),
    *(Course(NONE, kind, strike, "once", judged=True, weight=5) for kind, strike in SINGLE),
    *(Course(parity, kind, strike, "once", judged=False, weight=3) for parity, kind, strike in REST),
    *(Course(parity, kind, strike, "twice", judged=True, weight=2) for parity, kind, strike in REST),
)


# --- a million rows ------------------------------------------------------------------------------------------------


async def random_course(course: Course, sites: Sequence[Site], rows: int, seed: str) -> Figure:
    """Read archives in turn until so many rows have been asked for."""
    figure = Figure("rows", course.parity, course.kind, course.verify, course.judged)
    noise = lines.Noise(course.strike, RATE, random.Random(seed))  # noqa: S311 - reproducible on purpose
    for site in itertools.cycle(sites):
        if figure.tried >= rows:
            break
        figure.tried += len(site.rows)
        try:
            answer, line = await site.read(noise, verify=course.verify)
        except (*FAILURES, SessionError, LinkError):
            figure.failed += 1
            continue
        figure.moved += line.moved
        figure.ideal += site.ideal[course.verify]
        told = told_by(answer)
        wrong = wrong_of(told, site.known)
        figure.values += len(told)
        figure.wrong += len(wrong)
        if answer.problems:
            figure.failed += 1
        else:
            figure.missing += len(site.expected - set(told))
        if wrong and not figure.example:
            figure.example = f"{site.device.name}/{site.archive}: {wrong[0][0]}"
    figure.struck = noise.struck
    return figure


# --- the command ---------------------------------------------------------------------------------------------------


async def measure(loop: lines.InstantLoop, parity: str, rows: int, seed: int, *, short: bool) -> list[Figure]:
    """Every figure of one parity, in the order of the report; ``rows`` are those of both."""
    sites = [
        Site(model, archive, position, parity, days=2 if short else DAYS, seed=seed, loop=loop)
        for model, archive, position in ARCHIVES
    ]
    for site in sites:
        await site.prepare()
    ek, dl, tc, log = sites
    specimens = [
        Specimen("a single value", ek, None, questions=True),
        Specimen("a row of a DL", dl, range(20, 21)),
    ]
    if not short:
        specimens += [
            Specimen("two rows of a DL", dl, range(20, 22)),
            Specimen("two rows of an EK", ek, range(20, 22)),
            Specimen("two rows of a TC", tc, range(20, 22)),
            Specimen("two entries of a log", log, range(3, 5)),
            # The columns and several blocks: every command that reads, and the acknowledgement.
            Specimen("rows of a DL", dl, range(20, 85), answers=False, questions=True, new=True),
        ]
    for specimen in specimens:
        await specimen.find()
    figures = await every_error(parity, specimens, sample=SHORT_SAMPLE if short else SAMPLE, seed=seed)
    for figure in figures:
        _say(figure)
    whole = sum(course.weight for course in COURSES)
    for course in (course for course in COURSES if course.parity == parity):
        share = rows * course.weight // whole
        name = f"{seed}/{parity}/{course.kind}/{course.verify}"
        figures.append(await random_course(course, [ek, dl, tc, dl, log], share, name))
        _say(figures[-1])
    for site in sites:
        site.meter.close()
    return figures


def run_one(parity: str, rows: int, seed: int, short: bool) -> list[Figure]:  # noqa: FBT001 - crosses a process by place
    """Measure one parity on a loop of its own, on which no time is waited for."""
    loop = lines.InstantLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(measure(loop, parity, rows, seed, short=short))


def run(rows: int, seed: int, *, short: bool = False, processes: int = 1) -> list[Figure]:
    """Measure both parities, one after the other or each in a process of its own."""
    if processes == 1:
        return [figure for parity in (EVEN, NONE) for figure in run_one(parity, rows, seed, short)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        parts = [pool.submit(run_one, parity, rows, seed, short) for parity in (EVEN, NONE)]
        return [figure for part in parts for figure in part.result()]


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 when a value was stored that must not be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks noise", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to read in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of meters and noise (default %(default)s)")
    parser.add_argument("--short", action="store_true", help="two specimens and short archives, for a first look")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="one for each parity (2)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    figures = run(options.rows, options.seed, short=options.short, processes=options.processes)
    seconds = time.monotonic() - begun
    good = all(figure.good for figure in figures)
    if options.json:
        shown = [dataclasses.asdict(figure) | {"good": figure.good} for figure in figures]
        print(json.dumps({"good": good, "seconds": round(seconds, 1), "figures": shown}, indent=1))
    else:
        _print(figures, seconds)
    return 0 if good else 1


def _say(figure: Figure) -> None:
    """Tell of one figure as soon as it stands; the whole takes minutes."""
    sys.stderr.write(
        f"{time.strftime('%H:%M:%S')} {figure.part}, parity {figure.parity}, {figure.kind}, {figure.verify}: "
        f"{figure.tried} tried, {figure.struck} struck, {figure.wrong} wrong, {figure.failed} failed\n"
    )
    sys.stderr.flush()


def _print(figures: Sequence[Figure], seconds: float) -> None:
    print(
        f"{'every error of':<14} {'parity':<6} {'kind':<22}{'errors':>10}{'pass core':>10}{'run':>7}{'wrong':>7}"
        f"{'failed':>7}"
    )
    for one in (figure for figure in figures if figure.part != "rows"):
        mark = "" if one.judged else "  (not judged)"
        print(
            f"{one.part:<14} {one.parity:<6} {one.kind:<22}{one.tried:>10}{one.passed:>10}{one.struck:>7}"
            f"{one.wrong:>7}{one.failed:>7}{mark}{'' if one.good else '  !'}"
        )
    print(
        f"\n{'parity':<6} {'kind':<22} {'verify':<6}{'rows':>9}{'values':>10}{'struck':>8}{'wrong':>7}{'missing':>8}"
        f"{'failed':>7}{'bytes':>7}"
    )
    courses = [figure for figure in figures if figure.part == "rows"]
    for one in courses:
        mark = "" if one.judged else "  (not judged)"
        ratio = one.moved / one.ideal if one.ideal else 0.0
        print(
            f"{one.parity:<6} {one.kind:<22} {one.verify:<6}{one.tried:>9}{one.values:>10}{one.struck:>8}{one.wrong:>7}"
            f"{one.missing:>8}{one.failed:>7}{ratio:>6.2f}x{mark}{'' if one.good else '  !'}"
        )
    rows = sum(one.tried for one in courses)
    print(f"\n{rows} rows and {sum(one.tried for one in figures) - rows} single cases in {seconds:.0f} s")
    for one in (figure for figure in figures if figure.example):
        print(f"wrong, {one.part}, parity {one.parity}, {one.kind}, {one.verify}: {one.example}")
