"""The wiring of the edge process: one store, one uplink, one scheduler, one worker per line, in one TaskGroup.

Nothing here decides what a meter is asked or what is sent; it brings the parts together, takes over plans, and ends
in order on SIGTERM. The agent works from its stored plan, whether hub and broker are there or not. A fault that no
part expects ends the process: whoever supervises it (systemd) starts it again, and the store knows what was going on.
"""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import logging
import pathlib
import signal
import sqlite3
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from agent import footprint, line_figures, metrics
from agent.backlog import STATUS, BacklogError, read_backlog
from agent.clocks import Clock
from agent.commands import CommandDesk
from agent.duties import EMPTY, Roster, judge
from agent.journal import WAITING
from agent.keys import load_or_make_key
from agent.lines import LineWorker
from agent.links import Link, open_link
from agent.recorder import Recorder
from agent.runs import Run, RunResult
from agent.scheduler import Scheduler
from agent.settings import AgentSettings
from agent.storage_faults import DAMAGED, StoreFullError, storage_fault
from agent.store import BROKEN, FOREIGN, RESTORED, Store
from agent.trust import ClockTrust
from agent.uplink import Uplink
from protocol import reports
from protocol.plans import Line, Problem, read_plan
from protocol.wire import ContractError, encode

log = structlog.get_logger(__name__)

_PLAN = "plan"
MOST_PROBLEM_BYTES = 8 * 1024
"""Problems in one PlanApplied; what does not fit is counted in the last one."""

_KEEP_HOUSE = 5.0
_PRUNE_EVERY = 600.0
_TRIM_EVERY = 30.0
_RETIRE_LOOK = 0.1
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Real seconds before the agent begins again on a disk that failed it."""

_ORIGINS = {
    RESTORED: "the store file was copied or put back: it has a new id, and everything in it is sent again",
    FOREIGN: "the store file was another gateway's: it has a new id, and what it had not delivered is sent",
    BROKEN: "the store file was damaged: it was moved aside, and what could be read of it goes on in a new one",
}


@dataclasses.dataclass(slots=True)
class _LineTask:
    worker: LineWorker
    task: asyncio.Task[None]


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
        self._connect = connect
        key = load_or_make_key(settings.key_file)
        self.store = Store(settings.store, settings.gateway, clock, settings.outbox_bytes)
        self._trust = ClockTrust(clock, self.store)
        self._uplink = Uplink(settings, key, self.store, clock, self._trust, self._life_sign)
        self.store.tell(self._uplink.stored)
        self._desk = CommandDesk(
            settings.gateway,
            self.store,
            clock,
            self._trust,
            submit=self._submit,
            cancel=self._cancel,
            withdraw=self._withdraw,
            reply=self._uplink.reply,
        )
        self._recorder = Recorder(self.store, self._desk)
        self._scheduler = Scheduler(self.store, clock, self._trust, self._submit, self._withdraw)
        self._roster: Roster = EMPTY
        self._tasks: asyncio.TaskGroup | None = None
        self._lines: dict[uuid.UUID, _LineTask] = {}
        self._retiring: dict[uuid.UUID, asyncio.Task[None]] = {}
        # Runs that a line has begun, by line; and runs that were taken back from theirs.
        self._busy: collections.defaultdict[uuid.UUID, set[uuid.UUID]] = collections.defaultdict(set)
        self._withdrawn: set[uuid.UUID] = set()
        self._doubt = ""
        self._trouble = ""
        self._figures_kept: list[reports.LineFigures] = []
        if self.store.origin in _ORIGINS:
            log.warning("store_replaced", origin=self.store.origin, cause=_ORIGINS[self.store.origin])

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
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._take_up()
                steady = [
                    tasks.create_task(self._uplink.run(self), name="uplink"),
                    tasks.create_task(self._scheduler.run(), name="scheduler"),
                    tasks.create_task(self._desk.watch(), name="commands"),
                    tasks.create_task(self._keep_house(), name="housekeeping"),
                ]
                if self._settings.metrics_port is not None:
                    serving = metrics.serve(self._settings.metrics_port, self._figures)
                    steady.append(tasks.create_task(serving, name="metrics"))
                await stop.wait()
                log.info("agent_stopping")
                lines = [line.task for line in self._lines.values()] + list(self._retiring.values())
                for task in lines:
                    task.cancel()
                # Lines first: what they end is still stored, and told with the goodbye.
                if lines:
                    await asyncio.wait(lines)
                for task in steady:
                    task.cancel()
        except BaseException as error:
            if storage_fault(error) == DAMAGED:
                self.store.doubt()
            raise
        finally:
            self.store.close()
        log.info("agent_stopped")

    def _take_up(self) -> None:
        """Go on where the last process ended: its plan, its commands, its runs."""
        body = self.store.get(_PLAN)
        if body is not None:
            try:
                roster = judge(read_plan(body))
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
        pruned = trimmed = self._clock.monotonic()
        while True:
            doubt = self._trust.doubt()
            if self._trust.moved() and doubt and self._roster.revision and not self.store.depth():
                # Only a receipt tells the hub's time, and only what is sent gets one.
                with contextlib.suppress(StoreFullError), self.store.transaction():
                    self._tell_applied(self._roster)
            if doubt != self._doubt:
                self._doubt = doubt
                self._scheduler.wake()
                self._uplink.announce()
            if not doubt and self._clock.monotonic() - pruned >= _PRUNE_EVERY:
                pruned = self._clock.monotonic()
                with contextlib.suppress(StoreFullError):
                    rows = self.store.prune()
                    log.debug("pruned", rows=rows)
            await self._keep_store()
            self._keep_figures()
            if self._clock.monotonic() - trimmed >= _TRIM_EVERY:
                trimmed = self._clock.monotonic()
                footprint.give_back()
            await asyncio.sleep(_KEEP_HOUSE)

    def _keep_figures(self) -> None:
        """Put the lines' figures where ``metergate-agent lines`` finds them, when something has passed on a line."""
        figures = self._line_figures()
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
        trouble = self.store.fault or self.store.budget.stopped
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
        roster = judge(plan)
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

    def take_invocation(
        self, caller: str, key: bytes, body: bytes, *, misdirected: bool, correlation: bytes | None
    ) -> None:
        """Give a caller's command to the desk."""
        self._desk.invoke(caller, key, body, misdirected=misdirected, correlation=correlation)

    # --- plans

    def _apply(self, roster: Roster) -> None:
        self._roster = roster
        self._desk.roster = roster
        for line in roster.lines.values():
            self._keep_line(self._local(line))
        self._scheduler.set_duties(roster.duties)
        # Before lines go: what waits for one of them is taken back from it.
        self._revise(roster)
        for line_id in self._lines.keys() - roster.lines.keys():
            self._retire(line_id)

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

    def _local(self, line: Line) -> Line:
        """Return the line with the endpoint that this gateway's settings give it."""
        endpoint = self._settings.endpoints.get(line.name, line.endpoint)
        return Line(line.id, line.name, endpoint, line.rate, line.fixed_rate, line.parity, line.wake_up, line.echo)

    def _keep_line(self, line: Line) -> None:
        known = self._lines.get(line.id)
        if known is not None:
            known.worker.replace(line)
            return
        if self._tasks is None:
            raise RuntimeError("lines are begun inside Agent.run")
        worker = LineWorker(
            line,
            memory=self.store.memory,
            clock=self._clock,
            passwords=self._settings.passwords,
            on_started=self._started,
            on_result=self._ended,
            connect=self._connect,
            clock_believed=self._trust.believed,
        )
        task = self._tasks.create_task(_work(worker, self._retiring.get(line.id)), name=f"line-{line.name}")
        self._lines[line.id] = _LineTask(worker, task)

    def _retire(self, line_id: uuid.UUID) -> None:
        """Let a line that left the plan finish what it is doing, then end it."""
        line = self._lines.pop(line_id)
        if self._tasks is None:
            raise RuntimeError("lines are ended inside Agent.run")

        async def finish() -> None:
            try:
                while self._busy[line_id]:  # noqa: ASYNC110 - a set that lines empty, seldom
                    await asyncio.sleep(_RETIRE_LOOK)
            finally:
                line.task.cancel()
                await asyncio.wait([line.task])
                self._retiring.pop(line_id, None)

        self._retiring[line_id] = self._tasks.create_task(finish(), name="retiring-line")

    def _revise(self, roster: Roster) -> None:
        """Bring waiting runs in line with a new plan: the meter may be gone, or elsewhere."""
        duties = {duty.key for duty in roster.duties}
        for run, state in self.store.runs.open():
            if state != WAITING:
                continue
            device = roster.devices.get(run.device.id)
            if device is None or (run.task is not None and (run.task, device.id) not in duties):
                if self._withdraw(run.id):
                    cause = f"the plan of revision {roster.revision} no longer has it"
                    now = self._clock.now()
                    self._recorder.ended(RunResult(run, reports.CANCELLED, cause, None, now))
            elif device != run.device and self._withdraw(run.id):
                self._submit(dataclasses.replace(run, device=device))

    # --- between scheduler, desk and lines

    def _submit(self, run: Run) -> None:
        line = self._lines.get(run.device.line)
        if line is None:
            cause = f"{run.device.name}: its line is not in the plan of revision {self._roster.revision}"
            self._recorder.ended(RunResult(run, reports.FAILED, cause, None, self._clock.now()))
            return
        line.worker.submit(run)

    def _cancel(self, run_id: uuid.UUID) -> bool:
        """Ask for the end of a run; its line says when."""
        return any(line.worker.cancel(run_id) for line in self._lines.values())

    def _withdraw(self, run_id: uuid.UUID) -> bool:
        """Take a run that has not begun back from its line; nobody hears of it."""
        self._withdrawn.add(run_id)
        found = self._cancel(run_id)
        self._withdrawn.discard(run_id)
        return found

    def _started(self, run: Run) -> None:
        self._busy[run.device.line].add(run.id)
        self._scheduler.started(run)
        if not self._recorder.started(run):
            self._cancel(run.id)

    def _ended(self, result: RunResult) -> None:
        run = result.run
        if run.id in self._withdrawn:
            return
        self._busy[run.device.line].discard(run.id)
        self._scheduler.ended(run)
        self._recorder.ended(result)

    # --- the life sign

    def _life_sign(self) -> reports.Online:
        store = self.store
        return reports.Online(
            gateway=self._settings.gateway,
            online=True,
            session=store.session,
            store=store.id,
            software=software(),
            at=self._clock.now(),
            plan_revision=self._roster.revision,
            plan_digest=self._roster.digest,
            readings_through=store.readings.through(),
            reports_through=store.reports.through(),
            depth=store.depth(),
            oldest=store.oldest_waiting(),
            clock_believed=self._trust.believed(),
            status=self._status(),
            sequence=store.last_state(),
            lines=line_figures.reported(self._line_figures()),
        )

    def _line_figures(self) -> list[reports.LineFigures]:
        return [line.worker.figures() for line in list(self._lines.values())]

    def _status(self) -> str:
        """Say what people should know of this gateway, in a sentence each; ``metergate-agent outbox`` shows it too."""
        aside = self.store.readings.aside() + self.store.reports.aside()
        parts = [
            self._trust.doubt(),
            self._uplink.warning,
            self.store.fault,
            self.store.budget.stopped,
            _ORIGINS.get(self.store.origin, ""),
            f"{aside} rows fit into no message that this broker takes" if aside else "",
        ]
        status = "; ".join(part for part in parts if part)
        if status != self.store.get(STATUS):
            with contextlib.suppress(StoreFullError), self.store.transaction(durable=False):
                self.store.put(STATUS, status)
        return status

    def _figures(self) -> str:
        """Write the page for Prometheus; runs in another thread, so that it asks the store's file, not the store."""
        try:
            backlog = metrics.of_backlog(read_backlog(self._settings.store, self._clock.now()))
        except BacklogError as error:
            log.warning("metrics_without_store", cause=str(error))
            backlog = []
        state = (
            ("connected", "Whether the broker is connected", self._uplink.connected),
            ("clock_believed", "Whether the clock was believed at the last look", not self._doubt),
            ("plan_revision", "Revision of the plan that runs", self._roster.revision),
            ("lines", "Lines in the plan that runs", len(self._lines)),
            ("tasks", "Tasks on meters in the plan that runs", len(self._roster.duties)),
        )
        samples = [
            metrics.Sample("info", "Who this is", 1, {"gateway": self._settings.gateway, "software": software()}),
            *(metrics.Sample(name, text, int(value)) for name, text, value in state),
            *backlog,
            *line_figures.samples(self._line_figures()),
            *metrics.counted(),
        ]
        return metrics.render(samples, metrics.of_process())


async def _work(worker: LineWorker, before: asyncio.Task[None] | None) -> None:
    """Work a line, after whoever had it before is done."""
    if before is not None:
        await asyncio.wait([before])
    await worker.run()


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


@functools.cache
def software() -> str:
    """Return the version that the life sign names."""
    # By the installed folder's name: importlib.metadata would load the whole of email for it.
    found = (path.name for entry in sys.path for path in pathlib.Path(entry).glob("metergate-*.dist-info"))
    return f"metergate {next(found, 'metergate-unknown.dist-info').removesuffix('.dist-info').partition('-')[2]}"


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
    footprint.use_one_arena()
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
