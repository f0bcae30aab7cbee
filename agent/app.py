"""The wiring of the edge process: one store, one uplink, one scheduler, one worker per line, in one TaskGroup.

Nothing here decides what a meter is asked or what is sent; it brings the parts together, takes over plans, and ends
in order on SIGTERM. The agent works from its stored plan, whether hub and broker are there or not. A fault that no
part expects ends the process: whoever supervises it (systemd) starts it again, and the store knows what was going on.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import logging
import signal
import sqlite3
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent import footprint, line_figures, metrics
from agent.background import Background
from agent.clocks import Clock
from agent.commands import CommandDesk
from agent.duties import EMPTY, Roster, judge
from agent.journal import WAITING
from agent.keys import load_or_make_key
from agent.lines import LineWorker
from agent.links import Link, open_link
from agent.plan_keys import PlanKeys
from agent.recorder import Recorder
from agent.runs import Run, RunResult
from agent.scheduler import Scheduler
from agent.settings import AgentSettings
from agent.standing import ORIGINS, Connected, Standing
from agent.storage_faults import DAMAGED, StoreFullError, storage_fault
from agent.store import Store
from agent.trust import ClockTrust
from agent.turns import Turns
from agent.uplink import Uplink
from agent.workers import Workers
from protocol import reports
from protocol.plans import Problem, read_plan
from protocol.wire import ContractError, encode

if TYPE_CHECKING:
    from agent.receiving import Receiving

log = structlog.get_logger(__name__)

_PLAN = "plan"
MOST_PROBLEM_BYTES = 8 * 1024
"""Problems in one PlanApplied; what does not fit is counted in the last one."""

_KEEP_HOUSE = 5.0
_PRUNE_EVERY = 600.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Real seconds before the agent begins again on a disk that failed it."""


class Agent:
    """One gateway's edge process. Implements ``agent.uplink.Listener``."""

    def __init__(
        self,
        settings: AgentSettings,
        clock: Clock,
        connect: Callable[[str, int], Awaitable[Link]] = open_link,
    ) -> None:
        self._settings = settings
        self._clock = clock
        key = load_or_make_key(settings.key_file)
        self._plan_keys = PlanKeys(key, settings.gateway)
        self.store = Store(settings.store, settings.gateway, clock, settings.outbox_bytes)
        self._trust = ClockTrust(clock, self.store)
        self._lines = Workers(
            functools.partial(
                LineWorker,
                memory=self.store.memory,
                clock=clock,
                passwords=settings.passwords,
                connect=connect,
                clock_believed=self._trust.believed,
                background=Background(
                    share=settings.background_share,
                    next_scheduled=self._next_scheduled,
                    on_part=self._part,
                    open=self._takes_archives,
                ),
                turns=Turns(),
            ),
            settings.endpoints,
            on_started=self._started,
            on_result=self._ended,
        )
        self._standing = Standing(
            settings,
            self.store,
            clock,
            self._trust,
            uplink=self._connected,
            lines=self._lines.figures,
            receivers=lambda: self._receiving,
            sealing_key=lambda: self._plan_keys.sealing_key,
        )
        self._uplink = Uplink(settings, key, self.store, clock, self._trust, self._standing.life_sign)
        self.store.tell(self._uplink.stored)
        self._desk = CommandDesk(
            settings.gateway,
            self.store,
            clock,
            self._trust,
            submit=self._submit,
            cancel=self._lines.cancel,
            withdraw=self._lines.withdraw,
            reply=self._uplink.reply,
        )
        self._recorder = Recorder(self.store, self._desk)
        self._scheduler = Scheduler(self.store, clock, self._trust, self._submit, self._lines.withdraw)
        self._roster: Roster = EMPTY
        self._connect = connect
        self._receiving: Receiving | None = None
        self._group: asyncio.TaskGroup | None = None
        self._steady: list[asyncio.Task[None]] = []
        self._trouble = ""
        self._figures_kept: list[reports.LineFigures] = []
        if self.store.origin in ORIGINS:
            log.warning("store_replaced", origin=self.store.origin, cause=ORIGINS[self.store.origin])

    # --- life

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then end every session and the connection in order."""
        log.info(
            "agent_started",
            gateway=self._settings.gateway,
            store=self.store.id.hex(),
            session=self.store.session,
            clock=self._clock.now().isoformat(),
        )
        with contextlib.ExitStack() as ends:
            ends.callback(self.store.close)
            ends.push(self._doubt_damaged)
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                self._lines.begin_in(tasks)
                self._take_up()
                self._steady += [
                    tasks.create_task(self._uplink.run(self), name="uplink"),
                    tasks.create_task(self._scheduler.run(), name="scheduler"),
                    tasks.create_task(self._desk.watch(), name="commands"),
                    tasks.create_task(self._keep_house(), name="housekeeping"),
                ]
                if self._settings.metrics_port is not None:
                    serving = metrics.serve(self._settings.metrics_port, self._standing.page)
                    self._steady.append(tasks.create_task(serving, name="metrics"))
                await stop.wait()
                log.info("agent_stopping")
                # Lines first: what they end is still stored, and told with the goodbye.
                await self._lines.end()
                for task in self._steady:
                    task.cancel()
        log.info("agent_stopped")

    def _doubt_damaged(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Have the next start look through a file that turned out to be damaged."""
        if error is not None and storage_fault(error) == DAMAGED:
            self.store.doubt()

    def _take_up(self) -> None:
        """Go on where the last process ended: its plan, its commands, its runs."""
        body = self.store.get(_PLAN)
        if body is not None:
            try:
                roster = self._plan_keys.open(judge(read_plan(body)))
                with self.store.transaction():
                    # Told again: another version of this program may run what the last one could not, or the reverse.
                    self._tell_applied(roster)
                self._apply(roster)
            except ContractError as error:
                log.error("stored_plan_unreadable", cause=str(error))  # noqa: TRY400 - the cause is the sentence
        self._desk.recover()
        self._scheduler.recover()

    async def _keep_house(self) -> None:
        """Watch the clock's standing, and delete what is past its time while the clock can say what that is."""
        pruned = self._clock.monotonic()
        while True:
            doubt = self._trust.doubt()
            if self._trust.moved() and doubt and self._roster.revision and not self.store.depth():
                # Only a receipt tells the hub's time, and only what is sent gets one.
                with contextlib.suppress(StoreFullError), self.store.transaction():
                    self._tell_applied(self._roster)
            if doubt != self._standing.doubt:
                self._standing.doubt = doubt
                self._scheduler.wake()
                self._uplink.announce()
            if not doubt and self._clock.monotonic() - pruned >= _PRUNE_EVERY:
                pruned = self._clock.monotonic()
                with contextlib.suppress(StoreFullError):
                    rows = self.store.prune()
                    log.debug("pruned", rows=rows)
            await self._keep_store()
            self._keep_figures()
            footprint.give_back()
            await asyncio.sleep(_KEEP_HOUSE)

    def _keep_figures(self) -> None:
        """Put the lines' figures where ``metergate-agent lines`` finds them, when something has passed on a line."""
        figures = self._lines.figures()
        if figures != self._figures_kept:
            self._figures_kept = figures
            with contextlib.suppress(StoreFullError), self.store.transaction(durable=False):
                self.store.put(
                    line_figures.KEY, msgspec.json.encode([line_figures.as_told(one) for one in figures]).decode()
                )

    async def _keep_store(self) -> None:
        """Keep the store within its budget, and take up again what waited for space on the disk."""
        if self.store.fault and self.store.try_writing():
            self._scheduler.wake()
        if not self.store.fault:
            self._recorder.catch_up()
            with contextlib.suppress(StoreFullError):
                while self.store.relieve():  # noqa: ASYNC110 - steps of work, not a wait
                    await asyncio.sleep(0)
        trouble = self.store.fault or self.store.budget.stopped or (self._receiving and self._receiving.trouble()) or ""
        if trouble != self._trouble:
            self._trouble = trouble
            self._uplink.announce()

    # --- what comes in (agent.uplink.Listener)

    def take_plan(self, body: bytes) -> None:
        """Store and apply a plan of the hub, unless it is the present one or older."""
        plan = read_plan(body)
        if plan.gateway != self._settings.gateway:
            raise ContractError(f"the plan is for gateway {plan.gateway!r}")
        if plan.digest == self._roster.digest:
            return
        if plan.revision < self._roster.revision:
            # A hub that was restored sees our revision in the life sign, and publishes above it.
            log.warning("older_plan_ignored", revision=plan.revision, applied=self._roster.revision)
            return
        roster = self._plan_keys.open(judge(plan))
        with self.store.transaction():
            self.store.put(_PLAN, body)
            self._tell_applied(roster)
        self._apply(roster)
        log.info("plan_applied", revision=roster.revision, duties=len(roster.duties), problems=len(roster.problems))
        for problem in roster.problems:
            log.warning("plan_problem", kind=problem.kind, item=problem.item, cause=problem.text)
        self._uplink.announce()

    def take_command(self, body: bytes) -> None:
        """Give a command of the hub to the desk."""
        self._desk.from_hub(body)

    def take_push(self, name: str, payload: bytes) -> None:
        """Give a message of other people's devices to the receiver that has their topic."""
        if self._receiving is not None:
            self._receiving.take_message(name, payload, "mqtt")

    def take_invocation(
        self, caller: str, key: bytes, body: bytes, *, misdirected: bool, correlation: bytes | None
    ) -> None:
        """Give a caller's command to the desk."""
        self._desk.invoke(caller, key, body, misdirected=misdirected, correlation=correlation)

    # --- plans

    def _apply(self, roster: Roster) -> None:
        self._roster = self._desk.roster = self._standing.roster = roster
        for line in roster.lines.values():
            self._lines.keep(line)
        self._scheduler.set_duties(roster.duties)
        # Before lines go: what waits for one of them is taken back from it.
        self._revise(roster)
        self._lines.keep_only(roster.lines)
        self._receive(roster)

    def _receive(self, roster: Roster) -> None:
        """Have the plan's receivers; what a gateway never receives it never loads."""
        if self._receiving is None:
            if not roster.receivers or self._group is None:
                return
            from agent.receiving import Receiving  # noqa: PLC0415 - as above

            self._receiving = Receiving(self.store, self._clock, connect=self._connect, believed=self._trust.believed)
            self._steady.append(self._group.create_task(self._receiving.run(), name="receivers"))
        self._receiving.keep(roster.receivers, roster.keys)

    def _tell_applied(self, roster: Roster) -> None:
        """Report what of the plan runs; inside a transaction."""
        applied = reports.PlanApplied(
            id=uuid.uuid4(),
            revision=roster.revision,
            digest=roster.digest,
            at=self._clock.now(),
            session=self.store.session,
            sequence=self.store.next_state(),
            problems=_bounded(roster.problems),
        )
        self.store.reports.append([encode(applied)])

    def _revise(self, roster: Roster) -> None:
        """Bring waiting runs in line with a new plan: the meter may be gone, or elsewhere."""
        duties = {duty.key for duty in roster.duties}
        for run, state in self.store.runs.open():
            if state != WAITING:
                continue
            device = roster.devices.get(run.device.id)
            if device is None or (run.task is not None and (run.task, device.id) not in duties):
                if self._lines.withdraw(run.id):
                    cause = f"the plan of revision {roster.revision} no longer has it"
                    now = self._clock.now()
                    self._recorder.ended(RunResult(run, reports.CANCELLED, cause, None, now))
            elif device != run.device and self._lines.withdraw(run.id):
                self._submit(dataclasses.replace(run, device=device))

    # --- between scheduler, desk and lines

    def _submit(self, run: Run) -> None:
        if not self._lines.submit(run):
            cause = f"{run.device.name}: its line is not in the plan of revision {self._roster.revision}"
            self._recorder.ended(RunResult(run, reports.FAILED, cause, None, self._clock.now()))

    def _next_scheduled(self, line: uuid.UUID) -> dt.datetime | None:
        return self._scheduler.next_due_on(line)

    def _takes_archives(self) -> bool:
        return not (self.store.fault or self.store.budget.stopped)

    def _part(self, result: RunResult, rest: Run) -> bool:
        self._lines.paused(rest)
        return self._recorder.part(result, rest)

    def _started(self, run: Run) -> None:
        self._scheduler.started(run)
        if not self._recorder.started(run):
            self._lines.cancel(run.id)

    def _ended(self, result: RunResult) -> None:
        self._scheduler.ended(result.run)
        self._recorder.ended(result)

    def _connected(self) -> Connected:
        return Connected(self._uplink.connected, self._uplink.warning)


def _bounded(problems: Sequence[Problem]) -> list[Problem]:
    """Return as many problems as fit into one report; the last one says how many more there are."""
    kept: list[Problem] = []
    size = 0
    for problem in problems:
        size += len(encode(problem))
        if size > MOST_PROBLEM_BYTES:
            kept.append(Problem("plan", "", f"and {len(problems) - len(kept)} more problems"))
            break
        kept.append(problem)
    return kept


def configure_logs(level: str) -> None:
    """Log JSON lines with stable event names to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


async def run_agent(settings: AgentSettings, clock: Clock) -> None:
    """Run the agent until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    wait = _FIRST_WAIT
    while not stop.is_set():
        begun = clock.monotonic()
        try:
            await Agent(settings, clock).run(stop)
        except (StoreFullError, sqlite3.Error, OSError, BaseExceptionGroup) as error:
            # A process that ends would only be started again into the same trouble.
            fault = storage_fault(error)
            if not fault:
                raise
            log.exception("agent_begins_again", fault=fault)
        else:
            return
        wait = _FIRST_WAIT if clock.monotonic() - begun > _LONGEST_WAIT else min(wait * 2, _LONGEST_WAIT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await stop.wait()
