"""``metergate-agent push``: virtual meters that say what they have by themselves, with faults of the way on demand.

Rules: wiring only, as ``agent.simulator.cli``. Exit status: 0 ended, 1 the work failed, 2 wrong usage.
"""

import asyncio
import contextlib
import datetime as dt
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from agent.clocks import Clock, system_clock
from agent.simulator.pushing import Hazards, ModeDMeter, P1Meter, PushingMeter, Way
from agent.simulator.pushing_dlms import CipheredDlmsMeter, DlmsMeter, GasDlmsMeter
from agent.simulator.pushing_ways import outlet
from protocol.wire import ContractError

KINDS: dict[str, Callable[[int, str], PushingMeter]] = {
    "dsmr_p1": P1Meter,
    "iec62056_push": ModeDMeter,
    "dlms_push": DlmsMeter,
    "dlms_push_ciphered": CipheredDlmsMeter,
    "dlms_push_gas": GasDlmsMeter,
}
"""The meters that can be had, by the receiver that takes them apart; ``dlms_push`` does so with all of its."""

_BEGINNING = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_PROBABILITY = click.FloatRange(0, 1)
_HELP = f"""Be a meter that pushes, for the receiver KIND: {", ".join(KINDS)}.

\b
TO                 where it pushes
pty                a pseudo-terminal, to be listened to as /dev/pts/N
serve:HOST:PORT    a TCP port like a device server's, to be listened to as socket://HOST:PORT; port 0: any
tcp:HOST:PORT      a receiver that is called, listen://HOST:PORT
udp:HOST:PORT      a receiver of datagrams, udp://HOST:PORT

The first line of output is a JSON object: place, serials. With --truth every value that was said is appended to a file,
lost or not. What the way does is drawn from --seed. Ends on SIGTERM or SIGINT, or after --count pushes.

\b
  metergate-agent push dsmr_p1 serve:127.0.0.1:8023 --every 1
  metergate-agent listen socket://127.0.0.1:8023 dsmr_p1
  metergate-agent push dlms_push udp:127.0.0.1:4059 --loss 0.1
  metergate-agent listen udp://127.0.0.1:4059 dlms_push security=none

Exit status: 0 ended, 1 the work failed (the cause is on standard error), 2 wrong usage.
"""


@click.command("push", help=_HELP, context_settings={"max_content_width": 120})
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("to")
@click.option("--serial", "serials", multiple=True, metavar="TEXT", help="A meter; may be repeated. [default: E0017]")
@click.option(
    "--every", type=click.FloatRange(0), default=1.0, show_default=True, metavar="SECONDS", help="Of the clock."
)
@click.option("--aligned", is_flag=True, help="Push at full multiples of EVERY, what was counted just then.")
@click.option("--count", type=click.IntRange(1), help="End after so many pushes of each meter.")
@click.option("--seed", default=1, show_default=True, help="What values and faults follow from.")
@click.option("--loss", type=_PROBABILITY, default=0.0, help="Probability that a payload is lost.")
@click.option("--double", type=_PROBABILITY, default=0.0, help="... that it comes twice.")
@click.option("--swap", type=_PROBABILITY, default=0.0, help="... that it comes after the next one.")
@click.option("--cut", type=_PROBABILITY, default=0.0, help="... that only its beginning comes.")
@click.option("--noise", type=_PROBABILITY, default=0.0, help="... that one of its bits is wrong.")
@click.option(
    "--restart", type=click.IntRange(1), metavar="PUSHES", help="Connections break after every so many pushes."
)
@click.option("--truth", type=click.Path(path_type=Path), help="Append what the meters said, as JSON lines.")
def command(
    kind: str,
    to: str,
    *,
    serials: tuple[str, ...],
    every: float,
    aligned: bool,
    count: int | None,
    seed: int,
    loss: float,
    double: float,
    swap: float,
    cut: float,
    noise: float,
    restart: int | None,
    truth: Path | None,
) -> None:
    """Push."""
    meters = {serial: KINDS[kind](seed, serial) for serial in serials or ("E0017",)}
    way = Way(Hazards(loss, double, swap, cut, noise), seed)
    with contextlib.ExitStack() as files:
        try:
            clock = system_clock()
            told = files.enter_context(truth.open("a", encoding="utf-8")) if truth is not None else None
            pace = _Pace(clock, every, aligned=aligned)
            asyncio.run(_push(to, meters, way, pace, count=count, restart=restart, told=told))
        except (ValueError, ContractError) as error:
            raise click.UsageError(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{to}: {error}") from error


class _Pace:
    """When meters push: every so many seconds of the clock; ``aligned``: at full multiples of that, none left out."""

    def __init__(self, clock: Clock, every: float, *, aligned: bool) -> None:
        if aligned and every < 1:
            raise ValueError("--aligned needs --every 1 at least")
        self._clock, self._aligned = clock, aligned
        self._every = dt.timedelta(seconds=every)
        self._next = clock.now()
        if aligned:
            self._next += (_BEGINNING - self._next) % self._every

    async def instant(self, ended: asyncio.Event) -> dt.datetime:
        """Wait until it is time, or it ends; return the instant of which the meters speak."""
        wait = (self._next - self._clock.now()).total_seconds() / self._clock.rate
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                await ended.wait()
        at = self._next if self._aligned else self._clock.now()
        self._next = at + self._every
        return at


async def _push(
    to: str,
    meters: dict[str, PushingMeter],
    way: Way,
    pace: _Pace,
    *,
    count: int | None,
    restart: int | None,
    told: TextIO | None,
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with outlet(to) as out:
        click.echo(json.dumps({"place": out.place, "serials": list(meters)}))
        sys.stdout.flush()
        pushes = 0
        while count is None or pushes < count:
            at = await pace.instant(ended)
            if ended.is_set():
                break
            for meter in meters.values():
                if told is not None:
                    _tell(told, meter, at)
                for payload in way.passes(meter.payload(at)):
                    await out.send(payload)
            pushes += 1
            if restart is not None and pushes % restart == 0:
                await out.restart()
        click.echo(
            json.dumps(
                {
                    "pushes": pushes,
                    "lost": way.lost,
                    "doubled": way.doubled,
                    "swapped": way.swapped,
                    "cut": way.cut,
                    "struck": way.struck,
                }
            )
        )


def _tell(told: TextIO, meter: PushingMeter, at: dt.datetime) -> None:
    for one in meter.said(at):
        row = {
            "meter": one.meter,
            "series": one.series,
            "timestamp": None if one.timestamp is None else one.timestamp.isoformat(),
            "value": format(one.value, "f"),
            "unit": one.unit,
        }
        told.write(json.dumps(row) + "\n")
    told.flush()
