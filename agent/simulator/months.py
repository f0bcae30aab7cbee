"""Maxima and minima of a gas month, found in the same process that the other archives are computed from.

Rules: pure; the words are those of ``layouts``. A maximum per interval or day is a consumption, a flow is that of the
interval, extremes of pressure and temperature are those of daily means.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from agent.simulator.process import HOUR, GasProcess
from agent.simulator.schedules import Days

Total = Callable[[int], int]
Found = tuple[int, int]
"""A number, and the second at which its period ended."""


class Extremes:
    """What was most, least, highest and lowest in a month of one stream of gas; ``step``: seconds of an interval."""

    def __init__(self, process: GasProcess, step: int, days: Days) -> None:
        self._process, self._step, self._days = process, step, days
        self._consumptions = lru_cache(maxsize=8)(self._consumed)

    def find(self, wanted: str, start: int, end: int) -> Found:
        """``most standard per day``, ``lowest actual flow``, ``highest pressure`` between two seconds."""
        match wanted.split():
            case ["most", volume, "per", period]:
                return max(self._consumptions(volume, period, start, end), key=_number)
            case ["highest", volume, "flow"]:
                return self._per_hour(max(self._consumptions(volume, "interval", start, end), key=_number))
            case ["lowest", volume, "flow"]:
                return self._per_hour(min(self._consumptions(volume, "interval", start, end), key=_number))
            case ["highest", measured]:
                return max(self._means(measured, start, end), key=_number)
            case ["lowest", measured]:
                return min(self._means(measured, start, end), key=_number)
            case _:
                raise KeyError(wanted)

    def _per_hour(self, found: Found) -> Found:
        return found[0] * HOUR // self._step, found[1]

    def _ends(self, period: str, start: int, end: int) -> Iterable[int]:
        second = start
        while second < end:
            second = min(self._days.after(second) if period == "day" else second + self._step, end)
            yield second

    def _consumed(self, volume: str, period: str, start: int, end: int) -> tuple[Found, ...]:
        total: Total = self._process.standard if volume == "standard" else self._process.actual
        found, before = [], total(start)
        for second in self._ends(period, start, end):
            after = total(second)
            found.append((after - before, second))
            before = after
        return tuple(found)

    def _means(self, measured: str, start: int, end: int) -> Iterable[Found]:
        mean = self._process.pressure if measured == "pressure" else self._process.temperature
        begin = start
        for second in self._ends("day", start, end):
            yield mean(begin, second), second
            begin = second


def _number(found: Found) -> int:
    return found[0]
