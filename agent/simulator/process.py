"""What flows through a virtual meter: a pure function of seed, name and second, in whole numbers.

Rules: no state, no clock, no float, so that any process on any machine computes the same value for the same second.
Volumes only grow; a reading taken between two rows lies between their totals. Seconds are *process seconds*: seconds
since 1970 of a meter clock that nobody has set (``archives``), so that setting a clock never makes gas flow back.
"""

import hashlib
import random
from functools import lru_cache

MINUTE, HOUR, DAY = 60, 3600, 86_400
BEGIN = 1_577_836_800
"""2020-01-01T00:00:00Z: the meters were put into service; no row is older."""

VOLUME_UNITS = 10_000
"""Volumes are counted in 1/10 000 m3."""
_YEAR_DAYS = 364
_JITTER = 200  # 1/10 000 m3, below the smallest consumption of a minute
_LOAD = (52, 50, 50, 52, 60, 78, 120, 132, 126, 118, 112, 108, 104, 100, 98, 100, 108, 122, 132, 126, 110, 90, 70, 58)
_ZERO_CELSIUS = 27_315  # 1/100 K
_BASE_PRESSURE = 101_325  # 1/100 000 bar


def draw(*names: object) -> int:
    """A number of 64 bits that follows from the names alone."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def conversion(pressure: int, temperature: int, deviation: int) -> int:
    """C = p / 1.01325 bar * 273.15 K / T / K, all in 1/100 000 but T in 1/100 degrees Celsius. Fact sheet 3.5."""
    numerator = pressure * _ZERO_CELSIUS * 100_000 * 100_000
    return numerator // (_BASE_PRESSURE * (temperature + _ZERO_CELSIUS) * deviation)


class GasProcess:
    """One measured stream: actual and standard volume, temperature, pressure, and what follows from them.

    Args:
        seed: of the simulation.
        name: of the stream, e.g. the serial number; two names are two independent streams.
        pressure: fixed absolute pressure in 1/100 000 bar, and with it K = 1; None draws one that moves.
    """

    def __init__(self, seed: int, name: str, *, pressure: int | None = None) -> None:
        self._fixed = pressure is not None
        self._key = f"{seed}/{name}"
        rng = random.Random(self._key)  # noqa: S311 - a reproducible meter, not a secret
        size = rng.randrange(3_000_000, 9_000_000)
        self.pressure_mean = pressure or rng.randrange(130_000, 420_000)
        self._start = rng.randrange(1_000, 90_000) * VOLUME_UNITS + rng.randrange(VOLUME_UNITS)
        self._temperatures = tuple(self._day_temperature(rng, day) for day in range(_YEAR_DAYS))
        actual = [self._day_amount(rng, day, size) for day in range(_YEAR_DAYS)]
        standard = [
            amount * conversion(self.pressure_mean, temperature, 99_500) // 100_000
            for amount, temperature in zip(actual, self._temperatures, strict=True)
        ]
        self._amounts = (tuple(actual), tuple(standard))
        self._sums = (tuple(_running(actual)), tuple(_running(standard)))

    @staticmethod
    def _winter(day: int) -> int:
        """How much winter there is on a day of the year, 0 to 100."""
        return abs(day - _YEAR_DAYS // 2) * 200 // _YEAR_DAYS

    def _day_amount(self, rng: random.Random, day: int, size: int) -> int:
        weekend = 70 if day % 7 in {3, 4} else 100
        return size * (60 + self._winter(day)) * weekend * rng.randrange(85, 116) // 1_000_000

    def _day_temperature(self, rng: random.Random, day: int) -> int:
        return 2_100 - 14 * self._winter(day) + rng.randrange(-200, 201)

    def actual(self, second: int) -> int:
        """The total of the actual volume, in 1/10 000 m3."""
        return self._start + self._total(0, second)

    def standard(self, second: int) -> int:
        """The total of the standard volume, in 1/10 000 m3."""
        return self._start * 3 + self._total(1, second)

    def _total(self, which: int, second: int) -> int:
        minute, rest = divmod(second - BEGIN, MINUTE)
        before = self._point(which, minute)
        return before if not rest else before + (self._point(which, minute + 1) - before) * rest // MINUTE

    def _point(self, which: int, minute: int) -> int:
        day, of_day = divmod(minute, DAY // MINUTE)
        years, of_year = divmod(day, _YEAR_DAYS)
        sums, loads = self._sums[which], _loads()
        whole_days = years * sums[-1] + sums[of_year]
        today = self._amounts[which][of_year] * loads[of_day] // loads[-1]
        return whole_days + today + draw(self._key, which, minute) % _JITTER

    def temperature(self, start: int, end: int) -> int:
        """Mean gas temperature between two seconds, in 1/100 degrees Celsius."""
        start, end = _steady(start, end)
        first, last = (self._temperatures[(second - BEGIN) // DAY % _YEAR_DAYS] for second in (start, end))
        return (first + last) // 2 + draw(self._key, "T", start, end) % 301 - 150

    def pressure(self, start: int, end: int) -> int:
        """Mean absolute pressure between two seconds, in 1/100 000 bar."""
        start, end = _steady(start, end)
        return self.pressure_mean + (0 if self._fixed else draw(self._key, "p", start, end) % 3_001 - 1_500)

    def deviation(self, start: int, end: int) -> int:
        """Mean gas-law deviation factor K, in 1/100 000."""
        start, end = _steady(start, end)
        return 100_000 if self._fixed else 99_200 + draw(self._key, "K", start, end) % 600

    def conversion(self, start: int, end: int) -> int:
        """Mean conversion factor C, in 1/100 000."""
        means = self.pressure(start, end), self.temperature(start, end), self.deviation(start, end)
        return conversion(*means)

    def flow(self, second: int) -> int:
        """Actual flow, in 1/10 000 m3/h, over the minute that is running."""
        return self._flow(0, second)

    def standard_flow(self, second: int) -> int:
        """Standard flow, in 1/10 000 m3/h, over the minute that is running."""
        return self._flow(1, second)

    def _flow(self, which: int, second: int) -> int:
        minute = (second - BEGIN) // MINUTE
        return (self._point(which, minute + 1) - self._point(which, minute)) * (HOUR // MINUTE)


def _steady(start: int, end: int) -> tuple[int, int]:
    """A momentary value holds for ten minutes, so that it does not jump from second to second."""
    return (start - start % 600,) * 2 if start == end else (start, end)


def _running(amounts: list[int]) -> list[int]:
    sums = [0]
    for amount in amounts:
        sums.append(sums[-1] + amount)
    return sums


@lru_cache(maxsize=1)
def _loads() -> tuple[int, ...]:
    """Share of the day's amount that has flowed at each minute of the day."""
    return tuple(_running([_LOAD[minute // 60] for minute in range(DAY // MINUTE)]))
