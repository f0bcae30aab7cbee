"""The scheduler: which runs are due between its last look and now, and what becomes of those that were missed.

Every due tick ends as a run report: done, failed, or missed with its cause; ticks that were missed one after the other
share a report. Nothing is looked at while the clock is not believed, and nothing is taken up that the last process
left. A clock that goes back takes the last look with it: UNIQUE (task, device, tick) in the store keeps the ticks that
come again from running again, and once it has returned, what had been judged before is not judged again.

Missed-run policies, when several ticks of a task are due at once (the gateway was off, or its clock not believed):
``each`` runs all; ``latest`` the newest only; ``skip`` the newest, if a quarter of its period has not passed yet;
``default`` makes up for missed archive reads by one read of what is not held (``since`` the oldest tick), and is
``latest`` for calls that read what is there now. Archive reads that failed are made up for in the same way, because the
meter still has what they were to bring: by the next one, within a month.
"""

import asyncio
import bisect
import collections
import contextlib
import datetime as dt
import itertools
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import structlog

from agent.clocks import Clock
from agent.duties import Duty
from agent.journal import RUNNING
from agent.looks import Timetable
from agent.runs import Run
from agent.storage_faults import StoreFullError
from agent.store import Store
from agent.trust import ClockTrust
from protocol import reports
from protocol.schedules import OFFSET_LIMITS, due_ticks, tick_after
from protocol.wire import encode

log = structlog.get_logger(__name__)

MOST_EACH = 672
"""Ticks of one duty that the policy ``each`` makes up for one by one (a week of quarters); older ones are missed."""

MOST_TICKS = 3000
"""Ticks of one duty that are looked at one by one after a long absence (a month of quarters)."""

MOST_BEHIND = dt.timedelta(days=30)
"""How far back a read makes up for others: a bound for what one session on a slow line may take."""

LONGEST_SLEEP = 20.0
"""Real seconds between two looks at most: the clock may have been set meanwhile."""

A_MOMENT = 0.5
"""Real seconds within which what is due reaches its line."""

_LAST_LOOK = "last_look"
_FURTHEST = "furthest_look"
"""How far a clock had looked before it went back, until it is there again."""

_TOO_LONG = "too long ago to be made up for"
_SKIP_AFTER = 0.25


class Verdict(NamedTuple):
    """What becomes of the due ticks of one duty: those to run (with ``since``), those missed (with the cause)."""

    run: list[tuple[dt.datetime, dt.datetime | None]]
    missed: list[tuple[dt.datetime, str]]


def judge_ticks(duty: Duty, ticks: Sequence[dt.datetime], now: dt.datetime) -> Verdict:
    """Apply the missed-run policy of a duty to its due ticks (oldest first, at least one)."""
    policy = duty.task.missed
    newest, older = ticks[-1], ticks[:-1]
    when = newest.strftime("%Y-%m-%dT%H:%M:%SZ")
    if policy == "each":
        return Verdict(
            [(tick, None) for tick in ticks[-MOST_EACH:]], [(tick, _TOO_LONG) for tick in ticks[:-MOST_EACH]]
        )
    if policy == "skip":
        late = now - newest - dt.timedelta(seconds=duty.task.run_offset_seconds)
        skipped = [(tick, "policy skip: the gateway could not begin in time") for tick in older]
        if late.total_seconds() > OFFSET_LIMITS[duty.task.schedule] * _SKIP_AFTER:
            skipped.append((newest, f"policy skip: {late.total_seconds():.0f} s late"))
            return Verdict([], skipped)
        return Verdict([(newest, None)], skipped)
    if policy == "default" and duty.archive:
        since = older[0] if older else None
        return Verdict([(newest, since)], [(tick, f"coalesced into the run of {when}") for tick in older])
    return Verdict([(newest, None)], [(tick, f"only the latest is run, that of {when}") for tick in older])


class Scheduler:
    """Begins runs in the store and hands them to their lines."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        trust: ClockTrust,
        submit: Callable[[Run], None],
        withdraw: Callable[[uuid.UUID], bool],
    ) -> None:
        self._store = store
        self._clock = clock
        self._trust = trust
        self._submit = submit
        self._withdraw = withdraw
        self._duties: list[tuple[Duty, dt.datetime]] = []
        # Schedules with their offsets, by line.
        self._timetables: collections.defaultdict[uuid.UUID, set[tuple[str, int]]] = collections.defaultdict(set)
        self._last: dt.datetime | None = store.get_instant(_LAST_LOOK)
        self._furthest: dt.datetime | None = store.get_instant(_FURTHEST)
        self._recovers = False
        # The run of a duty that has not been started by its line yet.
        self._waiting: dict[tuple[uuid.UUID, uuid.UUID], Run] = {}
        self._changed = asyncio.Event()
        self.doubt = ""

    def set_duties(self, duties: Iterable[Duty]) -> None:
        """Take over the duties of a new plan; what is due under the old one is begun first."""
        if self._duties:
            self.look()
        now = self._clock.now()
        by_timetable = {
            Timetable(duty.task.id, duty.device.id, duty.task.schedule, duty.task.run_offset_seconds): duty
            for duty in duties
        }
        try:
            with self._store.transaction():
                known = self._store.looks.reconcile(by_timetable, now)
        except StoreFullError:
            # The plan runs all the same; the next start takes what is not remembered for new.
            known = dict.fromkeys(by_timetable, now)
        self._duties = [(duty, known[timetable]) for timetable, duty in by_timetable.items()]
        self._timetables = collections.defaultdict(set)
        for duty, _ in self._duties:
            self._timetables[duty.device.line].add((duty.task.schedule, duty.task.run_offset_seconds))
        if self._last is None:
            # The first look of this store: what becomes due after it is missed if nobody looks.
            self.look()
        self._changed.set()

    def recover(self) -> None:
        """After a start: take up scheduled runs that were waiting or interrupted by the end of the last process.

        While the clock is not believed they wait: how old they are cannot be said.
        """
        self._recovers = not self._judge_clock()
        if self._recovers:
            return
        now = self._clock.now()
        duties = {duty.key: duty for duty, _ in self._duties}
        for run, state in self._store.runs.open():
            if run.task is None or run.tick is None:
                continue
            duty = duties.get((run.task, run.device.id))
            if duty is None:
                self._end(run, reports.INTERRUPTED, "the gateway restarted, and the plan no longer has this task here")
            elif state == RUNNING and not duty.archive and (duty.writes or _is_over(duty, run.tick, now)):
                self._end(run, reports.INTERRUPTED, "the gateway restarted while this ran")
            else:
                with self._store.transaction():
                    self._store.runs.wait_again(run.id)
                # The plan's device, not the stored one: it may have moved to another line meanwhile.
                self._hand_over(duty, _moved(run, duty))

    def started(self, run: Run) -> None:
        """Hear that a line has begun to work on a run: it can no longer be superseded."""
        if run.task is not None:
            waiting = self._waiting.get((run.task, run.device.id))
            if waiting is not None and waiting.id == run.id:
                del self._waiting[run.task, run.device.id]

    ended = started

    def look(self) -> int:
        """Begin what is due; return how many runs that is. Nothing while the clock is not believed."""
        if not self._judge_clock():
            return 0
        if self._recovers:
            self.recover()
        now = self._clock.now()
        if self._last is None or now < self._last or any(since > now for _, since in self._duties):
            self._follow(now)
        last = self._last
        due = self._due(self._unjudged(last or now, now), now)
        self._last = now
        if not due:
            return 0
        runs: list[tuple[Duty, Run]] = []
        try:
            with self._store.transaction():
                for duty, ticks in due:
                    runs += [(duty, run) for run in self._begin(duty, ticks, now)]
                self._store.put(_LAST_LOOK, now.timestamp())
        except StoreFullError:
            # What is due stays due, and is judged as missed when the store can be written again.
            self._last = last
            return 0
        for duty, run in runs:
            self._hand_over(duty, run)
        return len(runs)

    def wake(self) -> None:
        """Look soon: something that a look depends on may have changed."""
        self._changed.set()

    def next_due(self) -> dt.datetime | None:
        """Return when the next run of any duty is due."""
        return self._next_of({(duty.task.schedule, duty.task.run_offset_seconds) for duty, _ in self._duties})

    def next_due_on(self, line: uuid.UUID) -> dt.datetime | None:
        """Return when the next run on a line is due; one that was due a moment ago may not have reached it yet."""
        timetables = self._timetables.get(line, set())
        return self._next_of(timetables, self._clock.now() - dt.timedelta(seconds=A_MOMENT * self._clock.rate))

    def _next_of(self, timetables: Collection[tuple[str, int]], after: dt.datetime | None = None) -> dt.datetime | None:
        now = after or self._clock.now()
        return min(
            (
                tick_after(schedule, now - dt.timedelta(seconds=offset)) + dt.timedelta(seconds=offset)
                for schedule, offset in timetables
            ),
            default=None,
        )

    async def run(self) -> None:
        """Look for ever, whenever something is due and at least every 20 seconds."""
        while True:
            self.look()
            self._changed.clear()
            wait = LONGEST_SLEEP
            due = self.next_due()
            if due is not None:
                wait = min(wait, max(0.0, (due - self._clock.now()).total_seconds() / self._clock.rate))
            try:
                # A millisecond more, because a timer may be a little early. Not wait_for: in Python 3.11 it swallows a
                # cancellation that comes together with what it waits for.
                async with asyncio.timeout(wait + 0.001):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _judge_clock(self) -> bool:
        doubt = self._trust.doubt()
        if doubt != self.doubt:
            self.doubt = doubt
            if doubt:
                log.warning("clock_not_believed", cause=doubt)
            else:
                log.info("clock_believed")
        return not doubt

    def _unjudged(self, last: dt.datetime, now: dt.datetime) -> dt.datetime:
        """Return from when on nothing has been judged: a clock that was back returns to where it had been."""
        if self._furthest is None or now < self._furthest:
            return last
        furthest, self._furthest = self._furthest, None
        with contextlib.suppress(StoreFullError), self._store.transaction():
            self._store.put(_FURTHEST, None)
        return max(last, furthest)

    def _due(self, last: dt.datetime, now: dt.datetime) -> list[tuple[Duty, Sequence[dt.datetime]]]:
        """Return the duties that have ticks due, with these. Thousands of duties share a few timetables."""
        cache: dict[tuple[str, int, dt.datetime], Sequence[dt.datetime]] = {}
        due: list[tuple[Duty, Sequence[dt.datetime]]] = []
        for duty, since in self._duties:
            key = (duty.task.schedule, duty.task.run_offset_seconds, max(last, since))
            if key not in cache:
                cache[key] = list(due_ticks(*key, now))
            # With an offset, a tick of before the task was known may be due after it.
            known = bisect.bisect_right(cache[key], since)
            ticks = cache[key][known:] if known else cache[key]
            if ticks:
                due.append((duty, ticks))
        return due

    def _follow(self, now: dt.datetime) -> None:
        """Take the last look to a clock that went back, or make the first one; nothing is known since later."""
        if self._last is not None and now < self._last:
            log.warning("clock_went_back", last_look=self._last.isoformat(), now=now.isoformat())
            self._furthest = max(self._last, self._furthest or self._last)
        self._last = now if self._last is None else min(self._last, now)
        self._duties = [(duty, min(since, now)) for duty, since in self._duties]
        with contextlib.suppress(StoreFullError), self._store.transaction():
            self._store.put(_LAST_LOOK, self._last.timestamp())
            self._store.put(_FURTHEST, self._furthest.timestamp() if self._furthest else None)
            self._store.looks.not_after(now)

    def _begin(self, duty: Duty, ticks: Sequence[dt.datetime], now: dt.datetime) -> list[Run]:
        """Note runs and misses of one duty, inside the transaction of the look."""
        overflow, recent = ticks[:-MOST_TICKS], ticks[-MOST_TICKS:]
        stopped = self._store.budget.stopped if duty.archive else ""
        # The next read that is begun goes back to those that the budget has stopped (``_since``).
        verdict = Verdict([], [(tick, stopped) for tick in recent]) if stopped else judge_ticks(duty, recent, now)
        if overflow:
            count = len(overflow) - len(self._store.runs.begun(*duty.key, overflow[0], overflow[-1]))
            self._miss_span(duty, overflow[0], overflow[-1], count, _TOO_LONG)
        self._miss(duty, verdict.missed)
        begun = []
        for tick, since in verdict.run:
            run = Run(
                id=uuid.uuid4(),
                device=duty.device,
                context=duty.task.context,
                call=duty.task.call,
                kwargs=duty.task.kwargs,
                tick=tick,
                since=self._since(duty, tick, self._superseded(duty, tick) or since),
                task=duty.task.id,
            )
            if self._store.runs.begin(run):
                begun.append(run)
        return begun

    def _miss(self, duty: Duty, missed: Sequence[tuple[dt.datetime, str]]) -> None:
        """Report ticks that do not run, those without a gap and with one cause together."""
        if not missed:
            return
        begun = self._store.runs.begun(*duty.key, missed[0][0], missed[-1][0])
        for (was_begun, cause), group in itertools.groupby(missed, key=lambda one: (one[0] in begun, one[1])):
            ticks = [tick for tick, _ in group]
            if not was_begun:
                self._miss_span(duty, ticks[0], ticks[-1], len(ticks), cause)

    def _miss_span(self, duty: Duty, since: dt.datetime, tick: dt.datetime, count: int, cause: str) -> None:
        if not count:
            return
        run_id = uuid.uuid4()
        self._store.runs.miss(run_id, *duty.key, since, tick)
        self._report(run_id, duty.device.id, duty.task.id, tick, reports.MISSED, cause, since, count)

    def _since(self, duty: Duty, tick: dt.datetime, since: dt.datetime | None) -> dt.datetime | None:
        """Return the oldest tick that a run makes up for, older ones that failed included."""
        if not duty.archive or duty.task.missed != "default":
            return since
        behind = self._store.runs.behind(duty.task.id, duty.device.id, tick)
        oldest = min((instant for instant in (since, behind) if instant is not None), default=None)
        return None if oldest is None else max(oldest, tick - MOST_BEHIND)

    def _superseded(self, duty: Duty, tick: dt.datetime) -> dt.datetime | None:
        """Take back a run of this duty that still waits for its line; return the oldest tick that it stood for.

        A busy or silent line would else collect runs that all read the same.
        """
        waiting = self._waiting.get(duty.key)
        if duty.task.missed == "each" or waiting is None or waiting.tick is None or waiting.tick >= tick:
            return None
        if not self._withdraw(waiting.id):
            return None
        del self._waiting[duty.key]
        cause = f"its line was busy until the run of {tick:%Y-%m-%dT%H:%M:%SZ} took its place"
        self._end(waiting, reports.MISSED, cause)
        return (waiting.since or waiting.tick) if duty.archive and duty.task.missed == "default" else None

    def _hand_over(self, duty: Duty, run: Run) -> None:
        self._waiting[duty.key] = run
        self._submit(run)

    def _end(self, run: Run, outcome: str, cause: str) -> None:
        with self._store.transaction():
            if self._store.runs.end(run.id, outcome):
                self._report(run.id, run.device.id, run.task, run.tick, outcome, cause)

    def _report(
        self,
        run_id: uuid.UUID,
        device: uuid.UUID,
        task: uuid.UUID | None,
        tick: dt.datetime | None,
        outcome: str,
        cause: str,
        since: dt.datetime | None = None,
        count: int = 1,
    ) -> None:
        report = reports.RunReport(
            id=run_id,
            device=device,
            outcome=outcome,
            started=None,
            ended=self._clock.now(),
            task=task,
            tick=tick,
            cause=cause,
            since=since if count > 1 else None,
            count=count,
        )
        self._store.reports.append([encode(report)])


def _is_over(duty: Duty, tick: dt.datetime, now: dt.datetime) -> bool:
    offset = dt.timedelta(seconds=duty.task.run_offset_seconds)
    return now >= tick_after(duty.task.schedule, tick) + offset


def _moved(run: Run, duty: Duty) -> Run:
    return Run(run.id, duty.device, run.context, run.call, run.kwargs, run.tick, run.since, run.task)
