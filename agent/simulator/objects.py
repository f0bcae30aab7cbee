"""The objects of a virtual meter besides its archives: what can be read with R1 and written with W1.

Rules: a table of addresses; values are texts as the meter writes them. Locks guard nothing here (``meters`` does).
Source: LIS-200 fact sheet 4; names and units as there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.simulator.personas import LOCKS
from agent.simulator.process import draw
from agent.simulator.schedules import local_time
from protocol.iec62056 import lis200
from protocol.iec62056.errors import MeterRefusal, UnreadableValue

if TYPE_CHECKING:
    from agent.simulator.meters import VirtualMeter

CONSTANT, OUTSIDE_RANGE, WRONG_INPUT = 9, 6, 13
Read = Callable[[], str]
Write = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Object:
    """One object; ``write`` gets the text and the monotonic second. ``free``: no lock is needed for it."""

    name: str
    read: Read
    unit: str = ""
    write: Write | None = None
    free: bool = False
    secret: bool = False


def objects_of(meter: "VirtualMeter") -> dict[str, Object]:
    """Every object of a meter by its core address."""
    return {**_identity(meter), **_measured(meter), **_times(meter), **_states(meter), **_locks(meter)}


def _fixed(name: str, text: str, unit: str = "") -> Object:
    return Object(name, lambda: text, unit)


def _kept(name: str, text: str, unit: str = "") -> Object:
    """A parameter that keeps what is written to it."""
    kept = [text]

    def write(value: str, _: float) -> None:
        kept[0] = value

    return Object(name, lambda: kept[0], unit, write)


def _identity(meter: "VirtualMeter") -> dict[str, Object]:
    persona, number = meter.persona, draw(meter.serial) % 10**7
    table = {
        "1:180": Object("SNr", lambda: meter.shown_serial),
        "3:180": _kept("StNr", f"{number % 1000:04}"),
        "1:181": _fixed("Typ", persona.model),
        "2:181": _fixed("Herst", "Elster"),
        "2:190": _fixed("Vers", persona.version),
        "2:191": _fixed("ChkSum", f"{number % 65536}"),
        "1:1F0": _fixed("MCyc", "20", "s"),
        "1:253": _fixed("cp.I1", "1", "1|m3"),
        "2:70E": _kept("AdrB2", meter.address or "0"),
        "1:709": _fixed("Bd.S1", persona.rate_id),
        "1:222": _fixed("SNG", str(10_000_000 + number)),
        "5:222": _fixed("SNT", str(20_000_000 + number)),
        "6:222": _fixed("SNp", str(30_000_000 + number)),
    }
    texts = zip(range(1, 7), ("s", "m", "h", "D", "M", "Y"), strict=True)
    table |= {f"{instance}:1E0": _fixed(f"tE{instance}", text) for instance, text in texts}
    table |= {f"{a.number}:A32": _fixed("ArTyp", str(a.kind)) for a in persona.archives}
    return table


_MEASURED = {
    "2:300": ("Vb", "m3"),
    "2:301": ("VbD", "m3"),
    "2:302": ("VbT", "m3"),
    "4:300": ("V", "m3"),
    "4:301": ("VD", "m3"),
    "4:302": ("VT", "m3"),
    "1:302": ("W", "kWh"),
    "2:310": ("Qb", "m3|h"),
    "4:310": ("Q", "m3|h"),
    "1:210": ("Q", "m3|h"),
    "2:210": ("Q2", "m3|h"),
    "7:310": ("p", " bar"),
    "6:310_1": ("T", "{C"),
    "6:310": ("TK", "K"),
    "8:310": ("K", ""),
    "5:310": ("C", ""),
    **{f"{channel}:20{kind}": (f"V{channel}.{kind}", "m3") for channel in (1, 2, 3, 4) for kind in (0, 1, 2, 3)},
}


def _measured(meter: "VirtualMeter") -> dict[str, Object]:
    def reader(content: str) -> Read:
        return lambda: meter.quantity(content)

    table = {
        core: Object(name, reader(core), meter.archives.unit_of(unit))
        for core, (name, unit) in _MEASURED.items()
        if meter.quantities.knows(core)
    }
    if not meter.persona.channels:
        table |= {
            "7:311": _kept("p.F", "1.01325", meter.archives.unit_of(" bar")),
            "6:311_1": _kept("T.F", "15.00", "{C"),
            "8:311": _kept("K.F", "1"),
            "7:312": _kept("pn", "1.01325", meter.archives.unit_of(" bar")),
            "6:312": _kept("Tn", "273.15", "K"),
        }
    return table


def _times(meter: "VirtualMeter") -> dict[str, Object]:
    def now() -> str:
        return lis200.format_datetime(local_time(meter.clock, meter.zone))

    def offset() -> str:
        ahead = local_time(meter.clock, meter.zone).utcoffset()
        return str(int(ahead.total_seconds()) // 60 if ahead else 0)

    def set_clock(text: str, _: float) -> None:
        try:
            meter.set_clock(lis200.parse_datetime(text))
        except UnreadableValue as error:
            raise MeterRefusal(WRONG_INPUT) from error

    step = str(meter.interval)
    table = {
        "1:400": Object("Zeit", now, write=set_clock),
        "1:40F": Object("UTC", offset, "min"),
        "2:404": _fixed("BatR", str(60 + draw(meter.serial, "battery") % 60), "M"),
    }
    if meter.persona.channels:
        for channel in range(1, meter.persona.channels + 1):
            table[f"{channel + 4}:150"] = _fixed("MPer", step, "min")
            table[f"{channel + 4}:141"] = _fixed("TagGr", "06:00")
    else:
        table |= {"4:150": _fixed("MPer", step, "min"), "2:141": _fixed("TagGr", "06:00")}
    return table


def _states(meter: "VirtualMeter") -> dict[str, Object]:
    def status(content: str) -> Read:
        return lambda: meter.quantity(content)

    table = {"1:100": Object("Stat", status("system status")), "2:100": Object("StSy", status("system status"))}
    return table | {f"{n}:110": Object(f"St.{n}", status(f"status {n}")) for n in range(1, 10)}


def _locks(meter: "VirtualMeter") -> dict[str, Object]:
    table: dict[str, Object] = {}
    for number in LOCKS:
        table |= _one_lock(meter, number)
    return table


def _one_lock(meter: "VirtualMeter", number: int) -> dict[str, Object]:
    def state() -> str:
        return "1" if meter.locks.is_open(number, meter.heard_at) else "0"

    def close(_: str, __: float) -> None:
        meter.locks.close(number)

    def enter(code: str, at: float) -> None:
        meter.changed_code(number, meter.locks.enter(number, code, at), code)

    def set_minutes(text: str, _: float) -> None:
        if not (text.isascii() and text.isdigit() and 0 < int(text) <= 99):  # noqa: PLR2004 - two digits
            raise MeterRefusal(OUTSIDE_RANGE)
        meter.locks.set_minutes(number, int(text))

    return {
        f"{number}:170": Object(f"St.L{number}", state, write=close, free=True),
        f"{number}:171": Object(f"Cod{number}", lambda: "0", write=enter, free=True, secret=True),
        f"{number}:174": Object(f"TL{number}", lambda: str(meter.locks.minutes(number)), "min", write=set_minutes),
    }
