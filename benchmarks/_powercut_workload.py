"""What ``benchmarks.powercut`` traces: an agent's store at work, telling after every step what it has promised.

Started as ``python -m benchmarks._powercut_workload FOLDER SEED STEPS [careless]``. Promises go to
FOLDER/promises, one JSON document per line and write, each written when the agent would first tell somebody: so a
trace of the process shows in what order promises, writes and syncs came. Rules: the real store, desk and recorder;
only the line is played.
"""

import datetime as dt
import hashlib
import json
import os
import pathlib
import random
import sys
import uuid
from decimal import Decimal
from typing import Any

from agent.clocks import Clock
from agent.commands import CommandDesk
from agent.duties import judge
from agent.outbox import Outbox
from agent.recorder import Recorder
from agent.runs import Run, RunResult
from agent.store import Store
from agent.trust import ClockTrust
from contexts.meters import Answer, Held, Value
from protocol import reports
from protocol.commands import Command
from protocol.plans import Device, Line, Plan
from protocol.readings import batch_of
from protocol.wire import encode

GATEWAY = "gw-1"
MOST_VALUES = 40
CHECKPOINT_PAGES = 60
"""Small, so that a short course has many checkpoints."""


class Course:
    """One process's life."""

    def __init__(self, folder: pathlib.Path, chance: random.Random, *, careless: bool) -> None:
        self._chance = chance
        self._promises = os.open(folder / "promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._clock = Clock()
        self.store = Store(folder / "agent.db", GATEWAY, self._clock)
        self.store._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")  # noqa: SLF001 - a bench's own pace
        if careless:
            self.store._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - to see that the bench finds it
        self._promise(kind="store", id=self.store.id.hex(), session=self.store.session)
        self._told = {box: box.last() for box in (self.store.readings, self.store.reports)}
        line = Line(uuid.UUID(int=1), "line", "socket://127.0.0.1:1")
        self._device = Device(uuid.UUID(int=2), "meter", line.id, "UTC")
        trust = ClockTrust(self._clock, self.store, lambda: True)
        self._desk = CommandDesk(
            GATEWAY,
            self.store,
            self._clock,
            trust,
            submit=self._submit,
            cancel=lambda _: False,
            withdraw=lambda _: False,
            reply=lambda *_: None,
        )
        plan = Plan(
            GATEWAY, 1, self._clock.now(), b"", {line.id: line}, {self._device.id: self._device}, {}, {}, {}, []
        )
        self._desk.roster = judge(plan)
        self._recorder = Recorder(self.store, self._desk)
        self._waiting: list[Run] = []
        self._ticks = 0

    def work(self, steps: int) -> None:
        """Do something, many times, and end in order."""
        deeds = [self._scheduled, self._scheduled, self._command, self._receipt, self._receipt, self._prune]
        for _ in range(steps):
            self._chance.choice(deeds)()
        self.store.close()

    def _promise(self, **what: Any) -> None:  # noqa: ANN401 - JSON
        os.write(self._promises, json.dumps(what).encode() + b"\n")

    def _submit(self, run: Run) -> None:
        self._waiting.append(run)

    def _tell_rows(self) -> None:
        for box, told in self._told.items():
            rows: dict[int, str] = {}
            while (found := box.next_rows(max([told, *rows]), 1 << 20)) is not None:
                rows |= {found.first + i: digest(body) for i, body in enumerate(found.bodies)}
            if rows:
                self._promise(kind="rows", table=str(box.channel), rows=rows)
                self._told[box] = max(rows)

    def _scheduled(self) -> None:
        self._ticks += 1
        tick = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=self.store.session + self._ticks)
        run = Run(
            uuid.uuid4(), self._device, "generic_lis200", "read_single_value", {}, tick=tick, task=uuid.UUID(int=3)
        )
        with self.store.transaction():
            self.store.runs.begin(run)
        self._do(run)

    def _command(self) -> None:
        command = Command(
            uuid.uuid4(),
            GATEWAY,
            "generic_lis200",
            "read_single_value",
            {"address": "2:300"},
            self._clock.now(),
            60,
            self._device.id,
        )
        self._desk.from_hub(encode(command))
        self._promise(kind="command", id=str(command.id), state="accepted")
        self._do(self._waiting.pop(), command.id)

    def _do(self, run: Run, command: uuid.UUID | None = None) -> None:
        self._recorder.started(run)
        if command is not None:
            self._promise(kind="command", id=str(command), state="running")
        now = self._clock.now()
        values = [
            Value("2:300", Decimal(i), "m3", now - dt.timedelta(minutes=i))
            for i in range(self._chance.randrange(MOST_VALUES))
        ]
        answer = Answer(values, archive=3, held=Held(now, now, len(values)))
        self._recorder.ended(RunResult(run, reports.DONE, "", now, now, answer))
        self._tell_rows()
        self._promise(kind="run", id=str(run.id))
        if command is not None:
            self._promise(kind="command", id=str(command), state="done")

    def _receipt(self) -> None:
        box: Outbox = self._chance.choice([self.store.readings, self.store.reports])
        rows = box.next_rows(0, self._chance.choice([500, 4000, 60_000]))
        if rows is not None:
            name = batch_of(self.store.id, rows.first, rows.bodies).name
            with self.store.transaction(durable=False):
                box.accept(name)
            self._promise(kind="receipted", table=str(box.channel), first=name.first, last=name.last)

    def _prune(self) -> None:
        # What has its receipt may go from here on; here it is as if a week had passed.
        self._promise(kind="pruning")
        with self.store.transaction():
            for table in ("readings", "reports"):
                self.store._db.execute(f"UPDATE {table} SET receipted_at = 1 WHERE receipted_at IS NOT NULL")  # noqa: S608, SLF001 - two known tables
        self.store.prune()


def digest(body: bytes) -> str:
    """Return what a promise says of a row's body."""
    return hashlib.sha256(body).hexdigest()[:16]


if __name__ == "__main__":
    place, seed, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fate = random.Random(seed)  # noqa: S311 - a seed
    for _ in range(2):
        Course(place, fate, careless=sys.argv[4:] == ["careless"]).work(count // 2)
