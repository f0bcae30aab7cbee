"""``metergate-agent identify``: who stands on this line, how it is spoken to, and in what state it is.

Rules: the search is in ``agent.identify``; here are the words on the screen and the exit status.
"""

import pathlib
import re
import shlex
from typing import Any

import click
import msgspec

from agent.cli_meter import (
    PASSWORD_VARIABLE,
    WIDE,
    LineAsked,
    Progress,
    Stage,
    line_asked,
    meter_options,
    on_a_line,
)
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
_HALF_HOUR, _NEAR = 1800, 300
"""Seconds by which zones differ, and within which a clock counts as one of another zone."""

_HELP = """Find the meter on a line and say what stands there.

ENDPOINT is a serial port (`metergate-agent ports` lists them) or a device server (socket://host:port).

Listens until the line is silent. Calls at 300 baud and lets the meter change the rate (found within 5 s), at 19200
and 9600 baud as wired ports have them (10 s), with the wake-up of battery devices (20 s), then at other fixed rates;
at last everything without parity (a minute in all). Stops at what answers, reads who it is, its clock, locks, battery
and archives, and ends with the settings to use from then on. Nothing is written to the meter.

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
    zone_said: bool = False
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
            click.echo("\n".join(_lines(found, self.on, zone_said=self.zone_said)))
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
@click.option("--wake-up", is_flag=True, help="Wake battery devices before each call (six seconds each).")
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
    wake_up: bool,
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
        settings=_settings(endpoint, rates, wake_up=wake_up),
        patience=patience,
        archives=archives,
        zone_said=bool(line["timezone"]),
        as_json=as_json,
    )
    on_a_line(asked, code, trace=trace, capture=capture)


def _settings(endpoint: str, rates: tuple[int, ...], *, wake_up: bool) -> list[Setting]:
    settings = list(SERIAL_SETTINGS if read_endpoint(endpoint) is None else SOCKET_SETTINGS)
    if rates and read_endpoint(endpoint) is None:
        settings = [Setting(rate, fixed_rate=rate != Setting().rate) for rate in rates]
    if wake_up:
        settings = list(dict.fromkeys(msgspec.structs.replace(setting, wake_up=True) for setting in settings))
    return settings


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


def _lines(found: Search, on: LineAsked, *, zone_said: bool) -> list[str]:
    lines: list[str] = []
    for meter in found.meters:
        lines += [*_meter(meter, on), *_archives(meter), "", *_use(meter, on, zone_said=zone_said), ""]
    lines += found.heard
    if found.foreign:
        lines.append(
            f"another master is at work on this line: {found.foreign_count} telegrams of its conversations were heard"
        )
        lines += [f"    {text}" for text in found.foreign]
        lines.append("  - they were passed over; while it works every answer may need a repeat: stop it if you can")
    if found.silent:
        lines.append(f"nobody answers at address {', '.join(found.silent)}")
    elif not found.meters and not found.heard:
        lines.append(f"nobody answers on {found.endpoint}")
    lines += [f"  - {hint}" for hint in found.hints]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _meter(meter: MeterFound, on: LineAsked) -> list[str]:
    drift = "" if meter.drift_seconds is None else f"  ({_drift(meter.drift_seconds)})"
    hdlc = ", knows HDLC" if meter.knows_hdlc else ""
    facts = [
        ("type", meter.type),
        ("serial number", meter.serial),
        ("software", meter.version),
        ("station", meter.station),
        ("bus address", meter.bus_address),
        ("protocol", meter.protocol),
        ("clock", f"{meter.clock}{drift}" if meter.clock else ""),
        ("battery", f"{_months(meter.battery_months)} remaining" if meter.battery_months else ""),
        ("measuring period", meter.interval),
        ("gas day begins", meter.day_boundary),
        ("messages", "; ".join(meter.messages)),
        ("locks", _locks(meter.locks)),
    ]
    at = f"address {meter.address}" if meter.address else "general call"
    title = f"{meter.maker} {meter.ident} ({at}), offers {meter.offers} Bd{hdlc}"
    lines = [title, *(f"  {name:<16}  {text}" for name, text in facts if text)]
    if on.code_length:
        lines.append(f"  opened            lock {on.lock}, with the code that was given; it is closed again")
    if meter.locked:
        lines.append("  locked            shows more when a lock is open: give its code (--password-file, --lock)")
    return lines


def _locks(states: dict[str, str]) -> str:
    """Which locks are not closed; most meters have all of them closed."""
    others = [f"{name} {state}" for name, state in states.items() if state != "closed"]
    closed = [name for name, state in states.items() if state == "closed"]
    if not others:
        return f"all closed ({', '.join(closed)})" if closed else ""
    return "; ".join([*others, *(["the others closed"] if closed else [])])


def _months(text: str) -> str:
    """``115 M`` in words."""
    number = text.removesuffix(" M")
    return text if number == text else f"{number} months"


def _drift(seconds: float) -> str:
    """How far the clock is off; of whole half hours, that its zone may be another one."""
    halves = round(seconds / _HALF_HOUR)
    other_zone = halves and abs(seconds - halves * _HALF_HOUR) < _NEAR
    hint = f"; about {halves / 2:+g} h: is it in another zone? say it with --timezone" if other_zone else ""
    return f"{seconds:+.1f} s against this machine{hint}"


def _archives(meter: MeterFound) -> list[str]:
    if not meter.archives:
        return []
    rows = [
        (str(a.number), "" if a.rows is None else str(a.rows), str(a.columns or ""), a.oldest, a.newest or a.says)
        for a in meter.archives
    ]
    head = ("archive", "rows", "columns", "oldest", "newest")
    return ["", *(f"  {line}" for line in table(head, rows, right={0, 1, 2}))]


def _use(meter: MeterFound, on: LineAsked, *, zone_said: bool) -> list[str]:
    setting = meter.setting
    options = [
        *(["--address", meter.address] if meter.address else []),
        *(["--rate", str(setting.rate)] if setting.rate != Setting().rate else []),
        *(["--fixed-rate"] if setting.fixed_rate else []),
        *(["--parity", meter.parity] if meter.parity != "auto" else []),
        *(["--wake-up"] if setting.wake_up else []),
        *(["--echo"] if meter.echo else []),
        *(["--timezone", on.timezone] if zone_said else []),
    ]
    plan = {
        "rate": setting.rate,
        "fixed_rate": setting.fixed_rate,
        "parity": meter.parity,
        "wake_up": setting.wake_up,
        "echo": meter.echo,
    }
    words = ["archive", on.endpoint, "3"]
    if meter.protocol != LIS200:
        words = ["read", on.endpoint, "generic_iec6205621", "read_readout"]
    code = f"{PASSWORD_VARIABLE}=... " if meter.locked or on.code_length else ""
    command = ["metergate-agent", *words, *options]
    return [
        f"  line settings: {msgspec.json.encode(plan).decode()}",
        f"  go on with: {code}{shlex.join(command)}",
    ]
