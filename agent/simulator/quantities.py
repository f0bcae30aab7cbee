"""What the columns and objects of a virtual meter contain, as the meter writes it.

Rules: pure functions of the process and two seconds (begin and end of a period); texts, because the truth file holds
exactly what the meter says. Number formats are those of the model: trimmed on an EK280, four fixed decimals on a TC220,
one decimal on a DL220 (LIS-200 fact sheet 2.3, 6.1).
"""

from collections.abc import Callable
from zoneinfo import ZoneInfo

from agent.simulator.layouts import SYSTEM_STATUS, ZERO
from agent.simulator.messages import Messages
from agent.simulator.months import Extremes
from agent.simulator.personas import CUSTOMER, Persona
from agent.simulator.process import VOLUME_UNITS, GasProcess, draw
from agent.simulator.schedules import Days, is_summer, local_time
from protocol.iec62056 import lis200

_BATTERY_OPERATION, _SUMMER_TIME = 15, 16  # system messages, LIS-200 fact sheet 5.2
_KILOWATT_HOURS = 11  # per m3 of standard volume
_CUSTOMER_LOCK_OPEN = 14
_PADDED = len("000144076.2083")
"""Characters of a volume on old firmware. LIS-200 fact sheet 2.3, 6.1."""


def decimal_text(number: int, decimals: int, *, trimmed: bool = False) -> str:
    """``number`` counted in units of the last of ``decimals``, exactly: 27748 with 4 is ``2.7748``."""
    sign, digits = ("-" if number < 0 else ""), str(abs(number)).rjust(decimals + 1, "0")
    if not decimals:
        return sign + digits
    whole, fraction = digits[:-decimals], digits[-decimals:]
    if trimmed:
        fraction = fraction.rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole


class Quantities:
    """Every computed content of one meter."""

    def __init__(self, persona: Persona, *, seed: int, serial: str, zone: ZoneInfo, step: int) -> None:
        self._persona, self._zone = persona, zone
        self._process = GasProcess(seed, serial, pressure=persona.pressure)
        channels = range(1, persona.channels + 1)
        self._channels = {channel: GasProcess(seed, f"{serial}/{channel}") for channel in channels}
        self.messages = Messages(f"{seed}/{serial}", logger=bool(persona.channels))
        self._disturbed = draw(seed, serial, "disturbed") % (90 * VOLUME_UNITS)
        self._customer_open = draw(seed, serial, "customer lock") % 3 == 0
        days = Days(zone)
        self._extremes = Extremes(self._process, step, days)
        self._channel_extremes = {channel: Extremes(process, step, days) for channel, process in self._channels.items()}
        self._contents: dict[str, Callable[[int, int], str]] = self._channel_contents() or self._corrector_contents()

    def knows(self, content: str) -> bool:
        """Whether ``content`` is a measured value of this meter."""
        return content in self._contents

    def text(self, content: str, start: int, end: int, clock: int) -> str:
        """The group for ``content`` over the period from process second ``start`` to ``end``, when ``clock`` shows."""
        if content in self._contents:
            return self._contents[content](start, end)
        if content == SYSTEM_STATUS:
            return self.system_status(clock)
        if content == ZERO:
            return "0"
        if content.startswith("status "):
            number = int(content.removeprefix("status "))
            lock = (_CUSTOMER_LOCK_OPEN,) if number == CUSTOMER and self._customer_open and not self._channels else ()
            return lis200.format_status([*self.messages.shown(number, end), *lock])
        return self._extreme(content, start, end, clock)

    def system_status(self, clock: int) -> str:
        """StSy: battery operation, summer time."""
        messages = [_BATTERY_OPERATION] if self._persona.battery else []
        return lis200.format_status([*messages, *([_SUMMER_TIME] if is_summer(clock, self._zone) else [])])

    def volume(self, number: int) -> str:
        """A volume or flow counted in 1/10 000."""
        if self._persona.padded:
            return decimal_text(number, 4).rjust(_PADDED, "0")
        if self._channels:
            return decimal_text(number // 1_000, 1, trimmed=True)
        return decimal_text(number, 4, trimmed=not self._persona.fixed_decimals)

    def pressure(self, number: int) -> str:
        """A pressure of 1/100 000 bar, in the unit of the model."""
        if self._persona.pressure_unit == "kPa":
            return decimal_text(number * 10, 4)
        return decimal_text(number, 5, trimmed=True)

    def factor(self, number: int) -> str:
        """C or K, counted in 1/100 000."""
        return decimal_text(number // 10, 4) if self._persona.fixed_decimals else decimal_text(number, 5, trimmed=True)

    def temperature(self, number: int) -> str:
        """A temperature counted in 1/100."""
        return decimal_text(number, 2)

    def _corrector_contents(self) -> dict[str, Callable[[int, int], str]]:
        gas, disturbed = self._process, self._disturbed
        return {
            "2:300": lambda _, end: self.volume(gas.standard(end)),
            "2:301": lambda _, __: self.volume(disturbed),
            "2:302": lambda _, end: self.volume(gas.standard(end) + disturbed),
            "4:300": lambda _, end: self.volume(gas.actual(end)),
            "4:301": lambda _, __: self.volume(disturbed // 3),
            "4:302": lambda _, end: self.volume(gas.actual(end) + disturbed // 3),
            "1:302": lambda _, end: str(gas.standard(end) * _KILOWATT_HOURS // VOLUME_UNITS),
            "2:310": lambda _, end: self.volume(gas.standard_flow(end)),
            "4:310": lambda _, end: self.volume(gas.flow(end)),
            "1:210": lambda _, end: self.volume(gas.flow(end)),
            "7:310": lambda start, end: self.pressure(gas.pressure(start, end)),
            "6:310_1": lambda start, end: self.temperature(gas.temperature(start, end)),
            "6:310": lambda start, end: self.temperature(gas.temperature(start, end) + 27_315),
            "8:310": lambda start, end: self.factor(gas.deviation(start, end)),
            "5:310": lambda start, end: self.factor(gas.conversion(start, end)),
        }

    def _channel_contents(self) -> dict[str, Callable[[int, int], str]]:
        contents: dict[str, Callable[[int, int], str]] = {}
        for number, gas in self._channels.items():
            contents |= self._one_channel(number, gas)
        return contents

    def _one_channel(self, number: int, gas: GasProcess) -> dict[str, Callable[[int, int], str]]:
        adjusted = self._disturbed
        return {
            f"{number}:200": lambda _, end: self.volume(gas.actual(end)),
            f"{number}:201": lambda _, __: "0",
            f"{number}:202": lambda _, end: self.volume(gas.actual(end)),
            f"{number}:203": lambda _, end: self.volume(gas.actual(end) + adjusted),
            f"{number}:210": lambda _, end: self.volume(gas.flow(end)),
        }

    def _extreme(self, content: str, start: int, end: int, clock: int) -> str:
        extremes = self._extremes
        wanted = content.removesuffix(" time")
        if wanted.startswith("most of channel "):
            channel = wanted.removeprefix("most of channel ").split(" ", 1)[0]
            extremes = self._channel_extremes[int(channel)]
            wanted = wanted.replace(f"of channel {channel}", "actual")
        number, at = extremes.find(wanted, start, end)
        if content.endswith(" time"):
            return lis200.format_datetime(local_time(at + clock - end, self._zone))
        if wanted.endswith("pressure"):
            return self.pressure(number)
        return self.temperature(number) if wanted.endswith("temperature") else self.volume(number)
