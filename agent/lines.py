"""One worker per line: the only one who opens it, one conversation at a time, everything due on a meter in one session.

Rules. ``agent.line_queue`` says what is next; background commands come when nothing else is due
(``agent.background``). A scheduled archive readout lends the line to a waiting command between two blocks and goes on
after its last row, one for the background to whatever is due. A run ends in exactly one ``RunResult``, whatever
happens: what a call, a port or a meter can do wrong is named in ``agent.session.FAILURES`` and becomes an outcome with
its first cause. A silent meter costs its neighbours one time-out (``agent.silence``).

Nothing here writes to the store: results are handed on through ``on_result``.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

from agent.background import Background, IdleTime, comes_in_slices, rest_of
from agent.clocks import Clock
from agent.conversation import Times
from agent.failure_kinds import kind_of
from agent.line_figures import LineTally
from agent.line_queue import LineQueue, manner_of
from agent.links import Link, LinkError, open_link
from agent.runs import LineMemory, Run, RunResult
from agent.session import (
    ANSWERS,
    CONVERSATION_FAILURES,
    DEFAULT_TIMES,
    FAILURES,
    Learned,
    Session,
    SilentMeter,
    WrongMeter,
    cause_of,
    open_session,
    who,
)
from agent.settings import MeterPassword
from agent.silence import DEFAULT_LIMITS, Limits, Silences
from agent.turns import Turns
from contexts.catalogue import CallError, check_call, find_call
from contexts.meters import Answer, Manner, Moment
from protocol import reports
from protocol.iec62056 import Parity
from protocol.plans import Line

__all__ = ["Limits", "LineWorker"]

CLOCK_AGE = 3600.0
"""Real seconds for which a meter's clock offset, once read with an archive, stands for all of its readings."""
LEAST_SLICE_ROWS = 2
IDLE_LOOK = 1.0
"""Real seconds after which a waiting worker looks again whether a background command may begin."""


@dataclasses.dataclass(slots=True)
class _Current:
    """A run that is being executed; ``scope`` ends it, at its deadline or because it was cancelled."""

    run: Run
    scope: asyncio.Timeout
    begun: float
    cancelled: bool = False
    cut: bool = False
    bytes_of_others: int = 0
    blocks: int = 0
    block_begun: float = 0.0


class LineWorker:
    """The owner of one line.

    Args:
        line: The line as the plan has it.
        memory: What lines remember across restarts.
        clock: The gateway's clock.
        passwords: By the meter's name in the plan.
        on_started: Called when the line begins to work on a run.
        on_result: Called once for each run that was submitted, when it has ended.
        connect: Opens the link.
        clock_believed: Whether the gateway's own clock may be written into a meter now.
        times: Time-outs of the wire.
        limits: Bounds of runs and back-off.
        background: What background commands may have of the line.
        turns: Those of all lines of the process.
    """

    def __init__(
        self,
        line: Line,
        *,
        memory: LineMemory,
        clock: Clock,
        passwords: Mapping[str, MeterPassword],
        on_started: Callable[[Run], None],
        on_result: Callable[[RunResult], None],
        connect: Callable[[str, int], Awaitable[Link]] = open_link,
        clock_believed: Callable[[], bool] = lambda: True,
        times: Times = DEFAULT_TIMES,
        limits: Limits = DEFAULT_LIMITS,
        background: Background | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._line = self._next_line = line
        self._memory, self._clock, self._passwords = memory, clock, passwords
        self._on_started, self._on_result = on_started, on_result
        self._connect, self._clock_believed, self._times, self._limits = connect, clock_believed, times, limits
        self._silences = Silences(limits, clock.monotonic)
        self._queue = LineQueue(clock, self._silences)
        self._started: dict[uuid.UUID, dt.datetime] = {}
        self._resuming: set[uuid.UUID] = set()  # begun, and waiting for their next slice
        self._executing: list[_Current] = []
        self._learned = Learned()
        self._tally = LineTally(line, clock.now())
        self._background = background or Background()
        self._turns = turns or Turns()
        self._idle = IdleTime(self._background, clock.monotonic(), times.block)
        self._executed = 0.0  # seconds of calls
        # By meter: its clock's offset in seconds (None: it shows no clock), and when it was asked (monotonic).
        self._offsets: dict[uuid.UUID, tuple[float | None, float]] = {}
        self._link: Link | None = None
        self._lent = 0.0  # seconds of sessions, as far as they lie within others that lend the line
        self._wake = asyncio.Event()

    # --- from outside ----------------------------------------------------------------------------------------------

    def submit(self, run: Run) -> None:
        """Queue a run; one that is queued or executing already is not queued again."""
        known = [queued.id for queued in self._queue] + [current.run.id for current in self._executing]
        if run.id not in known:
            self._queue.add(run)
            self._wake.set()

    def cancel(self, run_id: uuid.UUID) -> bool:
        """End a run as ``cancelled``; False when this line does not have it (any more).

        A queued run ends at once, an executing one after what it is saying; a session still ends with a break.
        """
        for run in self._queue:
            if run.id == run_id:
                self._queue.take(run)
                self._end(run, reports.CANCELLED, "cancelled before it was executed")
                return True
        for current in self._executing:
            if current.run.id == run_id:
                current.cancelled = True
                if current is self._executing[-1] and not current.scope.expired():
                    current.scope.reschedule(asyncio.get_running_loop().time())
                return True
        return False

    def figures(self) -> reports.LineFigures:
        """Return what this line did and what went wrong on it."""
        return self._tally.figures(self._silences.names())

    def replace(self, line: Line) -> None:
        """Work the line as this plan says, from the next session on."""
        self._next_line = line
        self._wake.set()

    async def run(self) -> None:
        """Work for ever; cancellation ends the session at hand properly."""
        try:
            while True:
                self._wake.clear()
                await self._adopt_line()
                run = self._queue.next() or self._next_in_background()
                if run is None:
                    # An idle line is given back: a device server serves others, an operator can plug in.
                    await self._close_link()
                    await self._sleep()
                else:
                    await self._serve(run)
        finally:
            await self._close_link()

    # --- what is due -----------------------------------------------------------------------------------------------

    def _next_in_background(self, *, device: uuid.UUID | None = None, manner: Manner | None = None) -> Run | None:
        """Return what has the line while nobody else wants it, if it may begin now."""
        run = self._queue.next(device=device, manner=manner, background=True)
        if run is None or not self._idle.may_begin(self._until_wanted(), self._clock.monotonic()):
            return None
        return run

    def _until_wanted(self) -> float:
        return self._queue.until_wanted(self._background.next_scheduled(self._line.id))

    async def _sleep(self) -> None:
        """Wait until something was submitted or something queued may become due."""
        until_idle = max(self._idle.wait(self._clock.monotonic()), IDLE_LOOK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._queue.until_next(until_idle)):
                await self._wake.wait()

    # --- sessions --------------------------------------------------------------------------------------------------

    async def _serve(self, first: Run, *, commands: bool = False) -> None:
        """Execute everything due on one meter in one session."""
        if self._refused(first):
            return
        device = first.device
        self._begin(first)
        try:
            link = await self._opened_link()
        except LinkError as error:
            self._fail_due(error, commands=commands, background=first.background)
            return
        try:
            async with self._session(link, first) as session:
                self._silences.answered(device.id)
                usable, before = True, 0
                while usable and (run := self._next_on(session, commands=commands)):
                    overtaking = self._queue.next(commands=True)
                    if not run.urgent and overtaking is not None and not _fits(overtaking, session):
                        break
                    if not self._refused(run):
                        usable = await self._execute(run, session, before)
                    before = session.line_bytes
        except CONVERSATION_FAILURES as error:
            await self._not_served(first, error, commands=commands)

    def _next_on(self, session: Session, *, commands: bool) -> Run | None:
        """Return what is next in a session."""
        device, manner = session.device.id, session.manner
        run = self._queue.next(device=device, commands=commands, manner=manner)
        return run if run or commands else self._next_in_background(device=device, manner=manner)

    async def _not_served(self, first: Run, error: Exception, *, commands: bool) -> None:
        """End what was due on a meter whose session failed, unless it may be called again after its neighbours."""
        if isinstance(error, LinkError):
            await self._close_link()
        silent = isinstance(error, SilentMeter)
        called = self._learned.unanswered.get(first.device.id, 0)
        given_up = first.urgent or called >= self._times.tries
        if not silent or given_up:
            self._fail_due(error, device=first.device.id, commands=commands, background=first.background)
        if silent:
            self._silences.unanswered(first.device.id, first.device.name, silent=given_up)
            await self._renew_link()

    @contextlib.asynccontextmanager
    async def _session(self, link: Link, first: Run) -> AsyncIterator[Session]:
        device = first.device
        calls = self._silences.calls(
            device.id,
            unanswered=self._learned.unanswered.get(device.id, 0),
            tries=self._times.tries,
            command=first.urgent,
            parity=self._learned.parity if self._line.parity == Parity.AUTO.value else Parity(self._line.parity),
        )
        loop = asyncio.get_running_loop()
        begun, lent, executed = loop.time(), self._lent, self._executed
        try:
            async with open_session(
                link,
                self._line,
                device,
                memory=self._memory,
                now=self._clock.now,
                access=self._passwords.get(device.name),
                between_blocks=self._between_blocks,
                enough=self._enough,
                times=self._times,
                learned=self._learned,
                observer=self._tally.ear(device.name or str(device.id)),
                calls=calls,
                manner=manner_of(first),
            ) as session:
                self._idle.opened(loop.time() - begun)
                yield session
        finally:
            # Seconds that it lent to sessions with others are counted there.
            seconds = loop.time() - begun
            if first.background:
                # Without its calls: what is executed in it is counted there.
                around = max(0.0, seconds - (self._executed - executed))
                self._idle.took(around, self._clock.monotonic())
            self._tally.session(seconds - (self._lent - lent))
            self._lent = lent + seconds

    async def _between_blocks(self, session: Session) -> bool:
        """Lend the line of a scheduled readout to the commands that wait; whether any was served."""
        outer = self._executing[-1]
        self._block_came(outer)
        if comes_in_slices(outer.run):
            return self._ends_here(outer, session)
        if outer.run.urgent or self._queue.next(commands=True) is None:
            return False
        deadline = outer.scope.when()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outer.scope.reschedule(None)
        while (command := self._queue.next(commands=True)) is not None:
            if _fits(command, session):
                before = session.line_bytes
                usable = self._refused(command) or await self._execute(command, session, before)
                outer.bytes_of_others += session.line_bytes - before
            else:
                await session.end()
                await self._serve(command, commands=True)
                usable = False
            if not usable:
                await session.end()
                await session.begin()
        if deadline is not None:
            outer.scope.reschedule(loop.time() if outer.cancelled else deadline + loop.time() - begun)
            await asyncio.sleep(0)
        return True

    async def _enough(self, session: Session) -> None:
        """Leave a meter on which nothing more is due, and wait for a turn to make an answer of what came."""
        lent = len(self._executing) > 1
        if not lent and self._next_on(session, commands=False) is None:
            session.leave()
        await self._turns.mine()

    def _block_came(self, current: _Current) -> None:
        """Learn how long a block takes in the background, and the first one of any readout with what goes before it."""
        instant = self._clock.monotonic()
        if not current.blocks or comes_in_slices(current.run):
            self._idle.block_came(instant - (current.block_begun or current.begun), first=not current.blocks)
        current.block_begun, current.blocks = instant, current.blocks + 1

    def _ends_here(self, current: _Current, session: Session) -> bool:
        """Cut a background readout if the line is wanted, or has given enough; whether it was."""
        instant = self._clock.monotonic()
        if self._idle.may_go_on(self._until_wanted(), instant - current.begun, instant):
            return False
        # The first row of a slice is the last one of that before it.
        if session.archives.slice_rows < LEAST_SLICE_ROWS:
            return False
        session.archives.cut()
        return True

    # --- one run ---------------------------------------------------------------------------------------------------

    async def _execute(self, run: Run, session: Session, bytes_before: int) -> bool:
        """Make the call and report how it ended; whether the session can be used on."""
        self._begin(run)
        if run not in self._queue:
            # Whoever heard of its beginning has cancelled it.
            return True
        self._queue.take(run)
        scope = asyncio.timeout(self._limits.run)
        current = _Current(run, scope, self._clock.monotonic())
        outcome, cause, kind, answer, usable = reports.DONE, "", "", None, True
        try:
            async with scope:
                with self._counted(current, session):
                    answer = await self._make_call(run, session)
            if answer.ended_by is not None:
                raise answer.ended_by
            problem = run.earlier.problem or next(iter(answer.problems), "")
            if problem and not current.cut:
                outcome, cause, kind = reports.FAILED, f"{session.who}: {problem}", reports.PARTIAL
        except TimeoutError:
            usable = False
            outcome, cause, kind = self._cut_off(current, session)
        except asyncio.CancelledError:
            self._end(run, reports.INTERRUPTED, "the agent was stopped", session.line_bytes - bytes_before)
            raise
        except FAILURES as error:
            outcome, cause, kind = _outcome(error, session.who)
            if outcome == reports.WRONG_METER:
                answer = None
            usable = not isinstance(error, CONVERSATION_FAILURES) or isinstance(error, ANSWERS)
            if isinstance(error, LinkError):
                await self._close_link()
        moved = session.line_bytes - bytes_before - current.bytes_of_others
        if not self._goes_on(current, moved, answer):
            self._end(run, outcome, cause, moved, answer, kind=kind)
        return usable and not session.left

    def _cut_off(self, current: _Current, session: Session) -> tuple[str, str, str]:
        """Outcome, cause and kind of a run that was ended from outside."""
        if current.cancelled:
            return reports.CANCELLED, "cancelled while it was executed", ""
        return reports.FAILED, f"{session.who}: not done within {self._limits.run:g} s; ended", reports.COMMS

    @contextlib.contextmanager
    def _counted(self, current: _Current, session: Session) -> Iterator[None]:
        """Have a call among those that are executed, and count its seconds."""
        self._executing.append(current)
        if comes_in_slices(current.run):
            session.archives.begin_slice(self._idle.block_seconds)
        try:
            yield
        finally:
            self._executing.pop()
            current.cut = session.archives.end_slice()
            if not current.blocks and find_call(current.run.context, current.run.call).archive:
                self._block_came(current)
            instant = self._clock.monotonic()
            self._executed += instant - current.begun
            if current.run.background:
                self._idle.took(instant - current.begun, instant)

    def _goes_on(self, current: _Current, moved: int, answer: Answer | None) -> bool:
        """Hand on what a slice brought, and queue the rest; False when the run is over, or did not get on."""
        if not current.cut or answer is None:
            return False
        run = current.run
        result = RunResult(
            run, reports.DONE, "", self._started.get(run.id), self._clock.now(), answer, moved, self._offset(run)
        )
        rest = rest_of(result)
        if rest.kwargs == run.kwargs:
            return False
        self._resuming.add(run.id)
        self._queue.add(rest if self._background.on_part(result, rest) else run)
        return True

    async def _make_call(self, run: Run, session: Session) -> Answer:
        kwargs = check_call(run.context, run.call, run.kwargs)
        now = self._clock.now()
        moment = Moment(now=now, reference=run.tick or now, since=run.since, clock_believed=self._clock_believed())
        call = find_call(run.context, run.call)
        if call.archive and not self._offset_is_known(run.device.id):
            # Rows bear the meter's own time: how far that was off belongs to where they come from.
            self._offsets[run.device.id] = (await session.clock_offset(), self._clock.monotonic())
        return await call.run(session, moment, kwargs)

    def _offset_is_known(self, device: uuid.UUID) -> bool:
        return device in self._offsets and self._clock.monotonic() - self._offsets[device][1] < CLOCK_AGE

    def _refused(self, run: Run) -> bool:
        """End a run that no meter need be asked about; whether it was one."""
        try:
            check_call(run.context, run.call, run.kwargs)
        except CallError as error:
            self._queue.take(run)
            self._end(run, reports.REFUSED, str(error))
            return True
        return False

    def _begin(self, run: Run) -> None:
        if run.id not in self._started or run.id in self._resuming:
            self._resuming.discard(run.id)
            self._started.setdefault(run.id, self._clock.now())
            self._on_started(run)

    def _end(
        self, run: Run, outcome: str, cause: str, moved: int = 0, answer: Answer | None = None, *, kind: str = ""
    ) -> None:
        started = self._started.pop(run.id, None)
        self._resuming.discard(run.id)
        now = self._clock.now()
        self._on_result(RunResult(run, outcome, cause, started, now, answer, moved, self._offset(run), kind))

    def _offset(self, run: Run) -> float | None:
        return self._offsets[run.device.id][0] if self._offset_is_known(run.device.id) else None

    def _fail_due(
        self, error: Exception, *, device: uuid.UUID | None = None, commands: bool = False, background: bool = False
    ) -> None:
        """End what was due when its session or line could not be opened: one attempt stands for all of it."""
        while (run := self._queue.next(device=device, commands=commands, background=background)) is not None:
            self._queue.take(run)
            self._begin(run)
            outcome, cause, kind = _outcome(error, who(run.device, self._line))
            self._end(run, outcome, cause, kind=kind)

    # --- the link --------------------------------------------------------------------------------------------------

    async def _adopt_line(self) -> None:
        if self._next_line == self._line:
            return
        self._line = self._next_line
        self._learned = Learned()
        self._tally.rename(self._line)
        self._silences.clear()
        await self._close_link()

    async def _opened_link(self) -> Link:
        if self._link is None:
            self._link = await self._connect(self._line.endpoint, self._line.rate)
        return self._link

    async def _renew_link(self) -> None:
        """Connect anew: the silence may be that of a device server, whose connection leads nowhere."""
        if self._link is not None:
            try:
                await self._link.renew()
            except LinkError:
                await self._close_link()  # whoever is next tries, and is told

    async def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()


def _fits(run: Run, session: Session) -> bool:
    """Whether a run can be executed in a session."""
    return run.device.id == session.device.id and manner_of(run) == session.manner


def _outcome(error: Exception, meter: str) -> tuple[str, str, str]:
    """Outcome, cause and kind of a run; the cause names meter and line."""
    cause = cause_of(error, meter)
    if isinstance(error, CallError):
        return reports.REFUSED, cause, ""
    if isinstance(error, WrongMeter):
        return reports.WRONG_METER, cause, ""
    return reports.FAILED, cause, kind_of(error)
