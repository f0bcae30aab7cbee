"""``metergate-agent identify``: who stands on this line, how it is spoken to, and in what state it is.

Rules: the search is in ``agent.identify``; here are the words on the screen and the exit status.
"""

import pathlib
import re
import shlex
from typing import Any

import click
import msgspec

from agent.cli_meter import WIDE, LineAsked, Progress, Stage, line_asked, meter_options, on_a_line
from agent.identify import (
    LIS200,
    PATIENCE,
    SERIAL_SETTINGS,
    SOCKET_SETTINGS,
    MeterFound,
    Search,
    Searcher,
    Setting,
)
from agent.links import read_endpoint
from agent.tables import table

NOBODY, NOT_UNDERSTOOD = 3, 4
MOST_ADDRESSES = 256

_HELP = """Find the meter on a line and say what stands there.

ENDPOINT is a serial port (`metergate-agent ports` lists them) or a device server (socket://host:port).

Calls at 300 baud and lets the meter change the rate, then at the fixed rates of wired ports (19200, 9600, 2400, ...),
then with the wake-up of battery devices; each time with even parity and without. Stops at what answers, reads who it
is, its clock, locks, battery and archives, and ends with the settings to use from then on. Nothing is written to the
meter.

\b
What is behind the optical head?
  metergate-agent identify /dev/ttyUSB0

\b
Which meters are on this RS-485 bus? (a general call to several is answered by all of them at once)
  metergate-agent identify /dev/serial/by-id/usb-FTDI_... --address 1-16 --rate 19200

\b
A meter that shows nothing while its locks are closed:
  METERGATE_METER_PASSWORD=... metergate-agent identify socket://10.0.0.7:4001 --lock 4

\b
For a script, and for whoever is asked for help:
  metergate-agent identify /dev/ttyUSB0 --json --capture cellar.jsonl

Exit status: 0 every meter that was asked for is identified, 1 failed (port, lock), 2 wrong usage, 3 nobody answers (of
several addresses: one of them), 4 something answers that cannot be understood (several meters at once, another
protocol).
"""


class IdentifyAsked(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="identify", omit_defaults=True):
    """One search, as it was typed."""

    on: LineAsked
    addresses: list[str] = []
    settings: list[Setting] = []
    patience: float = PATIENCE
    archives: bool = True
    as_json: bool = False

    async def carry_out(self, stage: Stage) -> int:
        """Search and print what was found."""
        progress = Progress(stage)
        searcher = Searcher(stage, self.on, patience=self.patience, archives=self.archives, tell=progress.show)
        try:
            found = await searcher.search(self.addresses or [""], self.settings)
        finally:
            progress.clear()
        if self.as_json:
            click.echo(msgspec.json.encode(found))
        else:
            click.echo("\n".join(_lines(found)))
        if found.heard:
            return NOT_UNDERSTOOD
        return 0 if found.meters and not found.silent else NOBODY


@click.command("identify", help=_HELP, context_settings=WIDE)
@click.argument("endpoint")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="ADDRESS|N-M",
    help="Call this bus address, or each number of a range; may be repeated. Without: everybody.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.IntRange(50, 4_000_000),
    help="Try only this rate (fixed; 300 may change); may be repeated.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.2, 30),
    default=PATIENCE,
    show_default=True,
    help="Seconds to wait for an answer; modems need 7.5.",
)
@click.option("--archives/--no-archives", default=True, help="Whether to look into the archives.  [default: archives]")
@meter_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    endpoint: str,
    *,
    addresses: tuple[str, ...],
    rates: tuple[int, ...],
    patience: float,
    archives: bool,
    as_json: bool,
    trace: bool,
    capture: pathlib.Path | None,
    **line: Any,  # noqa: ANN401 - the options of meter_options
) -> None:
    """Find the meter on a line and say what stands there."""
    on, code = line_asked(endpoint, **line)
    asked = IdentifyAsked(
        on=on,
        addresses=_addresses(addresses),
        settings=_settings(endpoint, rates),
        patience=patience,
        archives=archives,
        as_json=as_json,
    )
    on_a_line(asked, code, trace=trace, capture=capture)


def _settings(endpoint: str, rates: tuple[int, ...]) -> list[Setting]:
    if read_endpoint(endpoint) is not None:
        return list(SOCKET_SETTINGS)
    if not rates:
        return list(SERIAL_SETTINGS)
    return [Setting(rate, fixed_rate=rate != Setting().rate) for rate in rates]


def _addresses(texts: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for text in texts:
        span = re.fullmatch(r"(\d+)-(\d+)", text)
        if span is None:
            if not re.fullmatch(r"[0-9A-Za-z ]{1,32}", text):
                raise click.UsageError(
                    f"--address: {text!r} is no bus address (letters, digits, blanks) and no range N-M"
                )
            found.append(text)
            continue
        numbers = range(int(span[1]), int(span[2]) + 1)
        if not 0 < len(numbers) <= MOST_ADDRESSES:
            raise click.UsageError(f"--address: {text!r} is no range of 1 to {MOST_ADDRESSES} addresses")
        found += [str(number).rjust(len(span[1]), "0") for number in numbers]
    return list(dict.fromkeys(found))


def _lines(found: Search) -> list[str]:
    lines: list[str] = []
    for meter in found.meters:
        lines += [*_meter(meter), *_archives(meter), "", *_use(found.endpoint, meter), ""]
    lines += found.heard
    if found.silent:
        lines.append(f"nobody answers at address {', '.join(found.silent)}")
    elif not found.meters and not found.heard:
        lines.append(f"nobody answers on {found.endpoint}")
    lines += [f"  - {hint}" for hint in found.hints]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _meter(meter: MeterFound) -> list[str]:
    drift = "" if meter.drift_seconds is None else f"  ({meter.drift_seconds:+.1f} s against this machine)"
    hdlc = ", knows HDLC" if meter.knows_hdlc else ""
    facts = [
        ("type", meter.type),
        ("serial number", meter.serial),
        ("software", meter.version),
        ("station", meter.station),
        ("bus address", meter.bus_address),
        ("protocol", meter.protocol),
        ("clock", f"{meter.clock}{drift}" if meter.clock else ""),
        ("battery", f"{meter.battery_months} remaining" if meter.battery_months else ""),
        ("measuring period", meter.interval),
        ("gas day begins", meter.day_boundary),
        ("messages", "; ".join(meter.messages)),
        ("locks", "; ".join(f"{name} {state}" for name, state in meter.locks.items())),
    ]
    at = f"address {meter.address}" if meter.address else "general call"
    title = f"{meter.maker} {meter.ident} ({at}), offers {meter.offers} Bd{hdlc}"
    lines = [title, *(f"  {name:<16}  {text}" for name, text in facts if text)]
    if meter.locked:
        lines.append("  locked            shows more when a lock is open: give its code (--password-file, --lock)")
    return lines


def _archives(meter: MeterFound) -> list[str]:
    if not meter.archives:
        return []
    rows = [
        (str(a.number), "" if a.rows is None else str(a.rows), str(a.columns or ""), a.oldest, a.newest or a.says)
        for a in meter.archives
    ]
    head = ("archive", "rows", "columns", "oldest", "newest")
    return ["", *(f"  {line}" for line in table(head, rows, right={0, 1, 2}))]


def _use(endpoint: str, meter: MeterFound) -> list[str]:
    setting = meter.setting
    options = [
        *(["--address", meter.address] if meter.address else []),
        *(["--rate", str(setting.rate)] if setting.rate != Setting().rate else []),
        *(["--fixed-rate"] if setting.fixed_rate else []),
        *(["--parity", meter.parity] if meter.parity != "auto" else []),
        *(["--wake-up"] if setting.wake_up else []),
        *(["--echo"] if meter.echo else []),
    ]
    plan = {
        "rate": setting.rate,
        "fixed_rate": setting.fixed_rate,
        "parity": meter.parity,
        "wake_up": setting.wake_up,
        "echo": meter.echo,
    }
    words = ["archive", endpoint, "3"]
    if meter.protocol != LIS200:
        words = ["read", endpoint, "generic_iec6205621", "read_readout"]
    command = ["metergate-agent", *words, *options]
    return [
        f"  line settings: {msgspec.json.encode(plan).decode()}",
        f"  go on with: {shlex.join(command)}",
    ]
