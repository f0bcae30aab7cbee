"""Garbage for everything that reads bytes or texts from outside: what breaks, grows without bound, never ends.

Inputs are mutations of the transcripts, of conversations with the simulator's models, of what its meters push and of
the golden messages. One that reaches something new (a state, an event, an error, a kind of result) is kept and mutated
further. Each target promises three things, and a broken promise is a failure: only the errors that it declares, no
buffer beyond its bound, and an end within ``LONGEST`` seconds, with a bounded number of events for each byte.

A failure is shrunk and printed with the seed and the command that repeats it. Exit status 0: none.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from benchmarks._fuzz_core import METER, READER, SIMULATOR
from benchmarks._fuzz_pushes import PUSHES
from benchmarks._fuzz_targets import Notes, Target
from benchmarks._fuzz_texts import ROWS, TEXTS
from benchmarks._fuzz_wire import WIRE

TARGETS: dict[str, Target] = {target.name: target for target in (READER, METER, SIMULATOR, TEXTS, ROWS, WIRE, *PUSHES)}
LONGEST = 5.0
"""Seconds after which an input counts as one without end; the slowest that is known takes some hundredths."""
LONGEST_INPUT = 4096
KEPT = 3000
"""Inputs that a target keeps for further mutation."""
SHRINKING = 20.0
"""Seconds that are spent on making a failure's input small."""
TOKENS = (
    *(b"\x00", b"\xff", b"\x01", b"\x02", b"\x03", b"\x04", b"\x06", b"\x15", b"\r\n", b"\n", b"(", b")", b"()", b";"),
    *(b"/?!\r\n", b"/Els5EK280\r\n", b"\x06051\r\n", b"\x01B0\x03q", b"\x01P0\x02(1234567)\x03P", b"\x02(#0103)\x03#"),
    *(
        b"*m3",
        b"{C",
        b"\\x41",
        b"\\\\",
        b"CRC Ok",
        b"0x8104",
        b"0x",
        b"13;15",
        b"2024-02-30,24:60:60",
        b":",
        b".",
        b"-",
    ),
    *(b"9999-12-31,23:59:59", b"0001-01-01,00:00:00", b"2024-10-27,02:30:00", b"NaN", b"Infinity", b"1E+999999", b"_1"),
    *("\u0661\u0662".encode(), "\u00b2".encode(), b"9" * 40, b"0." + b"0" * 30, b"\xc1", b"\xc6", b"\xd6\xff" * 4),
    *(b"\x00\x01\x00\x01\x00\x01", b"\xdb\x08", b"\x0f\x00\x00\x00\x01\x00", b"\x09\x06\x01\x00\x01\x08\x00\xff"),
    *(b"\x01\x82\xff\xff", b"\x09\x84\xff\xff\xff\xff", b"\x02\x01" * 9, b"\x02\x02\x0f\x7f\x16\x1e", b"\n!1A2B\r\n"),
    *(b"0-0:1.0.0(261025023000S)\r\n", b"0-1:24.2.1(101209112500W)(1*m3)\r\n", b"[", b"{", b'"value":'),
    *(
        b"\x80",
        b"\x90",
        b"\xc0",
        b"\xca\x7f\xc0\x00\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\x9f" * 20,
        b"\xd9\xff",
        b"\x91" * 300,
    ),
)
"""Pieces with a meaning that is seldom hit by chance."""


class Endless(BaseException):
    """An input did not end in time; no ``Exception``, so that no target takes it for its own."""


class Fell(Exception):  # noqa: N818 - named by what it is
    """A target did what it does not promise."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where)
        self.what, self.where = what, where


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A broken promise: which target, the shrunk input, and what happened where."""

    target: str
    data: bytes
    what: str
    where: str

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python -m benchmarks fuzz --replay {self.target}:{self.data.hex()}"


@dataclasses.dataclass(slots=True)
class Figures:
    """What one target was given, and what it reached."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    reached: int = 0
    kept: int = 0
    slowest: float = 0.0
    peak: int = 0
    bound: int = 0
    events_per_byte: float = 0.0

    @property
    def rate(self) -> float:
        """Inputs a second."""
        return self.inputs / self.seconds if self.seconds else 0.0


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Raise Endless in whatever takes too long."""

    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Endless

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _given(target: Target, data: bytes, notes: Notes) -> None:
    """Give the target one input; whatever it did not declare becomes Fell."""
    try:
        with _ending():
            target.run(data, notes)
    except Endless as error:
        raise Fell("no end in time", "") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"
        raise Fell(f"{type(error).__name__}: {str(error)[:200]}", where) from error


def tried(target: Target, data: bytes, notes: Notes | None = None) -> Failure | None:
    """Give the target one input; returns what it broke."""
    try:
        _given(target, data, notes or Notes())
    except Fell as fell:
        return Failure(target.name, data, fell.what, fell.where)
    return None


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """``data`` with a few things changed."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(changed) + 1)
        to = min(len(changed), at + rng.choice((1, 1, 2, 4, 16, 64)))
        match rng.randrange(9):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at:to]
            case 3:
                changed[at:at] = changed[at:to] * rng.choice((1, 2, 8, 64))
            case 4 | 5:
                changed[at:at] = rng.choice(TOKENS)
            case 6:
                changed[at:to] = rng.choice(TOKENS)
            case 7:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                changed[at:] = other[begin:]
            case _:
                del changed[at:]
    return bytes(changed[:LONGEST_INPUT])


def shrunk(target: Target, failure: Failure) -> Failure:
    """The failure with as short an input as is found in time."""
    until = time.monotonic() + SHRINKING
    piece = max(1, len(failure.data) // 2)
    while piece and time.monotonic() < until:
        smaller = None
        for at in range(0, len(failure.data), piece):
            if time.monotonic() > until:
                break
            attempt = tried(target, failure.data[:at] + failure.data[at + piece :])
            if attempt is not None and (attempt.what.partition(":")[0], attempt.where) == (
                failure.what.partition(":")[0],
                failure.where,
            ):
                smaller = attempt
                break
        if smaller is None:
            piece //= 2
        else:
            failure = smaller
            piece = min(piece, len(failure.data)) or 0
    return failure


class Course:
    """One target with what it was given so far."""

    def __init__(self, target: Target, seed: str) -> None:
        self.target = target
        self.rng = random.Random(f"{seed}/{target.name}")  # noqa: S311 - reproducible on purpose
        self.figures = Figures(target.name, bound=target.bound)
        self.inputs = list(target.seeds())
        self._fresh = list(self.inputs)
        self._reached: set[object] = set()

    def next_input(self) -> bytes:
        """Each seed as it is first, then mutations of what is kept, the newest more often."""
        if self._fresh:
            return self._fresh.pop()
        newest = self.inputs[-50:] if self.rng.random() < 0.3 else self.inputs  # noqa: PLR2004 - a third or so
        return mutated(self.rng.choice(newest), self.inputs, self.rng)

    def step(self) -> Failure | None:
        """Give one input; returns what it broke."""
        data, notes, figures = self.next_input(), Notes(), self.figures
        begun = time.perf_counter()
        failure = tried(self.target, data, notes)
        seconds = time.perf_counter() - begun
        figures.inputs += 1
        figures.seconds += seconds
        figures.slowest = max(figures.slowest, seconds)
        figures.peak = max(figures.peak, notes.peak)
        figures.events_per_byte = max(figures.events_per_byte, notes.events_per_byte)
        if not notes.reached <= self._reached:
            self._reached |= notes.reached
            figures.reached = len(self._reached)
            if len(self.inputs) < KEPT:
                self.inputs.append(data)
        figures.kept = len(self.inputs)
        return failure


def run(
    seconds: float, seed: str, targets: Sequence[Target] = tuple(TARGETS.values())
) -> tuple[list[Figures], list[Failure]]:
    """Give all targets inputs in turn for so long; stops early when ten different failures are found."""
    courses = [Course(target, seed) for target in targets]
    found: dict[tuple[str, str, str], Failure] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(found) < 10:  # noqa: PLR2004 - enough to begin with
        for course in courses:
            for _ in range(course.target.share):
                failure = course.step()
                if failure is None:
                    continue
                key = (failure.target, failure.what.partition(":")[0], failure.where)
                if key not in found:
                    found[key] = shrunk(course.target, failure)
    return [course.figures for course in courses], list(found.values())


def main(arguments: Sequence[str]) -> int:
    """Fuzz, or repeat one input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", default="", help="what the inputs are drawn from; else the time, and printed")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; repeatable")
    parser.add_argument("--replay", metavar="TARGET:HEX", help="one input again, with its traceback")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    if options.replay:
        name, _, text = options.replay.partition(":")
        if name not in TARGETS:
            parser.error(f"no target is called {name!r}; known are {', '.join(TARGETS)}")
        try:
            data = bytes.fromhex(text)
        except ValueError:
            parser.error("behind the target stand hexadecimal digits")
        TARGETS[name].run(data, Notes())
        print("nothing is broken by this input")
        return 0
    seed = options.seed or hashlib.sha256(str(time.time_ns()).encode()).hexdigest()[:8]
    targets = [target for name, target in TARGETS.items() if not options.target or name in options.target]
    figures, failures = run(options.minutes * 60, seed, targets)
    report(figures, failures, seed, as_json=options.json)
    return 1 if failures else 0


def report(figures: Sequence[Figures], failures: Sequence[Failure], seed: str, *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        told: dict[str, Any] = {
            "benchmark": "fuzz",
            "good": not failures,
            "seed": seed,
            "targets": [{**dataclasses.asdict(figure), "rate": figure.rate} for figure in figures],
            "failures": [
                {"target": one.target, "what": one.what, "where": one.where, "input": one.data.hex()}
                for one in failures
            ],
        }
        print(json.dumps(told))
        return
    print(f"seed {seed}\n")
    print(
        f"{'target':<14}{'inputs':>10}{'inputs/s':>10}{'reached':>9}{'kept':>6}{'slowest s':>11}{'peak':>9}{'bound':>9}"
    )
    for figure in figures:
        print(
            f"{figure.target:<14}{figure.inputs:>10}{figure.rate:>10.0f}{figure.reached:>9}{figure.kept:>6}"
            f"{figure.slowest:>11.3f}{figure.peak:>9}{figure.bound:>9}"
        )
    most = max((figure.events_per_byte for figure in figures), default=0.0)
    print(f"\n{sum(figure.inputs for figure in figures)} inputs, at most {most:.1f} events for a byte")
    for failure in failures:
        print(f"\n{failure.target} broke at {failure.where}: {failure.what}\n  {failure.data!r}\n  {failure.command}")
    print("nothing broke" if not failures else f"\n{len(failures)} broken, seed {seed}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
