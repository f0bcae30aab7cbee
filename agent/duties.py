"""What a plan means for this agent: which task runs on which meter, and what of the plan it cannot run.

``protocol.plans.read_plan`` judges the form of each item; here each is judged by what this version knows (schedules,
contexts, calls, receivers, time zones). What cannot run is a problem and left out; the rest runs.
"""

import dataclasses
import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from contexts.calls import CallError
from contexts.catalogue import check_call, find_call
from protocol.plans import MISSED_POLICIES, CallerGrant, Device, Line, Plan, Problem, Receiver, Task
from protocol.schedules import check_offset
from protocol.wire import ContractError


class Duty(NamedTuple):
    """One task on one meter. ``archive``: a later read makes up for a missed one; ``writes``: it changes the meter."""

    task: Task
    device: Device
    archive: bool
    writes: bool

    @property
    def key(self) -> tuple[uuid.UUID, uuid.UUID]:
        """Task and device."""
        return self.task.id, self.device.id


@dataclasses.dataclass(frozen=True, slots=True)
class Roster:
    """A plan as this agent runs it; ``keys`` are those of the meters that push, by device and kind, opened."""

    revision: int
    digest: bytes
    lines: Mapping[uuid.UUID, Line]
    devices: Mapping[uuid.UUID, Device]
    duties: Sequence[Duty]
    callers: Mapping[str, CallerGrant]
    problems: Sequence[Problem]
    receivers: Mapping[uuid.UUID, Receiver] = dataclasses.field(default_factory=dict)
    keys: Mapping[uuid.UUID, Mapping[str, bytes]] = dataclasses.field(default_factory=dict, repr=False)

    def device_named(self, name: str) -> Device | None:
        """Return the meter of that name; None if there is none."""
        return next((device for device in self.devices.values() if device.name == name), None)


EMPTY = Roster(revision=0, digest=b"", lines={}, devices={}, duties=(), callers={}, problems=())
"""What an agent runs that has never seen a plan: nothing."""


def judge(plan: Plan) -> Roster:
    """Judge every item of the plan by what this version can run."""
    problems = list(plan.problems)
    devices: dict[uuid.UUID, Device] = {}
    for device in plan.devices.values():
        fault = _device_fault(device, plan)
        if fault:
            problems.append(Problem("device", str(device.id), f"{device.name}: {fault}"))
        else:
            devices[device.id] = device
    runnable: dict[uuid.UUID, Task] = {}
    for task in plan.tasks.values():
        fault = _task_fault(task)
        if fault:
            problems.append(Problem("task", str(task.id), f"{task.name}: {fault}"))
        else:
            runnable[task.id] = task
    duties = []
    unknown: set[uuid.UUID] = set()
    for device in devices.values():
        # The same task reaching a meter twice runs once.
        for task_id in dict.fromkeys(device.tasks):
            if task_id in runnable:
                task = runnable[task_id]
                call = find_call(task.context, task.call)
                duties.append(Duty(task, device, call.archive, call.writes))
            elif task_id not in plan.tasks:
                unknown.add(task_id)
    unreadable = {problem.item for problem in plan.problems if problem.kind == "task"}
    problems += [
        Problem("task", str(task_id), "a meter names this task, but the plan does not contain it")
        for task_id in sorted(unknown)
        if str(task_id) not in unreadable
    ]
    receivers = _judge_receivers(plan, problems)
    return Roster(plan.revision, plan.digest, plan.lines, devices, duties, plan.callers, problems, receivers)


def _judge_receivers(plan: Plan, problems: list[Problem]) -> dict[uuid.UUID, Receiver]:
    receivers: dict[uuid.UUID, Receiver] = {}
    for receiver in plan.receivers.values():
        fault = _receiver_fault(receiver)
        if fault:
            problems.append(Problem("receiver", str(receiver.id), f"{receiver.name}: {fault}"))
        else:
            receivers[receiver.id] = receiver
    return receivers


def _device_fault(device: Device, plan: Plan) -> str:
    if device.line not in plan.lines:
        return f"its line {device.line} is not in the plan, or could not be read"
    return _zone_fault(device.timezone)


def _zone_fault(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return f"its time zone {name!r} is no IANA zone that this gateway knows"
    return ""


def _receiver_fault(receiver: Receiver) -> str:
    # A gateway without receivers never loads them: its memory is small.
    from receivers.catalogue import ReceiverError, check_receiver  # noqa: PLC0415 - as above

    try:
        check_receiver(receiver.receiver, receiver.endpoint, receiver.kwargs)
    except ReceiverError as error:
        return str(error)
    return next((f"{one.name}: {fault}" for one in receiver.meters if (fault := _zone_fault(one.timezone))), "")


def _task_fault(task: Task) -> str:
    try:
        check_offset(task.schedule, task.run_offset_seconds)
        check_call(task.context, task.call, task.kwargs)
    except (ContractError, CallError) as error:
        return str(error)
    if task.missed not in MISSED_POLICIES:
        return f"missed-run policy {task.missed!r} is none of {', '.join(MISSED_POLICIES)}"
    return ""
