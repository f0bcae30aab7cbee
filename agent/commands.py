"""The command desk: takes commands from the hub and from callers, and sees that each ends exactly once.

accepted -> running -> done, failed, refused, expired, cancelled or interrupted. Every step is a CommandUpdate in the
outbox for the hub; for a caller (direct invocation) it is also published on the reply topic. A command that is
delivered again does not run again: its last step is told again.

Expiry counts from the sender's ``issued``. While the clock is not believed the time is taken that it is at least
(``agent.trust``), so that a command of long ago does not run when it is played again; where not even that is known it
counts from the arrival. Within this process it is counted on the monotonic clock. A command that cancels another may
come before it.
"""

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from agent.clocks import Clock
from agent.duties import EMPTY, Roster
from agent.journal import RUNNING as RUN_IS_RUNNING
from agent.journal import Order
from agent.runs import Run
from agent.store import Store
from agent.trust import ClockTrust
from contexts.calls import CallError
from contexts.catalogue import check_call, find_call
from protocol import commands as states
from protocol.commands import Command, CommandUpdate
from protocol.plans import Device
from protocol.readings import NewMeterReading
from protocol.wire import ContractError, decode, encode

log = structlog.get_logger(__name__)

HUB = "hub"
MOST_OPEN = 1000
"""Commands that may be open at once; more are refused, so that no sender can fill a small gateway."""

MOST_COMMAND_BYTES = 8 * 1024
"""A command larger than this is refused: its updates repeat it and must fit into any broker's packets."""

PART_BYTES = 8 * 1024
"""Readings in one update. A longer result comes in several updates ``running``; the end carries the first
of the readings, and its ``result.readings_in_all`` says how many there are over all updates."""

_LOOK_AGAIN = 5.0

Reply = Callable[[str, bytes, bytes | None], None]
"""Publishes an encoded CommandUpdate to a caller, with its correlation data."""


class CommandDesk:
    """All commands of this gateway. Lines report through ``started`` and ``ended``."""

    def __init__(
        self,
        gateway: str,
        store: Store,
        clock: Clock,
        trust: ClockTrust,
        *,
        submit: Callable[[Run], None],
        cancel: Callable[[uuid.UUID], bool],
        withdraw: Callable[[uuid.UUID], bool],
        reply: Reply,
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._clock = clock
        self._trust = trust
        self._submit = submit
        self._cancel = cancel
        self._withdraw = withdraw
        self._reply = reply
        self.roster: Roster = EMPTY
        # Of accepted commands: command id -> its run; and until the run is started, its monotonic deadline.
        self._runs: dict[uuid.UUID, Run] = {}
        self._deadlines: dict[uuid.UUID, float] = {}
        self._changed = asyncio.Event()

    # --- arrivals

    def from_hub(self, body: bytes) -> None:
        """Take a command that the hub signed.

        Raises:
            ContractError: when it is no command; it then has no id to answer to.
        """
        self._take(decode(body, Command), HUB, None, len(body), "")

    def invoke(
        self, caller: str, key: bytes, body: bytes, *, misdirected: bool = False, correlation: bytes | None = None
    ) -> None:
        """Take a command that came from a caller; ``misdirected`` if it wants its answer on another topic.

        Who is not in the plan, or has another key, is told so on the reply topic, and nothing is kept of it.

        Raises:
            ContractError: when it is no command; it then has no id to answer to.
        """
        command = decode(body, Command)
        grant = self.roster.callers.get(caller)
        stranger = ""
        if grant is None:
            stranger = f"caller {caller!r} is not in the plan of gateway {self._gateway}"
        elif grant.key != key:
            stranger = f"the command is not signed with the key of caller {caller!r}"
        if grant is None or stranger:
            log.warning("caller_refused", caller=caller, cause=stranger)
            now = self._clock.now()
            update = CommandUpdate(
                uuid.uuid4(), command.id, states.REFUSED, now, self._store.session, 0, origin=caller, cause=stranger
            )
            self._reply(caller, encode(update), correlation)
            return
        fault = ""
        if grant.expires is not None and self._has_come(grant.expires):
            fault = f"the grant of caller {caller!r} ended at {grant.expires.isoformat()}"
        elif command.cancels is None and not grant.allows(command.context, command.call):
            fault = f"caller {caller!r} may not call {command.context}.{command.call} on gateway {self._gateway}"
        elif misdirected:
            fault = "the response topic must be the caller's reply topic, or none at all"
        self._take(command, caller, correlation, len(body), fault)

    def _take(self, command: Command, origin: str, correlation: bytes | None, size: int, fault: str) -> None:
        known = self._store.commands.find(command.id)
        if known is not None:
            self._tell_again(known, origin, correlation)
            return
        fault = fault or self._fault(command, size)
        remaining = self._remaining(command)
        order = Order(command, origin, correlation, "", self._clock.system_now().timestamp() + remaining, _NO_UPDATE)
        if fault:
            self._open(order, states.REFUSED, fault)
        elif remaining <= 0:
            self._open(order, states.EXPIRED, f"it was issued {command.issued.isoformat()} for {command.ttl_seconds} s")
        elif command.cancels is not None:
            cause = self._cancel_other(command.cancels, origin)
            self._open(order, states.FAILED if cause else states.DONE, cause)
        elif self._store.commands.cancelled_by(command.id, origin):
            self._open(order, states.CANCELLED, "it was cancelled before it arrived")
        else:
            self._accept(order, remaining)

    def _fault(self, command: Command, size: int) -> str:  # noqa: PLR0911 - one sentence per fault
        """Return why a command cannot be run here at all; empty if it can."""
        if command.gateway != self._gateway:
            return f"it is for gateway {command.gateway!r}, this is {self._gateway!r}"
        if command.store is not None and command.store != self._store.id:
            return "store lost: the command is for a store that this gateway no longer has, it may have run already"
        if size > MOST_COMMAND_BYTES:
            return f"the command has {size} bytes; at most {MOST_COMMAND_BYTES} are allowed"
        if command.cancels is not None:
            return ""
        if len(self._runs) >= MOST_OPEN:
            return f"{MOST_OPEN} commands are open on this gateway; wait for some to end"
        if self._device(command) is None:
            return f"the plan of gateway {self._gateway} has no meter {command.meter or command.device}"
        try:
            check_call(command.context, command.call, command.kwargs)
        except CallError as error:
            return str(error)
        return ""

    def _device(self, command: Command) -> Device | None:
        if command.device is not None:
            return self.roster.devices.get(command.device)
        return self.roster.device_named(command.meter)

    def _remaining(self, command: Command) -> float:
        """Return how many seconds the command still has, at most its ttl.

        On the settable clock the sender's time may be the machine's: the nearer of the two is taken.
        """
        ages = [(now - command.issued).total_seconds() for now in self._times()]
        return command.ttl_seconds - max(0.0, min(ages, key=abs, default=0.0))

    def _has_come(self, instant: dt.datetime) -> bool:
        """Whether it is so late, by the machine's own clock or, where that is not believed, for certain."""
        least = None if self._trust.believed() else self._trust.least_time()
        return self._clock.system_now() >= instant or (least is not None and least >= instant)

    def _times(self) -> list[dt.datetime]:
        """Return what times it may be: none if nothing is known of it."""
        if self._trust.believed():
            return [self._clock.now(), self._clock.system_now()]
        least = self._trust.least_time()
        if least is None:
            return []
        return [least, self._clock.system_now()] if self._clock.settable else [least]

    def _accept(self, order: Order, remaining: float) -> None:
        command = order.command
        device = self._device(command)
        if device is None:  # judged by _fault already
            raise ContractError(f"no meter for command {command.id}")
        delay = dt.timedelta(seconds=command.delay_seconds)
        run = Run(
            id=uuid.uuid4(),
            device=device,
            context=command.context,
            call=command.call,
            kwargs=command.kwargs,
            command=command.id,
            not_before=self._clock.now() + delay if delay else None,
            background=command.background,
            priority=command.priority,
        )
        with self._store.transaction():
            self._store.runs.begin(run)
            self._open(order, states.ACCEPTED)
        self._put_to_work(run, remaining)

    def _put_to_work(self, run: Run, remaining: float) -> None:
        command_id = run.command
        if command_id is None:
            raise ContractError(f"run {run.id} is not of a command")
        self._runs[command_id] = run
        self._deadlines[command_id] = self._clock.monotonic() + remaining
        self._changed.set()
        self._submit(run)

    def _open(self, order: Order, state: str, cause: str = "") -> None:
        """Keep a new command with its first step, and tell it."""
        with self._store.transaction():
            update = self._make(order, state, cause=cause)
            self._store.commands.take(
                Order(order.command, order.origin, order.correlation, state, order.deadline, update)
            )
            self._store.reports.append([encode(update)], awaited=True)
        self._answer(order, update)
        log.info("command_step", state=state, command=str(order.command.id), origin=order.origin, cause=cause)

    def _tell_again(self, known: Order, origin: str, correlation: bytes | None) -> None:
        if known.origin != origin:
            log.warning("command_of_another", command=str(known.command.id), origin=origin, owner=known.origin)
            return
        with self._store.transaction():
            self._store.reports.append([encode(known.last_update)])
        if origin != HUB:
            self._reply(origin, encode(known.last_update), correlation or known.correlation)

    def _cancel_other(self, target: uuid.UUID, origin: str) -> str:  # noqa: PLR0911 - one sentence per fault
        """End another command; return why that is not possible, empty if it is done or will be."""
        order = self._store.commands.find(target)
        if order is None:
            return ""  # it has not come yet: `cancelled_by` will find this command
        if origin not in {HUB, order.origin}:
            return f"command {target} is not one of caller {origin!r}"
        if order.state in states.FINAL_STATES:
            return f"command {target} has ended already: {order.state}"
        run = self._runs.get(target)
        if run is None:
            return f"command {target} has no run that could be ended"
        if target in self._deadlines:
            if self._withdraw(run.id):
                self._close(order, run, states.CANCELLED, "cancelled before it began")
                return ""
        elif self._cancel(run.id):
            return ""  # its line ends it, and says so
        return f"command {target} is at its end already"

    # --- what lines report

    def started(self, run: Run) -> None:
        """Hear that the line has begun; inside the transaction that notes it."""
        if run.command is None:
            return
        self._deadlines.pop(run.command, None)
        order = self._store.commands.find(run.command)
        # A background run begins once for each of its slices.
        if order is not None and order.state not in {*states.FINAL_STATES, states.RUNNING}:
            self._step(order, states.RUNNING)

    def ended(
        self, run: Run, state: str, cause: str, readings: Sequence[NewMeterReading], result: Mapping[str, Any]
    ) -> None:
        """Hear the end; inside the transaction that stores the readings and the outcome."""
        if run.command is None:
            return
        self._runs.pop(run.command, None)
        self._deadlines.pop(run.command, None)
        order = self._store.commands.find(run.command)
        if order is None or order.state in states.FINAL_STATES:
            return
        # Nobody waits for those of a background run: they go the way of all readings, once.
        parts = _parts(() if run.background else readings)
        for part in parts[1:]:
            self._step(order, states.RUNNING, readings=part)
        outcome = dict(result)
        if len(parts) > 1:
            outcome["readings_in_all"] = len(readings)
        self._step(order, state, cause, parts[0], outcome)
        log.info("command_step", state=state, command=str(run.command), origin=order.origin, cause=cause)

    # --- ends that no line reports

    def recover(self) -> None:
        """After a start: commands that ran are interrupted; those that waited go on, or have expired."""
        runs = {run.command: (run, state) for run, state in self._store.runs.open() if run.command is not None}
        for order in self._store.commands.open():
            found = runs.get(order.command.id)
            device = self._device(order.command)
            remaining = order.deadline - self._clock.system_now().timestamp()
            if found is None or (found[1] == RUN_IS_RUNNING and not _may_repeat(found[0])):
                self._close(order, found and found[0], states.INTERRUPTED, "the gateway restarted while it ran")
            elif device is None:
                self._close(order, found[0], states.INTERRUPTED, "the meter is no longer in this gateway's plan")
            elif not self._trust.believed():
                cause = "the gateway restarted and cannot tell, without a believed clock, how old the command is"
                self._close(order, found[0], states.INTERRUPTED, cause)
            elif remaining <= 0:
                self._close(order, found[0], states.EXPIRED, "it expired while the gateway was off")
            else:
                with self._store.transaction():
                    self._store.runs.wait_again(found[0].id)
                run = dataclasses.replace(found[0], device=device)
                self._put_to_work(run, min(remaining, order.command.ttl_seconds))

    async def watch(self) -> None:
        """End, for ever, the commands whose time is over before their line could begin."""
        while True:
            self._changed.clear()
            self.expire()
            nearest = min(self._deadlines.values(), default=None)
            try:
                timeout = None if nearest is None else max(0.01, nearest - self._clock.monotonic())
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def expire(self) -> None:
        """End the commands whose time is over and that have not begun."""
        now = self._clock.monotonic()
        for command_id in [command_id for command_id, deadline in self._deadlines.items() if deadline <= now]:
            run = self._runs[command_id]
            del self._deadlines[command_id]
            order = self._store.commands.find(command_id)
            if self._store.fault and not self._store.try_writing():
                # Its end could not be kept: it is looked at again, and does not begin meanwhile.
                self._deadlines[command_id] = now + _LOOK_AGAIN
            elif order is not None and self._withdraw(run.id):
                self._close(order, run, states.EXPIRED, f"it did not begin within {order.command.ttl_seconds} s")

    def _close(self, order: Order, run: Run | None, state: str, cause: str) -> None:
        with self._store.transaction():
            if run is not None:
                self._store.runs.end(run.id, state)
            self._step(order, state, cause)
        self._runs.pop(order.command.id, None)
        self._deadlines.pop(order.command.id, None)
        log.info("command_step", state=state, command=str(order.command.id), origin=order.origin, cause=cause)

    # --- steps

    def _step(
        self,
        order: Order,
        state: str,
        cause: str = "",
        readings: Sequence[NewMeterReading] = (),
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Store and tell one step; inside a transaction or one of its own."""
        with self._store.transaction():
            update = self._make(order, state, cause, readings, result)
            self._store.commands.update(update)
            self._store.reports.append([encode(update)], awaited=True)
        self._answer(order, update)

    def _answer(self, order: Order, update: CommandUpdate) -> None:
        if order.origin != HUB:
            self._reply(order.origin, encode(update), order.correlation)

    def _make(
        self,
        order: Order,
        state: str,
        cause: str = "",
        readings: Sequence[NewMeterReading] = (),
        result: Mapping[str, Any] | None = None,
    ) -> CommandUpdate:
        with self._store.transaction():
            sequence = self._store.next_state()
        small = len(encode(order.command)) <= MOST_COMMAND_BYTES
        return CommandUpdate(
            id=uuid.uuid4(),
            command_id=order.command.id,
            state=state,
            at=self._clock.now(),
            session=self._store.session,
            sequence=sequence,
            origin=order.origin,
            cause=cause,
            readings=list(readings),
            result=dict(result or {}),
            command=order.command if order.origin != HUB and small else None,
        )


def _may_repeat(run: Run) -> bool:
    """Whether a run that the end of the process interrupted may go on: it reads, and nobody waits for its end."""
    return run.background and not find_call(run.context, run.call).writes


_NO_UPDATE = CommandUpdate(uuid.UUID(int=0), uuid.UUID(int=0), "", dt.datetime.fromtimestamp(0, dt.UTC), 0, 0)


def _parts(readings: Sequence[NewMeterReading]) -> list[list[NewMeterReading]]:
    """Cut a result into parts that fit into one update each; at least one, maybe empty."""
    parts: list[list[NewMeterReading]] = [[]]
    size = 0
    for reading in readings:
        bytes_of_it = len(encode(reading))
        if parts[-1] and size + bytes_of_it > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(reading)
        size += bytes_of_it
    return parts
