"""Virtual electricity meters: registers by OBIS ids, read out whole in modes A, B and C, or one by one with R1 and R5.

Rules: knows telegrams (``protocol.iec62056`` events), never bytes or waiting, like ``meters``. The clock is handed in.
What is measured follows from seed, serial number and second alone, and counters only grow. Everything measured that is
answered is written to the truth before it is returned. Source: IEC 62056-21 6.4 and 6.5, LIS-200 fact sheet 7.
"""

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from agent.simulator.process import BEGIN, HOUR, draw
from agent.simulator.truth import Truth
from protocol.iec62056 import Data, Identification
from protocol.iec62056.codes import NO_RIGHT_TO_WRITE, WRONG_ACCESS_CODE
from protocol.iec62056.data_lines import Register, format_data_message, same_register
from protocol.iec62056.errors import MeterRefusal
from protocol.iec62056.lis200 import Value

UNKNOWN_COMMAND = 1
UNKNOWN_REGISTER, NO_PASSWORD = "ER01", "ER04"
"""Error messages are the maker's own texts. IEC 62056-21 6.5.4, LIS-200 fact sheet 7."""
FACTORY_CODE = "00000000"
BILLING_PERIODS = 2
"""Ends of months whose values are kept."""


@dataclass(frozen=True, slots=True)
class ElectricPersona:
    """One model: how it names itself, and with ``rate_id`` its mode."""

    model: str
    maker: str
    rate_id: str
    medium: str = ""
    """What stands in front of every id (``1-0:``)."""
    serial_at: str = "0.0.0"
    """Where it shows its number; empty: nowhere."""


ELECTRICITY: Mapping[str, ElectricPersona] = {
    persona.model: persona
    for persona in (
        ElectricPersona("ELECTRIC-A", "ABC", "@", serial_at="C.1.0"),
        ElectricPersona("ELECTRIC-B", "ABC", "D"),
        ElectricPersona("ELECTRIC-C", "ABc", "5", medium="1-0:"),
    )
}
"""By the word that ``--meter`` takes."""


class ElectricityMeter:
    """One electricity meter; arguments as those of ``VirtualMeter``.

    ``locked``: single reads need the password (P1), any of ``codes``. ``error``: what its error register shows.
    """

    language = "none"

    def __init__(
        self,
        address: str,
        serial: str,
        persona: ElectricPersona,
        *,
        seed: int,
        now: Callable[[], dt.datetime],
        zone: ZoneInfo,
        drift: float = 0,
        locked: bool = False,
        codes: Mapping[int, str] | None = None,
        truth: Path | None = None,
    ) -> None:
        self.address, self.serial, self.persona, self.zone = address, serial, persona, zone
        self.shown_serial = serial
        self.error = "00000000"
        self._key, self._now, self._drift = f"{seed}/{serial}", now, drift
        self._locked, self._open = locked, not locked
        self._codes = set((codes or {0: FACTORY_CODE}).values())
        self._truth = Truth(truth) if truth else None

    def __repr__(self) -> str:
        return f"<ElectricityMeter {self.persona.model} {self.serial} at {self.address!r}>"

    def close(self) -> None:
        """Close the truth file."""
        if self._truth:
            self._truth.close()
            self._truth = None

    def advance(self) -> None:
        """Nothing arises with time: every value follows from its moment."""

    def identification(self) -> Identification:
        """Who it says it is; a new call forgets the password of the one before."""
        self._open = not self._locked
        return Identification(self.persona.maker, self.persona.rate_id, self.persona.model)

    def readout(self) -> str:
        """Everything that it shows, as a data message."""
        shown = self.registers()
        for register in shown:
            self._tell(register)
        return format_data_message(shown)

    def read(self, address: str, argument: str, at: float) -> str:
        """Commands R1 and R5: one register, or an error message."""
        del argument, at
        if not self._open:
            return f"({NO_PASSWORD})"
        found = next((register for register in self.registers() if same_register(address, register.id)), None)
        if found is None:
            return f"({UNKNOWN_REGISTER})"
        self._tell(found)
        return format_data_message((found,)).partition("\r\n")[0]

    def read_blocks(self, address: str, argument: str, at: float) -> list[Data]:
        """Command R3, which it does not know; raises MeterRefusal."""
        del address, argument, at
        raise MeterRefusal(UNKNOWN_COMMAND)

    def write(self, address: str, value: str, at: float) -> None:
        """Command W1, which it never allows; raises MeterRefusal."""
        del address, value, at
        raise MeterRefusal(NO_RIGHT_TO_WRITE)

    def log_in(self, operand: str, at: float) -> None:
        """Command P1 with the password; raises MeterRefusal."""
        del at
        if operand not in self._codes:
            raise MeterRefusal(WRONG_ACCESS_CODE)
        self._open = True

    def registers(self) -> tuple[Register, ...]:
        """What it shows at this moment."""
        clock = self._now() + dt.timedelta(seconds=self._drift)
        local = clock.astimezone(self.zone)
        second = math.floor(clock.timestamp())
        ends = _ends_of_months(local, BILLING_PERIODS)
        peak = local.replace(day=1, hour=11, minute=15, second=0) if local.day > 1 else local
        resets = (local.year - 2020) * 12 + local.month - 1
        shown = [
            ("F.F", (Value(self.error),)),
            *([(self.persona.serial_at, (Value(self.shown_serial),))] if self.persona.serial_at else []),
            ("0.9.1", (Value(f"{local:%H%M%S}"),)),
            ("0.9.2", (Value(f"{local:%y%m%d}"),)),
            ("0.1.0", (Value(f"{resets % 100:02}"),)),
            *((f"0.1.0*{(resets - back) % 100:02}", (Value(f"{end:%y%m%d%H%M}"),)) for back, end in enumerate(ends)),
            *((f"1.8.{tariff}", (self._energy(1, tariff, second),)) for tariff in range(3)),
            *(
                (f"1.8.0*{(resets - back) % 100:02}", (self._energy(1, 0, int(end.timestamp())),))
                for back, end in enumerate(ends)
            ),
            ("2.8.0", (self._energy(2, 0, second),)),
            ("1.6.1", (Value(f"{draw(self._key, resets) % 90_000 / 1000:06.3f}", "kW"), Value(f"{peak:%y%m%d%H%M}"))),
            ("32.7.0", (Value(f"{2200 + draw(self._key, second // 600) % 200}"[:3], "V"),)),
        ]
        return tuple(Register(f"{self.persona.medium}{name}", groups) for name, groups in shown)

    def _energy(self, direction: int, tariff: int, second: int) -> Value:
        """A counter in 1/1000 kWh; that of tariff 0 is the sum of the others."""
        if tariff == 0:
            parts = [self._counted(direction, part, second) for part in (1, 2)]
            return Value(_kilowatt_hours(sum(parts)), "kWh")
        return Value(_kilowatt_hours(self._counted(direction, tariff, second)), "kWh")

    def _counted(self, direction: int, tariff: int, second: int) -> int:
        watts = 100 + draw(self._key, direction, tariff) % 5_000
        return draw(self._key, "start", direction, tariff) % 50_000_000 + (second - BEGIN) * watts // HOUR

    def _tell(self, register: Register) -> None:
        value = register.groups[0]
        if self._truth and value.unit:
            self._truth.single(self.serial, self.address, register.id, value.text, value.unit, self._now())


def _kilowatt_hours(watt_hours: int) -> str:
    return f"{watt_hours // 1000:06}.{watt_hours % 1000:03}"


def _ends_of_months(local: dt.datetime, count: int) -> list[dt.datetime]:
    """The last ``count`` midnights with which a month ended, newest first."""
    ends = [local.replace(day=1, hour=0, minute=0, second=0, microsecond=0)]
    while len(ends) < count:
        ends.append((ends[-1] - dt.timedelta(days=1)).replace(day=1))
    return ends
