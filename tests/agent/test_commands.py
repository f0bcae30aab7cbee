"""The command desk without a broker: what it takes once, what has expired, and what a restart makes of the rest."""

import dataclasses
import datetime as dt
import pathlib
import uuid
from collections.abc import Iterator

import pytest

from agent.clocks import Clock
from agent.commands import CommandDesk
from agent.duties import EMPTY
from agent.journal import KEPT_FOR
from agent.runs import Run
from agent.store import Store
from agent.trust import ClockTrust
from protocol import commands as states
from protocol.commands import Command, CommandUpdate
from protocol.plans import CallerGrant
from protocol.reports import decode_report
from protocol.wire import encode
from tests.parts.relay import a_device, a_line

T0 = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
WRONG = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

LINE = a_line("socket://127.0.0.1:1")
METER = a_device(LINE)


class SetClock(Clock):
    """A machine's clock that shows what the test says."""

    shown = T0
    elapsed = 0.0
    kernel = True
    """Whether the kernel says synchronised."""

    def now(self) -> dt.datetime:
        return self.shown

    def system_now(self) -> dt.datetime:
        return self.shown

    def monotonic(self) -> float:
        return self.elapsed

    def go_wrong(self, shown: dt.datetime = WRONG) -> None:
        """Show another time, and let nobody say that it is right."""
        self.shown, self.kernel = shown, False


class Gateway:
    """The desk of one process after another on one store; nothing is ever read, lines only note what they get."""

    def __init__(self, folder: pathlib.Path, clock: SetClock) -> None:
        self._folder = folder
        self.clock = clock
        self.replies: list[bytes] = []
        self.store = Store(folder / "agent.db", "gw-1", clock)
        self.start()

    def start(self) -> None:
        """Begin as a process does."""
        self.runs: list[Run] = []
        self.trust = ClockTrust(self.clock, self.store, lambda: self.clock.kernel)
        self.desk = CommandDesk(
            "gw-1",
            self.store,
            self.clock,
            self.trust,
            submit=self.runs.append,
            cancel=lambda _: True,
            withdraw=lambda _: True,
            reply=lambda _, update, __: self.replies.append(update),
        )
        self.desk.roster = dataclasses.replace(EMPTY, lines={LINE.id: LINE}, devices={METER.id: METER})
        self.trust.believed()
        self.desk.recover()

    def restart(self) -> None:
        """End this process and begin another one."""
        self.store.close()
        self.store = Store(self._folder / "agent.db", "gw-1", self.clock)
        self.start()

    def take(self, command: Command) -> None:
        """Hear a command of the hub."""
        self.desk.from_hub(encode(command))

    def carry_out(self, run: Run) -> None:
        """Begin and end a run as a line does."""
        with self.store.transaction():
            self.store.runs.start(run.id)
            self.desk.started(run)
        with self.store.transaction():
            self.store.runs.end(run.id, states.DONE)
            self.desk.ended(run, states.DONE, "", [], {})

    def steps(self, command: Command) -> list[str]:
        """What the hub is told of a command, each step once."""
        rows = self.store.reports.next_rows(0, 1_000_000)
        told = [decode_report(body) for body in rows.bodies] if rows else []
        found = {one.id: one for one in told if isinstance(one, CommandUpdate) and one.command_id == command.id}
        return [update.state for update in found.values()]


@pytest.fixture
def gateway(tmp_path: pathlib.Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path, SetClock())
    yield made
    made.store.close()


def a_command(**changes: object) -> Command:
    fields: dict[str, object] = {
        "id": uuid.uuid4(),
        "gateway": "gw-1",
        "context": "generic_lis200",
        "call": "read_single_value",
        "kwargs": {"address": "2:300"},
        "issued": T0,
        "ttl_seconds": 60,
        "meter": METER.name,
    }
    return Command(**(fields | changes))  # type: ignore[arg-type]  # fields by name


def test_a_command_runs_once_however_often_it_comes(gateway: Gateway) -> None:
    command = a_command()
    gateway.take(command)
    gateway.take(command)
    gateway.carry_out(gateway.runs[0])
    gateway.take(command)
    gateway.restart()
    gateway.take(command)
    assert gateway.runs == []
    assert gateway.steps(command) == [states.ACCEPTED, states.RUNNING, states.DONE]


def test_a_command_for_another_store_is_refused(gateway: Gateway) -> None:
    for store, state in ((bytes(16), states.REFUSED), (gateway.store.id, states.ACCEPTED), (None, states.ACCEPTED)):
        command = a_command(store=store)
        gateway.take(command)
        assert gateway.steps(command) == [state]
    assert len(gateway.runs) == 2


@pytest.mark.parametrize("began", [False, True])
def test_what_had_begun_is_interrupted_by_a_restart_and_what_waited_goes_on(gateway: Gateway, *, began: bool) -> None:
    command = a_command(call="set_time", kwargs={}, ttl_seconds=600)
    gateway.take(command)
    if began:
        with gateway.store.transaction():
            gateway.store.runs.start(gateway.runs[0].id)
            gateway.desk.started(gateway.runs[0])
    gateway.restart()
    gateway.take(command)
    if began:
        assert gateway.runs == []
        assert gateway.steps(command) == [states.ACCEPTED, states.RUNNING, states.INTERRUPTED]
    else:
        assert [run.command for run in gateway.runs] == [command.id]
        assert gateway.steps(command) == [states.ACCEPTED]


def test_what_expired_while_the_gateway_was_off_does_not_run(gateway: Gateway) -> None:
    command = a_command()
    gateway.take(command)
    gateway.clock.shown += 2 * MINUTE
    gateway.restart()
    assert gateway.runs == []
    assert gateway.steps(command) == [states.ACCEPTED, states.EXPIRED]


def test_what_waited_is_interrupted_by_a_restart_without_a_believed_clock(gateway: Gateway) -> None:
    command = a_command()
    gateway.take(command)
    gateway.clock.go_wrong()
    gateway.restart()
    assert gateway.runs == []
    assert gateway.steps(command) == [states.ACCEPTED, states.INTERRUPTED]


def test_an_old_command_does_not_run_by_a_clock_that_is_not_believed(gateway: Gateway) -> None:
    """Somebody kept it, signed as it is, and plays it back to a gateway that woke up in 1970."""
    kept = a_command(issued=T0 - 2 * MINUTE)
    gateway.clock.go_wrong()
    gateway.restart()
    gateway.take(kept)
    assert gateway.steps(kept) == [states.EXPIRED]
    # From the last confirmed time on nothing is known, so that this may be new.
    new = a_command(issued=T0 + DAY)
    gateway.take(new)
    assert gateway.steps(new) == [states.ACCEPTED]
    # A receipt tells the hub's time, and it goes on; the clock is not believed for that.
    gateway.trust.hear(T0 + DAY)
    gateway.clock.elapsed += 59
    in_time, late = a_command(issued=T0 + DAY), a_command(issued=T0 + DAY, ttl_seconds=58)
    gateway.take(in_time)
    gateway.take(late)
    assert not gateway.trust.believed()
    assert (gateway.steps(in_time), gateway.steps(late)) == ([states.ACCEPTED], [states.EXPIRED])
    # The next process knows it, too.
    gateway.restart()
    later = a_command(issued=T0 + DAY - 2 * MINUTE)
    gateway.take(later)
    assert gateway.steps(later) == [states.EXPIRED]


def test_a_gateway_that_never_knew_the_time_counts_from_the_arrival(tmp_path: pathlib.Path) -> None:
    clock = SetClock()
    clock.go_wrong()
    gateway = Gateway(tmp_path, clock)
    command = a_command()
    gateway.take(command)
    assert gateway.steps(command) == [states.ACCEPTED]
    clock.elapsed += 61
    gateway.desk.expire()
    assert gateway.steps(command) == [states.ACCEPTED, states.EXPIRED]
    gateway.store.close()


def test_a_grant_that_has_ended_counts_as_ended_by_the_least_time(gateway: Gateway) -> None:
    grant = CallerGrant("caller", bytes(32), ["generic_lis200.*"], T0 - MINUTE)
    gateway.clock.go_wrong()
    gateway.desk.roster = dataclasses.replace(gateway.desk.roster, callers={"caller": grant})
    command = a_command()
    gateway.desk.invoke("caller", grant.key, encode(command))
    assert gateway.steps(command) == [states.REFUSED]
    assert gateway.runs == []


@pytest.mark.parametrize("shown", [WRONG, dt.datetime(2099, 1, 1, tzinfo=dt.UTC)])
def test_a_command_that_ended_by_a_wrong_clock_is_remembered_until_it_cannot_come_again(
    gateway: Gateway, shown: dt.datetime
) -> None:
    command = a_command(ttl_seconds=states.MAX_COMMAND_SECONDS)
    gateway.clock.go_wrong(shown)
    gateway.take(command)
    gateway.carry_out(gateway.runs[0])
    gateway.clock.shown, gateway.clock.kernel = T0 + DAY, True
    gateway.store.prune()
    gateway.take(command)
    assert len(gateway.runs) == 1
    assert gateway.steps(command) == [states.ACCEPTED, states.RUNNING, states.DONE]
    gateway.clock.shown = T0 + KEPT_FOR + MINUTE
    assert gateway.store.prune() > 0
    assert gateway.store.commands.find(command.id) is None
    gateway.take(command)
    assert len(gateway.runs) == 1
