"""A large installation, simulated: the plans of 10,000 gateways with 100,000 meters, a cold relay, quarters of an hour.

All is real but the gateways: PostgreSQL, Mosquitto, ``serve`` and one relay are processes of their own, and one process
speaks for all gateways as their agents would, each with a key of its own (``_fleet_voices``). In this order:

- *first plans*: no gateway has a plan, each says for the first time that it is online; until each has its plan.
- *edit of a tenth*, *edit of all*: a group of tasks gets one more, by REST; until the answer, until the last plan came
  to a subscriber at the broker, until all gateways' reports that they run it are stored.
- *life signs*: each gateway says that it is online, and nothing else has happened.
- *cold relay*: a relay starts that knows nothing of any gateway, once to a broker that has lost all it kept, once to
  one that has all plans and life signs retained; meanwhile a tenth of the plans was edited.
- *bursts*: three times one after the other one reading of each series of each meter, a batch of each gateway, all
  published at once; what has no receipt is sent again as agents do. Beside it REST is asked what operators ask, and
  each gateway gives its life sign: once a minute, and when all it had is receipted.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from benchmarks._fleet_estate import SERIES, Estate, Group, forget_heard
from benchmarks._fleet_figures import (
    MINUTE,
    WANTED_COLD_SHARE,
    WANTED_SHARE,
    WANTED_SIGNS,
    WANTED_SOME,
    Burst,
    Change,
    Figures,
)
from benchmarks._fleet_site import Looks, Site, Voices, begin_peak, fleet_site, peak, publish_bare
from benchmarks.loaded_hub import Watch, processor, timed
from deploy.demo.hub_client import TIMEOUT_SECONDS

BURSTS = 3
QUARTER = 900
ASK_EVERY = 0.1
BURST_AT_MOST = 240.0


def run(options: argparse.Namespace) -> Figures:
    """Measure all of it."""
    each = max(1, options.meters // options.gateways)
    with contextlib.ExitStack() as stack:
        _say(f"{options.gateways} gateways with {each} meters each are made, or were")
        site, estate, filled = stack.enter_context(fleet_site(options.keep, options.gateways, each))
        log = site.stage.folder / "voices.log"
        voices = Voices(site.broker.url, options.gateways, each, options.series, log)
        stack.callback(voices.end)
        looks = Looks(site.server.url())
        stack.callback(looks.close)
        bench = _Bench(site, estate, voices, looks, options.gateways)
        changes = [bench.first_plans()]
        bench.measure_bare()
        changes += [
            bench.edit("edit of a tenth", estate.some, WANTED_SOME),
            bench.edit("edit of all", estate.all, MINUTE),
        ]
        signs = bench.life_signs()
        changes += [bench.cold(empty=True), bench.cold(empty=False)]
        bursts = [
            bench.burst(number, options.within, options.gateways * each * options.series)
            for number in range(1, options.bursts + 1)
        ]
        first = bench.compared(changes[0])
        changes = [first, *changes[1:]]
        return Figures(options.gateways, options.gateways * each, filled, *signs, changes, bursts)


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class _Bench:
    """One site and its voices."""

    def __init__(self, site: Site, estate: Estate, voices: Voices, looks: Looks, gateways: int) -> None:
        self._site = site
        self._estate = estate
        self._voices = voices
        self._looks = looks
        self._gateways = gateways
        self._bare = 0.0
        self._spent: dict[str, float] = {}
        # A kept database may have readings of an earlier run: not at these seconds.
        self._at = int(time.time()) - BURSTS * QUARTER

    def first_plans(self) -> Change:
        """Have all gateways be heard for the first time."""
        _say("the gateways are heard for the first time")
        self._site.start_relay()
        self._voices.do("connect")
        self._voices.begin_count()
        self._begin()
        begun = float(self._voices.do("greet")["began"])
        return self._change("first plans", begun, None, self._gateways, MINUTE, WANTED_SHARE)

    def measure_bare(self) -> None:
        """Measure what the broker takes from one connection that only signs and publishes."""
        self._bare = asyncio.run(publish_bare(self._site.broker.url, self._looks.bodies()))

    def compared(self, change: Change) -> Change:
        """Give a change that was measured before the bare loop what that took."""
        return dataclasses.replace(change, bare=self._bare)

    def edit(self, name: str, group: Group, wanted: float) -> Change:
        """Change which tasks a group has."""
        _say(name)
        before = self._looks.standing().revisions
        self._voices.begin_count()
        self._begin()
        begun = time.monotonic()
        try:
            self._toggle(group)
        except TimeoutError:
            answer = None
        else:
            answer = time.monotonic() - begun
        raised = self._looks.standing().revisions - before
        return self._change(name, begun, answer, raised, wanted, WANTED_SHARE, asked=True)

    def _toggle(self, group: Group) -> None:
        path = f"/v1/metering/amr-task-groups/{group.id}"
        tasks = self._site.hub.get(path)["tasks"]
        self._site.hub.patch(path, tasks=[group.task] if len(tasks) > 1 else [group.task, group.other])

    def life_signs(self) -> tuple[float | None, dict[str, float]]:
        """Have each gateway say that it is online, with nothing new; return how long it took, and whose processor."""
        _say("each gateway gives a life sign")
        forget_heard(self._site.server)
        self._begin()
        begun = float(self._voices.do("greet")["began"])
        return self._looks.wait(begun, applied=True), self._taken()

    def cold(self, *, empty: bool) -> Change:
        """Start a relay that knows nothing; ``empty``: at a broker that does not either."""
        name = f"cold relay, {'empty broker' if empty else 'all retained'}"
        _say(name)
        self._site.end_relay()
        if empty:
            self._voices.do("part")
            self._site.broker.kill()
            self._site.broker.start()
            self._voices.do("connect")
            self._voices.do("greet")
        else:
            # What they say because the relay has gone.
            time.sleep(3.0)
        forget_heard(self._site.server)
        self._toggle(self._estate.some)
        self._voices.begin_count()
        self._begin()
        begun = time.monotonic()
        self._site.start_relay()
        started = time.monotonic() - begun
        return self._change(name, begun, None, self._gateways, MINUTE, WANTED_COLD_SHARE, started=started)

    def _change(
        self,
        name: str,
        begun: float,
        answer: float | None,
        gateways: int,
        wanted: float,
        share: float,
        *,
        asked: bool = False,
        started: float = 0.0,
    ) -> Change:
        known = self._looks.wait(begun, applied=True)
        taken = self._taken()
        last = self._voices.wait_for_plans(gateways) if known is not None else None
        found = Change(
            name=name,
            gateways=gateways,
            answer=answer,
            last_plan=None if last is None else last - begun,
            known=known,
            plans=self._voices.plans,
            bare=self._bare * gateways / self._gateways,
            relay_memory=self._relay_peak(),
            rest_memory=peak(self._site.rest),
            wanted_seconds=wanted,
            wanted_share=share,
            asked=asked,
            started=started,
            processors=taken,
        )
        _say("\n".join(found.lines()))
        return found

    def burst(self, number: int, within: float, readings: int) -> Burst:
        """Have one reading of each series of each meter come at once."""
        _say(f"burst {number} is made")
        self._at += QUARTER
        made = self._voices.do("prepare", at=self._at)
        asked = itertools.cycle(self._requests())
        self._begin()
        _say(f"burst {number}")
        with Watch(lambda: timed(next(asked)), ASK_EVERY) as rest:
            told = self._voices.do("burst", within=within, at_most=BURST_AT_MOST)
        found = Burst(
            number=number,
            batches=self._gateways,
            readings=readings,
            mebibytes=made["bytes"] / (1024 * 1024),
            seconds=told["seconds"],
            published=told["published"],
            missing=told["missing"],
            resent=told["resent"],
            rest_requests=len(rest.figures),
            rest_median=rest.median,
            rest_p99=rest.quantile(0.99),
            rest_failures=tuple(rest.failures[:5]),
            relay_memory=self._relay_peak(),
            rest_memory=peak(self._site.rest),
            processors=self._taken(),
        )
        _say("\n".join(found.lines()))
        return found

    def _begin(self) -> None:
        """Begin to look what memory and processors are taken."""
        self._spent = self._now_spent()
        for process in (self._site.relay, self._site.rest):
            if process is not None:
                begin_peak(process)

    def _now_spent(self) -> dict[str, float]:
        return {**self._site.spent(), "gateways": processor(self._voices.pid)}

    def _taken(self) -> dict[str, float]:
        """Return the seconds of processor time that each part has taken since the begin."""
        return {name: spent - self._spent[name] for name, spent in self._now_spent().items()}

    def _relay_peak(self) -> float:
        return peak(self._site.relay) if self._site.relay is not None else 0.0

    def _requests(self) -> list[Callable[[], object]]:
        """Return what operators do: look at lists and single resources, and now and then change something."""
        hub = self._site.hub
        gateway = hub.get("/v1/gateways/", limit=1, gateway_id="gw-0")["results"][0]["id"]
        meter = hub.get("/v1/metering/meter-devices", limit=1, name="gw-0 meter 0")["results"][0]["id"]
        names = _names()
        return [
            lambda: hub.get("/v1/gateways/", limit=50),
            lambda: hub.get(f"/v1/gateways/{gateway}"),
            lambda: hub.get("/v1/metering/meter-readings", limit=50, meter_device=meter),
            lambda: hub.get("/v1/metering/meter-devices", limit=50, gateway=gateway),
            lambda: hub.patch(f"/v1/gateways/{gateway}", name=next(names)),
        ]


def _names() -> Iterator[str]:
    return (f"renamed {number}" for number in itertools.count())


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave all blocks, which ends all processes."""
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fleet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gateways", type=int, default=10_000, help="gateways (10000)")
    parser.add_argument("--meters", type=int, default=100_000, help="meters of all together (100000)")
    parser.add_argument("--series", type=int, default=1, help=f"series of a meter in a burst, 1 to {len(SERIES)} (1)")
    parser.add_argument("--bursts", type=int, default=BURSTS, help=f"quarters of an hour, 0 for none ({BURSTS})")
    parser.add_argument("--within", type=float, default=0.0, help="seconds over which a burst is published (0)")
    parser.add_argument("--keep", type=pathlib.Path, help="folder of a database that is filled once and used again")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    if not 1 <= options.gateways <= options.meters:
        parser.error("--gateways must be at least 1, and --meters no fewer")
    if not 1 <= options.series <= len(SERIES) or options.bursts < 0 or not 0 <= options.within <= TIMEOUT_SECONDS:
        parser.error(f"--series must be 1 to {len(SERIES)}, --bursts at least 0, --within 0 to {TIMEOUT_SECONDS:g}")
    signal.signal(signal.SIGTERM, _end)
    try:
        found = run(options)
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        changes = [{**dataclasses.asdict(one), "rate": one.rate, "share": one.share} for one in found.changes]
        told = dataclasses.asdict(found) | {"changes": changes, "steady": found.steady, "wanted_signs": WANTED_SIGNS}
        print(json.dumps({"benchmark": "fleet", "good": found.good, **told}))
    else:
        print("\n".join(found.lines()))
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
