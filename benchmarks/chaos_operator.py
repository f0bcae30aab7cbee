"""The people of the chaos bench: they give commands all the time, and edit names, groups and configs now and then.

They work through REST while it is killed, stopped and cut off, and do what people do: when an edit gets no answer they
try again. What they did, and when, is kept for the judgement.
"""

import contextlib
import datetime as dt
import random
import threading
import time
from typing import Any

from benchmarks.chaos_judge import FINAL, Span
from benchmarks.chaos_site import GATEWAYS, ON_DEMAND, UNREACHABLE, ChaosSite

COMMAND_EVERY = 1.0
COMMAND_TTL = 3600
EDIT_PATIENCE = 60.0
SLACK = dt.timedelta(minutes=5)
"""Two real seconds: an answer is seen a little after it was given."""


class Operator:
    """Gives commands in a thread of its own; edits are made in the caller's."""

    def __init__(self, site: ChaosSite, seed: int) -> None:
        self.posted: set[str] = set()
        self.refused = 0
        """Commands that got no answer, or an error, because of a fault."""
        self._site = site
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._command, name="operator")
        self._open: dict[str, dt.datetime] = {}
        self._closed: list[Span] = []
        self._edits = threading.Lock()
        self._extra_on: dict[str, dt.datetime] = {}
        self._extra: list[Span] = []
        self._extra_in = False
        self._spans = threading.Lock()
        self._elsewhere: set[str] = set()
        self._moves = 0

    def start(self) -> None:
        """Begin to give commands."""
        self._thread.start()

    def stop(self) -> None:
        """Give no more commands."""
        self._stop.set()
        self._thread.join()

    # --- commands ------------------------------------------------------------------------------------------------

    def commanded(self) -> list[Span]:
        """Return when commands may have been open on which meter."""
        return [*self._closed, *(Span(serial, start, None) for serial, start in self._open.items())]

    def all_ended(self) -> bool:
        """Whether every command that the hub knows has ended."""
        try:
            return all(row["state"] in FINAL for row in self._site.hub.all("/v1/commands/"))
        except UNREACHABLE:
            return False

    def _command(self) -> None:
        while not self._stop.wait(COMMAND_EVERY):
            self._close_ended()
            self._look_at_gateways()
            free = [serial for serial in self._site.devices if serial not in self._open]
            if free:
                self._give(self._random.choice(free))
        self._close_ended()

    def _give(self, serial: str) -> None:
        self._open[serial] = self._site.clock.now()
        try:
            answer = self._site.hub.post(
                "/v1/metering/amr-tasks/invoke",
                meter_device=self._site.devices[serial],
                meter_execution_type="generic_lis200",
                task_call="read_single_value",
                task_kwargs={"address": ON_DEMAND},
                run_offset_seconds=0,
                ttl_seconds=COMMAND_TTL,
            )
        except UNREACHABLE:
            self.refused += 1
        else:
            self.posted.add(str(answer["command"]))

    def _close_ended(self) -> None:
        """Close the span of every meter on which no command is open any more."""
        if not self._open:
            return
        try:
            asked = self._site.clock.now()
            oldest = min(self._open.values()) - SLACK
            rows = list(self._site.hub.all("/v1/commands/", start_time=oldest.isoformat()))
        except UNREACHABLE:
            return
        # A stopped hub answers late: what was open until then may have been worked on until then.
        answered = self._site.clock.now() + SLACK
        still = {row["meter_device"] for row in rows if row["state"] not in FINAL}
        for serial in list(self._open):
            # A request that was cut off may still be at work in the hub for a moment.
            if self._site.devices[serial] not in still and asked - self._open[serial] > SLACK:
                self._closed.append(Span(serial, self._open.pop(serial), answered))

    # --- edits ---------------------------------------------------------------------------------------------------

    def rename(self, serial: str) -> bool:
        """Give a meter another name; return whether the hub has answered."""
        name = f"Meter {serial} {time.monotonic_ns() % 10_000}"
        return self._patch(f"/v1/metering/meter-devices/{self._site.devices[serial]}", name=name)

    def edit_config(self, series: str) -> bool:
        """Take a series out of the config and soon put it back: what came meanwhile is staged, then adopted."""
        path = f"/v1/metering/meter-device-configs/{self._site.config}"
        with self._edits:
            everything = list(self._site.series.values())
            taken = self._patch(path, series=[id_ for id_ in everything if id_ != self._site.series[series]])
            self._stop.wait(4.0)
            while not self._patch(path, series=everything):
                if self._stop.is_set():
                    return False
            return taken

    def edit_group(self) -> bool:
        """Put the extra task into the group, or take it out; return whether the hub has answered."""
        with self._edits:
            tasks = [self._site.tasks["momentary"]]
            if not self._extra_in:
                tasks.append(self._site.tasks["extra"])
            before = self._site.clock.now()
            # Until the hub has answered nobody can say which of the two is so.
            self._close_extra(before)
            done = self._patch(f"/v1/metering/amr-task-groups/{self._site.group}", tasks=tasks)
            if done:
                self._extra_in = not self._extra_in
            return done

    def disturb(self, gateway: str, *, calm: bool) -> None:
        """Hear that a gateway's clock goes elsewhere, or is back: meanwhile nobody can say what is due there."""
        with self._spans:
            self._moves += 1
            if calm:
                self._elsewhere.discard(gateway)
                return
            self._elsewhere.add(gateway)
            if gateway in self._extra_on:
                self._end_extra(gateway, self._site.clock.now())

    def _look_at_gateways(self) -> None:
        """Note from when on a gateway certainly runs the extra task."""
        if not self._extra_in or not self._edits.acquire(blocking=False):
            return
        try:
            moves = self._moves
            states = self._site.states()
            with self._spans:
                for state in states:
                    gateway = state["gateway_id"]
                    applied = state["applied_revision"] == state["desired_revision"]
                    calm = moves == self._moves and gateway not in self._elsewhere
                    if applied and calm and gateway not in self._extra_on:
                        self._extra_on[gateway] = self._site.clock.now()
        except UNREACHABLE:
            return
        finally:
            self._edits.release()

    def extra_spans(self) -> list[Span]:
        """Return when the extra task was certainly due, as far as those spans have ended."""
        self._close_extra(self._site.clock.now())
        return self._extra

    def _close_extra(self, when: dt.datetime) -> None:
        with self._spans:
            for gateway in list(self._extra_on):
                self._end_extra(gateway, when)

    def _end_extra(self, gateway: str, when: dt.datetime) -> None:
        start = self._extra_on.pop(gateway)
        self._extra += [Span(serial, start, when) for serial in GATEWAYS[gateway]]

    def _patch(self, path: str, **body: Any) -> bool:  # noqa: ANN401 - JSON
        until = time.monotonic() + EDIT_PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(*UNREACHABLE):
                self._site.hub.patch(path, **body)
                return True
            time.sleep(0.5)
        return False
