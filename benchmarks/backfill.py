"""What looking for gaps costs: a relay's turns over a fleet whose every tenth meter lacks five hours, on PostgreSQL.

The fleet stands in the ledger as after half a year, its meters on lines of many gateways, all of them online. Measured
are whole turns of ``hub.backfilling.Filler`` as a relay does them: find what is missing of the next 50 meters, plan it,
note it, and send what is ready (follow and conclude find nothing to do). A look at all meters takes as many turns as
there are fifties; some of them are measured, in the order in which a relay does them. Then the last step alone, with
all windows waiting: what a turn costs right after an outage of everything. Memory is what the process has more at most.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import json
import logging
import pathlib
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks._ledger_estate import NOW, fill_fleet
from benchmarks.postgres import postgres
from hub import models
from hub.backfill_sending import send
from hub.backfilling import METERS_PER_TURN, TURN_SECONDS, Filler
from hub.clocks import Clock
from hub.database import create_engine, migrate, reading, writing

WANTED_TURN_SECONDS = 0.25
"""A quarter of the time between two turns, so that one core of a relay has three quarters for all else."""

WANTED_SEND_SECONDS = 1.0
"""With all waiting: a relay sends in a fifth of the time at most, so that lines wait five seconds for their next."""

_LACKING = 10
_SEND_TURNS = 20


@dataclasses.dataclass(frozen=True)
class Verdict:
    """All figures; seconds are those of one turn."""

    gateways: int
    meters: int
    turns: int
    turns_of_a_look: int
    seconds: float
    seconds_worst: float
    look_minutes: float
    look_busy_seconds: float
    windows: int
    commands: int
    seconds_with_all_waiting: float
    waiting: int
    more_megabytes: float

    @property
    def good(self) -> bool:
        """Whether a turn costs no more than it may."""
        quick = self.seconds <= WANTED_TURN_SECONDS and self.seconds_with_all_waiting <= WANTED_SEND_SECONDS
        return quick and self.commands > 0


class _Standing(Clock):
    """A clock that stands shortly after the fleet's last hour, so that a life sign came since."""

    def now(self) -> dt.datetime:
        """Return that instant."""
        return NOW


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status says whether all is as wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks backfill", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--gateways", type=int, default=1000, help="gateways, one line each (1000)")
    parser.add_argument("--meters", type=int, default=100, help="meters on each (100)")
    parser.add_argument("--turns", type=int, default=200, help="turns that are measured (200)")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with (
        tempfile.TemporaryDirectory(prefix="metergate-backfill-") as folder,
        postgres(pathlib.Path(folder) / "postgres", shared_buffers="128MB") as server,
    ):
        verdict = asyncio.run(_measure(server.url(), options.gateways, options.meters, options.turns))
    told = json.dumps(dataclasses.asdict(verdict) | {"good": verdict.good}) if options.json else _shown(verdict)
    sys.stdout.write(f"{told}\n")
    return 0 if verdict.good else 1


def _shown(verdict: Verdict) -> str:
    lines = (
        f"{verdict.gateways:,} gateways, {verdict.meters // verdict.gateways} meters each: {verdict.windows:,} windows "
        f"found in {verdict.turns} turns, {verdict.commands:,} commands\n"
        f"a turn: {1000 * verdict.seconds:.0f} ms, the worst {1000 * verdict.seconds_worst:.0f} ms "
        f"(wanted {1000 * WANTED_TURN_SECONDS:.0f}); a look at all: {verdict.turns_of_a_look:,} turns in "
        f"{verdict.look_minutes:.0f} minutes, {verdict.look_busy_seconds:.0f} s of them at work\n"
        f"sending what is ready of {verdict.waiting:,} that wait: {1000 * verdict.seconds_with_all_waiting:.0f} ms "
        f"(wanted {1000 * WANTED_SEND_SECONDS:.0f})\n"
        f"memory: {verdict.more_megabytes:.1f} MB more\n"
    )
    return lines + ("as wanted" if verdict.good else "NOT as wanted")


async def _measure(url: str, gateways: int, meters: int, turns: int) -> Verdict:
    await migrate(url)
    engine = create_engine(url)
    try:
        fleet = await fill_fleet(engine, gateways * meters, 180, _LACKING)
        await _spread(engine, fleet.organization, gateways)
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM ANALYZE"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        filler = Filler(engine, _Standing())
        seconds = []
        for _ in range(turns):
            begun = time.perf_counter()
            await filler.turn()
            seconds.append(time.perf_counter() - begun)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        async with reading(engine) as session:
            windows = await session.scalar(sa.select(sa.func.count()).select_from(models.Backfill)) or 0
            commands = await session.scalar(sa.select(sa.func.count()).select_from(models.Command)) or 0
        waiting = await _all_wait(engine)
        sending = []
        for _ in range(_SEND_TURNS):
            begun = time.perf_counter()
            async with writing(engine) as session:
                await send(session, NOW)
            sending.append(time.perf_counter() - begun)
    finally:
        await engine.dispose()
    look = -(-gateways * meters // METERS_PER_TURN)
    usual = statistics.mean(seconds)
    return Verdict(
        gateways=gateways,
        meters=gateways * meters,
        turns=turns,
        turns_of_a_look=look,
        seconds=round(usual, 4),
        seconds_worst=round(max(seconds), 4),
        look_minutes=round(look * (TURN_SECONDS + usual) / 60, 1),
        look_busy_seconds=round(look * usual, 1),
        windows=windows,
        commands=commands,
        seconds_with_all_waiting=round(statistics.mean(sending), 4),
        waiting=waiting,
        more_megabytes=round(more / 1024, 1),
    )


async def _spread(engine: AsyncEngine, organization: uuid.UUID, gateways: int) -> None:
    """Give the fleet's meters to so many gateways, which have said that they have nothing left."""
    async with writing(engine) as session:
        values = {"owner": organization, "now": NOW, "gateways": gateways}
        await session.execute(
            sa.text(
                "INSERT INTO gateways SELECT (jsonb_populate_record(g, jsonb_build_object('id', gen_random_uuid(), "
                "'gateway_id', 'fleet-' || n, 'store_id', decode(repeat('00', 16), 'hex'), 'last_seen', "
                "CAST(:now AS timestamptz) + interval '1 minute', 'said_at', CAST(:now AS timestamptz) + "
                "interval '1 minute'))).* FROM gateways g, generate_series(1, :gateways) n "
                "WHERE g.organization = :owner"
            ),
            values,
        )
        await session.execute(
            sa.text(
                "INSERT INTO network_interfaces SELECT (jsonb_populate_record(i, jsonb_build_object('id', "
                "gen_random_uuid(), 'gateway', g.id, 'name', g.gateway_id))).* FROM network_interfaces i, gateways g "
                "WHERE i.organization = :owner AND g.gateway_id LIKE 'fleet-%'"
            ),
            values,
        )
        await session.execute(
            sa.text(
                "UPDATE meter_devices d SET network_interface = i.id FROM (SELECT id, row_number() OVER (ORDER BY id) "
                "AS n FROM network_interfaces WHERE name LIKE 'fleet-%') i, (SELECT id, row_number() OVER (ORDER BY "
                "id) AS n FROM meter_devices WHERE organization = :owner) m "
                "WHERE m.id = d.id AND i.n = m.n % :gateways + 1"
            ),
            values,
        )


async def _all_wait(engine: AsyncEngine) -> int:
    """Have a window wait for each meter, as after an outage of everything; return how many these are."""
    async with writing(engine) as session:
        await session.execute(sa.delete(models.Backfill))
        await session.execute(
            sa.text(
                'INSERT INTO backfills (id, organization, gateway, meter_device, archive, start, "end", state, paused, '
                "priority, origin, tries, next_at, noticed_at, cost_seconds, evidence, created_at, updated_at) "
                "SELECT gen_random_uuid(), d.organization, i.gateway, d.id, 3, CAST(:now AS timestamptz) - interval "
                "'110 hours', CAST(:now AS timestamptz) - interval '100 hours', 'waiting', false, 0, 'auto', 0, "
                "CAST(:now AS timestamptz), CAST(:now AS timestamptz), 10, '', CAST(:now AS timestamptz), "
                "CAST(:now AS timestamptz) FROM meter_devices d JOIN network_interfaces i ON i.id = d.network_interface"
            ),
            {"now": NOW},
        )
        return await session.scalar(sa.select(sa.func.count()).select_from(models.Backfill)) or 0
