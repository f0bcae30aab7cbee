"""The faults of the chaos bench, each a block: what is broken on entry is whole again on exit.

A fault is counted only where it hit: a process that was alive, a connection that was open, a batch that was played, a
disk on which a write has failed. Which faults come, where and for how long, follows from the seed.
"""

import contextlib
import dataclasses
import datetime as dt
import pathlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from benchmarks.chaos_operator import Operator
from benchmarks.chaos_site import GATEWAYS, ChaosSite, Unit
from benchmarks.tape import Recorded, Tape

MOST_PLAYED = 60
FILLER = "filler"
FULL_WORDS = (b"is full", b"no space left", b'"fault": "full"')
"""What the log of an agent says, in small letters, when a write has failed for want of room."""

JUMPS = tuple(dt.timedelta(minutes=minutes) for minutes in (-10_000, -600, -180, -40, 12, 45, 90))
"""Forward no further than the heal at the end has time for: what has run by a clock ahead is not due again."""

TEN_YEARS = tuple(dt.timedelta(days=days) for days in (-3653, 3653))
RELAYS = ("relay-1", "relay-2")
BROKER_EMPTIED = "the broker restarts empty while the consumer is away"
CONSUMER_AWAY = "the consumer is away"
KILLED_IN_OUTAGE = "SIGKILL during a broker outage"
DATABASE_AWAY = "the database stops"


@dataclasses.dataclass
class Strike:
    """One fault at one place; ``hit`` once it has done harm."""

    kind: str
    target: str
    seconds: float
    gap: float
    hit: bool = False
    in_flight: int = 0
    """Readings without a receipt when it was mended; counted for what other systems lose readings by."""

    over: bool = False

    def __str__(self) -> str:
        """For people."""
        return f"{self.kind} {self.target}"


@dataclasses.dataclass
class Chaos:
    """What faults are made with."""

    site: ChaosSite
    operator: Operator
    tape: Tape
    random: random.Random
    threads: list[threading.Thread] = dataclasses.field(default_factory=list)


Fault = Callable[[Chaos, Strike], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault: where it may strike, for how long (real seconds), and what it needs for itself meanwhile.

    ``case`` is the one of the cases that other systems are known to lose readings by; the figures stand side by side.
    """

    fault: Fault
    targets: Callable[[ChaosSite], Sequence[str]]
    shortest: float
    longest: float
    claims: tuple[str, ...] = ("{target}",)
    case: str = ""


def _units(*prefixes: str) -> Callable[[ChaosSite], Sequence[str]]:
    return lambda site: [name for name in site.units if name.startswith(prefixes)]


# --- processes -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def kill(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """SIGKILL a process; it comes back later."""
    strike.hit = chaos.site.units[strike.target].kill()
    yield
    chaos.site.start(strike.target)


@contextlib.contextmanager
def stop(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """SIGSTOP a process, the broker or all of the database: its ports take connections, and nobody answers."""
    number = signal.SIGSTOP
    signalled: Unit | None = chaos.site.units.get(strike.target)
    if signalled is not None:
        strike.hit = signalled.signal(number)
    elif strike.target == "broker":
        strike.hit = chaos.site.broker.running
        chaos.site.broker.hang()
    else:
        strike.hit = chaos.site.database.running
        chaos.site.database.signal(number)
    yield
    if signalled is not None:
        signalled.signal(signal.SIGCONT)
    elif strike.target == "broker":
        chaos.site.broker.resume()
    else:
        chaos.site.database.signal(signal.SIGCONT)


@contextlib.contextmanager
def empty_broker(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """SIGKILL the broker; it comes back with an empty disk."""
    strike.hit = chaos.site.broker.running
    chaos.site.broker.kill()
    yield
    chaos.site.broker.start()


@contextlib.contextmanager
def restart_database(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """End the database as its administrator, its supervisor or a power cut would; it comes back later."""
    strike.hit = chaos.site.database.running
    chaos.site.database.end(chaos.random.choice((signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)))
    yield
    chaos.site.database.start()


@contextlib.contextmanager
def empty_broker_relays_away(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """No relay is there; the broker takes what comes, loses it with its disk, and then the relays come back."""
    site = chaos.site
    killed = [site.units[name].kill() for name in RELAYS]
    strike.hit = site.broker.running and any(killed)
    yield
    site.broker.kill()
    site.broker.start()
    for name in RELAYS:
        site.start(name)


@contextlib.contextmanager
def relays_away(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """No relay is there for a long time."""
    killed = [chaos.site.units[name].kill() for name in RELAYS]
    strike.hit = any(killed)
    yield
    for name in RELAYS:
        chaos.site.start(name)


@contextlib.contextmanager
def kill_in_outage(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """SIGKILL an agent after the broker has been away for some time; the broker comes back last."""
    site = chaos.site
    was_running = site.broker.running
    site.broker.kill()
    yield
    strike.hit = was_running and site.units[strike.target].kill()
    site.start(strike.target)
    site.broker.start()


@contextlib.contextmanager
def pull_line(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Pull a serial line (its port vanishes, or is left dangling) and plug it in again under the same path."""
    line = chaos.site.units[strike.target]
    strike.hit = line.alive
    if chaos.random.random() < 0.5:  # noqa: PLR2004 - one of two ways
        line.kill()
    else:
        line.end()
    yield
    chaos.site.start(strike.target)


@contextlib.contextmanager
def jump_clock(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Restart an agent with its clock elsewhere, and later once more with the right one."""
    with _elsewhere(chaos, strike, chaos.random.choice(JUMPS)):
        yield


@contextlib.contextmanager
def jump_far(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """The same by ten years, forward or back."""
    with _elsewhere(chaos, strike, chaos.random.choice(TEN_YEARS)):
        yield


@contextlib.contextmanager
def _elsewhere(chaos: Chaos, strike: Strike, jump: dt.timedelta) -> Iterator[None]:
    site, name = chaos.site, strike.target
    gateway = name.removeprefix("agent-")
    strike.hit = site.units[name].alive
    chaos.operator.disturb(gateway, calm=False)
    site.units[name].kill()
    clock = site.clock
    site.start(name, f"{(clock.start + jump).isoformat()}@{clock.anchor!r},{clock.rate!r}")
    yield
    site.units[name].kill()
    site.start(name)
    # Until it has looked at its tasks once by the right clock.
    timer = threading.Timer(5.0, chaos.operator.disturb, (gateway,), {"calm": True})
    timer.start()
    chaos.threads.append(timer)


# --- network ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cut(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Reset all connections between two, and let no new ones through."""
    wire = chaos.site.gates[strike.target]
    wire.struck = 0
    wire.cut(refuse=True)
    yield
    wire.open()
    strike.hit = wire.struck > 0


@contextlib.contextmanager
def delay(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Let everything between two arrive late."""
    wire = chaos.site.gates[strike.target]
    wire.struck = 0
    wire.slow(chaos.random.uniform(0.2, 2.0))
    yield
    wire.open()
    strike.hit = wire.struck > 0


@contextlib.contextmanager
def half_open(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Let one of two speak and not be heard; what it said is lost with its connections, or arrives late."""
    wire = chaos.site.gates[strike.target]
    wire.struck = 0
    upstream = chaos.random.random() < 0.5  # noqa: PLR2004 - one of two directions
    wire.shut(upstream=upstream, downstream=not upstream)
    yield
    strike.hit = wire.struck > 0
    if chaos.random.random() < 0.7:  # noqa: PLR2004 - mostly lost
        wire.cut()
    wire.open()


# --- messages --------------------------------------------------------------------------------------------------------


def _recent(chaos: Chaos) -> list[Recorded]:
    return chaos.tape.messages[-MOST_PLAYED:]


@contextlib.contextmanager
def play_twice(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Deliver batches, reports, receipts and commands again that were delivered before."""
    recent = _recent(chaos)
    strike.hit = chaos.tape.play([*recent, *recent]) > 0
    yield


@contextlib.contextmanager
def play_shuffled(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Deliver them in another order, old ones among them."""
    recent = [*_recent(chaos), *chaos.tape.messages[:MOST_PLAYED]]
    chaos.random.shuffle(recent)
    strike.hit = chaos.tape.play(recent) > 1
    yield


@contextlib.contextmanager
def play_corrupted(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Deliver copies in which a byte is another one, or the end is missing."""
    damaged = []
    for message in chaos.random.sample(_recent(chaos), min(8, len(_recent(chaos)))):
        payload = bytearray(message.payload)
        if chaos.random.random() < 0.3:  # noqa: PLR2004 - some are cut off
            del payload[chaos.random.randrange(len(payload)) :]
        else:
            payload[chaos.random.randrange(len(payload))] ^= 1 << chaos.random.randrange(8)
        damaged.append(message._replace(payload=bytes(payload)))
    strike.hit = chaos.tape.play(damaged) > 0
    yield


# --- edits -----------------------------------------------------------------------------------------------------------


def _edit(chaos: Chaos, strike: Strike, edit: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
    def work() -> None:
        strike.hit = edit()

    thread = threading.Thread(target=work, name=strike.kind)
    chaos.threads.append(thread)
    thread.start()
    return contextlib.nullcontext()


def rename(chaos: Chaos, strike: Strike) -> contextlib.AbstractContextManager[None]:
    """Rename a meter."""
    return _edit(chaos, strike, lambda: chaos.operator.rename(strike.target))


def edit_group(chaos: Chaos, strike: Strike) -> contextlib.AbstractContextManager[None]:
    """Put a task into a group or take it out."""
    return _edit(chaos, strike, chaos.operator.edit_group)


def edit_config(chaos: Chaos, strike: Strike) -> contextlib.AbstractContextManager[None]:
    """Take a series out of a config and put it back."""
    return _edit(chaos, strike, lambda: chaos.operator.edit_config(strike.target))


# --- disks -----------------------------------------------------------------------------------------------------------


def _fill(disk: pathlib.Path) -> None:
    with contextlib.suppress(OSError), (disk / FILLER).open("ab", buffering=0) as file:
        for size in (65_536, 1_024, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@contextlib.contextmanager
def _full(disk: pathlib.Path, log: pathlib.Path, words: tuple[bytes, ...], strike: Strike) -> Iterator[None]:
    """Fill a disk to its last byte, again and again; it has hit when the log says so."""
    begun = log.stat().st_size
    ended = threading.Event()

    def keep_full() -> None:
        while not ended.wait(0.2):
            _fill(disk)

    _fill(disk)
    filler = threading.Thread(target=keep_full, name="filler")
    filler.start()
    yield
    ended.set()
    filler.join()
    (disk / FILLER).unlink()
    said = log.read_bytes()[begun:].lower()
    strike.hit = any(word in said for word in words)


@contextlib.contextmanager
def fill_agent(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Leave no byte on the disk of an agent's store; mostly the gateway is started with its disk full."""
    site, name = chaos.site, f"agent-{strike.target}"
    # One that goes on may find room in its own files for a while.
    starts = chaos.random.random() < 0.8  # noqa: PLR2004 - mostly
    if starts:
        site.units[name].end()
    with _full(site.disks[strike.target], site.folder / f"{name}.log", FULL_WORDS, strike):
        if starts:
            site.start(name)
        yield


@contextlib.contextmanager
def fill_hub(chaos: Chaos, strike: Strike) -> Iterator[None]:
    """Leave no byte on the database's disk; a database that has given up is started again when there is room."""
    database = chaos.site.database
    with _full(chaos.site.disks["hub"], database.log, (b"no space left",), strike):
        yield
    if not database.running:
        database.start()


def _disks(*names: str) -> Callable[[ChaosSite], Sequence[str]]:
    return lambda site: [name for name in names if name in site.disks]


KINDS: dict[str, Kind] = {
    "kill": Kind(kill, lambda site: list(site.units), 0.5, 6),
    "stop": Kind(stop, lambda site: [*site.units, "broker", "database"], 2, 8),
    "broker restarted empty": Kind(empty_broker, lambda _: ["broker"], 1, 6),
    "broker restarted empty, relays away": Kind(
        empty_broker_relays_away, lambda _: ["broker"], 18, 22, claims=("broker", *RELAYS), case=BROKER_EMPTIED
    ),
    "relays away": Kind(relays_away, lambda _: ["relays"], 25, 60, claims=RELAYS, case=CONSUMER_AWAY),
    "agent killed, broker away": Kind(
        kill_in_outage, _units("agent"), 4, 8, claims=("broker", "{target}"), case=KILLED_IN_OUTAGE
    ),
    "database restarted": Kind(restart_database, lambda _: ["database"], 1, 6, case=DATABASE_AWAY),
    "network cut": Kind(cut, lambda site: list(site.gates), 1, 8),
    "network delayed": Kind(delay, lambda site: list(site.gates), 4, 10),
    "network half-open": Kind(half_open, lambda site: list(site.gates), 4, 10),
    "line pulled": Kind(pull_line, _units("line"), 1, 8),
    "clock jump": Kind(jump_clock, _units("agent"), 5, 9),
    "clock jump of ten years": Kind(jump_far, _units("agent"), 5, 9),
    "agent disk full": Kind(fill_agent, _disks(*GATEWAYS), 8, 13, claims=("agent-{target}",)),
    "hub disk full": Kind(fill_hub, _disks("hub"), 8, 14, claims=("database", *RELAYS)),
    "deliveries doubled": Kind(play_twice, lambda _: ["broker"], 0, 0),
    "deliveries reordered": Kind(play_shuffled, lambda _: ["broker"], 0, 0),
    "payload corrupted": Kind(play_corrupted, lambda _: ["broker"], 0, 0),
    "meter renamed": Kind(rename, lambda site: list(site.devices), 0, 0, claims=("edit",)),
    "group edited": Kind(edit_group, lambda _: ["group"], 0, 0, claims=("edit",)),
    "config edited": Kind(edit_config, lambda _: ["8:310/3", "6:310_1/3"], 0, 0, claims=("edit",)),
}


@dataclasses.dataclass
class _UnderWay:
    """A fault that is not mended yet."""

    until: float
    claims: frozenset[str]
    strike: Strike
    block: contextlib.ExitStack


class Course:
    """The seeded sequence of faults: every kind in each round, in a new order; what has not hit comes again at once."""

    def __init__(self, chaos: Chaos, pause: float, kinds: Collection[str] = ()) -> None:
        self._chaos = chaos
        self._pause = pause
        self._kinds = kinds or KINDS.keys()
        self._random = random.Random(chaos.random.random())  # noqa: S311 - repeatable, not secret
        self._rounds = 0
        self._bag: list[Strike] = []
        self._under_way: list[_UnderWay] = []
        self._next_at = time.monotonic()
        self.struck: list[Strike] = []

    def active(self) -> tuple[str, ...]:
        """Name what is broken right now."""
        return tuple(str(one.strike) for one in self._under_way)

    def step(self) -> Strike | None:
        """Mend what is due, and break the next thing if it is time; return what was broken now."""
        now = time.monotonic()
        for one in [one for one in self._under_way if one.until <= now]:
            self._mend(one)
        if now < self._next_at:
            return None
        if not self._bag:
            self._fill_bag()
        claimed = frozenset[str]().union(*(one.claims for one in self._under_way))
        for strike in self._bag:
            claims = frozenset(claim.format(target=strike.target) for claim in KINDS[strike.kind].claims)
            if not claims & claimed:
                self._bag.remove(strike)
                self._begin(strike, claims)
                return strike
        return None

    def mend_all(self) -> None:
        """Mend everything."""
        for one in list(self._under_way):
            self._mend(one)

    def _fill_bag(self) -> None:
        """Draw the next round; a kind that is behind, because its strikes did not hit, comes twice and first."""
        hits = Counter(strike.kind for strike in self.struck if strike.hit or not strike.over)
        for name in self._kinds:
            behind = hits[name] < self._rounds
            self._bag += [strike for _ in range(1 + behind) if (strike := self._draw(name)) is not None]
        self._random.shuffle(self._bag)
        self._bag.sort(key=lambda strike: hits[strike.kind] >= self._rounds)
        self._rounds += 1

    def _draw(self, name: str) -> Strike | None:
        kind = KINDS[name]
        targets = kind.targets(self._chaos.site)
        if not targets:
            return None
        seconds = self._random.uniform(kind.shortest, kind.longest)
        return Strike(name, self._random.choice(targets), seconds, self._random.uniform(0.4, 1.6) * self._pause)

    def _begin(self, strike: Strike, claims: frozenset[str]) -> None:
        block = contextlib.ExitStack()
        block.enter_context(KINDS[strike.kind].fault(self._chaos, strike))
        now = time.monotonic()
        self._under_way.append(_UnderWay(now + strike.seconds, claims, strike, block))
        self.struck.append(strike)
        self._next_at = now + strike.gap

    def _mend(self, one: _UnderWay) -> None:
        self._under_way.remove(one)
        if KINDS[one.strike.kind].case:
            one.strike.in_flight = self._chaos.site.waiting()
        one.block.close()
        one.strike.over = True


def kinds_possible(site: ChaosSite) -> list[str]:
    """Name the kinds that can strike here: small disks cannot be mounted by everybody."""
    return [name for name, kind in KINDS.items() if kind.targets(site)]
