"""One line with one or more virtual meters on it: who answers, when, and how fast.

Rules: every byte goes through ``protocol.iec62056`` (role METER); here are only waiting, pacing, sharing and faults.
Wire times are real seconds on the monotonic clock even when the meters' clock is set. Interface for tests:
``virtual_bus`` builds meters and bus, ``serve_pty`` and ``serve_tcp`` put it on a wire for as long as the context lasts.
"""

import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.simulator.meters import VirtualMeter


def utc_now() -> dt.datetime:
    """The machine's UTC; a demo or test passes the clock that it has set."""
    return dt.datetime.now(dt.UTC)


class VirtualBus:
    """The meters of one line.

    Args:
        meters: who is on the line; addressed by ``/?<address>!``, all of them by the general call.
        faults: named faults, e.g. ``["corrupt_bcc=0.1", "echo"]`` (``agent.simulator.faults``).
        throttle: bytes take their time, 10 bits each at the present rate, in both directions.
        opening_rate: Bd of the request.
        fixed_rate: the line never changes its rate.
        log: file for the wire log (JSON lines).
        seed: of the faults.
    """

    meters: "Sequence[VirtualMeter]"

    def __init__(
        self,
        meters: "Sequence[VirtualMeter]",
        *,
        faults: Sequence[str] = (),
        throttle: bool = False,
        opening_rate: int = 300,
        fixed_rate: bool = False,
        log: Path | None = None,
        seed: int = 1,
    ) -> None: ...


def virtual_bus(  # noqa: PLR0913 - one keyword for each option of the command
    *specs: str,
    seed: int = 1,
    now: Callable[[], dt.datetime] = utc_now,
    timezone: str = "Europe/Berlin",
    interval: int = 60,
    history_days: float = 2,
    drift: float = 0,
    locked: bool = False,
    codes: Mapping[int, str] | None = None,
    language: str | None = None,
    truth: Path | None = None,
    faults: Sequence[str] = (),
    throttle: bool = False,
    opening_rate: int = 300,
    fixed_rate: bool = False,
    log: Path | None = None,
) -> VirtualBus:
    """Build meters from ``ADDRESS:SERIAL:MODEL`` texts (models EK280, TC220, DL220) and the bus that they share.

    Args:
        specs: the meters.
        seed: what the archives and the faults follow from, with the serial number.
        now: the clock, aware UTC; the meters' clocks are ``drift`` seconds ahead of it.
        timezone: IANA zone that the meters' clocks show.
        interval: measuring period in minutes, a divisor of 60.
        history_days: how far back the archives reach at the start.
        drift: seconds.
        locked: reading needs an open lock.
        codes: lock -> code; else the factory codes (LIS-200 fact sheet 9).
        language: ``german`` or ``english`` column names; None leaves it to the seed.
        truth: file for the truth (JSON lines).
        faults: see VirtualBus, as for the rest.
        throttle: see VirtualBus.
        opening_rate: see VirtualBus.
        fixed_rate: see VirtualBus.
        log: see VirtualBus.

    Raises:
        ValueError: for an unknown model, fault or zone, or a text that cannot be read.
    """
    raise NotImplementedError


@asynccontextmanager
async def serve_pty(bus: VirtualBus, *, link: Path | None = None) -> AsyncIterator[str]:
    """Put the bus on a new pseudo-terminal; yields ``/dev/pts/N``, and makes ``link`` a symlink to it."""
    raise NotImplementedError
    yield ""


@asynccontextmanager
async def serve_tcp(bus: VirtualBus, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Put the bus behind a TCP port (0: any); yields ``socket://host:port``. Clients are served one after another."""
    raise NotImplementedError
    yield ""
