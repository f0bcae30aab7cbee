"""``metergate-agent simulate``: virtual meters on a pseudo-terminal or a TCP port until the process is ended.

Rules: wiring only. Makes the clock, reads the options, says where the meters are (the first line of output, one JSON
object), and ends cleanly on SIGTERM and SIGINT. Exit status: 0 ended, 1 the work failed, 2 wrong usage.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click

from agent.clocks import Clock, system_clock
from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from agent.simulator.electricity import ELECTRICITY
from agent.simulator.faults import FAULTS
from agent.simulator.locks import codes_for
from agent.simulator.personas import LOCKS, PERSONAS
from agent.simulator.recorded import PersonaError, read_persona
from protocol.wire import ContractError

DEFAULT_METER = "1:11000001:EK280"
_YEAR_SECONDS = 366 * 86_400


def _listed_faults() -> str:
    return "\n".join(
        f"{name:<20} {(fault.__doc__ or '').strip()} (probability {fault.probability:g})"
        for name, fault in sorted(FAULTS.items())
    )


def read_codes(path: Path) -> dict[int, str]:
    """Read a password file: one code for the locks 3 and 4, or lines ``LOCK=CODE``; raises ValueError."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) == 1 and "=" not in lines[0]:
        return codes_for(lines[0])
    codes = {}
    for line in lines:
        lock, _, code = line.partition("=")
        if lock not in set(map(str, LOCKS)) or not code:
            raise ValueError(f"{path}: expected one code, or lines LOCK=CODE with LOCK {LOCKS[0]} to {LOCKS[-1]}")
        codes[int(lock)] = code
    if not codes:
        raise ValueError(f"{path}: holds no code")
    return codes


@click.command("simulate")
@click.option("--listen", default="pty", metavar="pty|tcp:HOST:PORT", help="Where the meters are. Port 0: any.")
@click.option(
    "--meter",
    "meters",
    multiple=True,
    metavar="ADDRESS:SERIAL:MODEL[,drift=SECONDS][,locked][,rows=NUMBER][,fault=NAME[=P]]",
    help=f"A meter; may be repeated. Models: {', '.join([*PERSONAS, *ELECTRICITY])}. Default: {DEFAULT_METER}.",
)
@click.option(
    "--persona",
    "personas",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A recorded meter on the line, made by `metergate-agent capture --persona`; may be repeated.",
)
@click.option("--seed", default=1, show_default=True, help="What all values follow from.")
@click.option("--truth", type=click.Path(path_type=Path), help="Append what the meters hold and say, as JSON lines.")
@click.option("--throttle", is_flag=True, help="Bytes take their time on the line, both ways.")
@click.option("--fault", "faults", multiple=True, metavar="NAME[=P]", help="A named fault; 'list' lists them.")
@click.option("--timezone", default="Europe/Berlin", show_default=True, help="What the meters' clocks show.")
@click.option(
    "--rate",
    "opening_rate",
    type=click.IntRange(50, 4_000_000),
    default=300,
    show_default=True,
    metavar="BAUD",
    help="Rate of the request.",
)
@click.option("--offer", "offered_rate", type=int, metavar="BAUD", help="Rate that the meters offer.")
@click.option("--fixed-rate", is_flag=True, help="The line never changes its rate.")
@click.option("--strict-rate", is_flag=True, help="Be deaf to calls of a pseudo-terminal at another rate.")
@click.option("--interval", default=60, show_default=True, metavar="MINUTES", help="Measuring period.")
@click.option(
    "--history",
    "history_days",
    type=click.FloatRange(0, 36_525),
    default=2.0,
    show_default=True,
    metavar="DAYS",
    help="Archive before now.",
)
@click.option(
    "--drift",
    type=click.FloatRange(-_YEAR_SECONDS, _YEAR_SECONDS),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Meter clocks ahead of the time.",
)
@click.option("--names", "language", type=click.Choice(["german", "english"]), help="Column names; else by seed.")
@click.option("--locked", is_flag=True, help="Reading needs an open lock.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Code of the locks."
)
@click.option("--link", type=click.Path(path_type=Path), help="Keep a symlink to the pseudo-terminal here.")
@click.option("--log", type=click.Path(path_type=Path), help="Append every chunk with its times, as JSON lines.")
def command(
    listen: str,
    meters: tuple[str, ...],
    personas: tuple[Path, ...],
    password_file: Path | None,
    link: Path | None,
    **rest: Any,  # noqa: ANN401 - the options of virtual_bus
) -> None:
    """Simulate LIS-200 and electricity meters on a line.

    The first line of output is a JSON object: endpoint, meters. Ends on SIGTERM or SIGINT; SIGUSR1 clears the meters'
    archives.
    """
    if "list" in rest["faults"]:
        click.echo(_listed_faults())
        return
    try:
        wire = _read_listen(listen)
        codes = read_codes(password_file) if password_file else None
        clock = system_clock()
        recorded = [read_persona(path) for path in personas]
        specs = meters if meters or recorded else (DEFAULT_METER,)
        bus = virtual_bus(*specs, codes=codes, now=clock.now, recorded=recorded, **rest)
    except (PersonaError, ValueError, ContractError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    serving = serve_pty(bus, link=link) if wire is None else serve_tcp(bus, *wire)
    try:
        asyncio.run(_simulate(bus, serving, clock))
    except OSError as error:
        raise click.ClickException(f"{listen}: {error}") from error


def _read_listen(text: str) -> tuple[str, int] | None:
    """Host and port, or None for a pseudo-terminal; raises ValueError."""
    if text == "pty":
        return None
    kind, _, place = text.partition(":")
    host, _, port = place.rpartition(":")
    if kind != "tcp" or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:  # noqa: PLR2004 - ports
        raise ValueError(f"--listen {text!r}: use pty or tcp:HOST:PORT")
    return host.strip("[]"), int(port)


async def _simulate(bus: VirtualBus, serving: AbstractAsyncContextManager[str], clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, bus.ended.set)
    loop.add_signal_handler(signal.SIGUSR1, bus.clear_archives)
    async with serving as endpoint:
        sys.stdout.write(json.dumps(_announcement(bus, endpoint, clock)) + "\n")
        sys.stdout.flush()
        await bus.ended.wait()


def _announcement(bus: VirtualBus, endpoint: str, clock: Clock) -> Mapping[str, Any]:
    meters = [
        {"address": meter.address, "serial": meter.serial, "model": meter.persona.model, "language": meter.language}
        for meter in bus.everybody
    ]
    return {"endpoint": endpoint, "meters": meters, "now": clock.now().isoformat()}
