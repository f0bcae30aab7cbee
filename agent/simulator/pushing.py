"""Meters that push: what they say at an instant, and what happens to it on the way.

Rules: a meter is a pure function of seed, serial number and instant (``process``), so that any test knows what was
there. What the way does (loss, doubles, swaps, cuts) is drawn from the seed, too. No socket here; ``pushing_ways`` has
those. Telegrams are made here by the standard's text, not by the code that reads them.
"""

import dataclasses
import datetime as dt
import decimal
import random
from collections.abc import Iterator
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from agent.simulator.process import GasProcess

HOUR = 3600
_WH_PER_M3 = 11


class Said(NamedTuple):
    """One value as a meter said it, for the truth."""

    meter: str
    series: str
    timestamp: dt.datetime | None
    value: decimal.Decimal
    unit: str


class PushingMeter(Protocol):
    """A meter that says what it has by itself."""

    def payload(self, at: dt.datetime) -> bytes:
        """What it says at this instant."""

    def said(self, at: dt.datetime) -> list[Said]:
        """The values of that."""


class P1Meter:
    """An electricity meter with a gas meter on its bus, saying P1 telegrams of DSMR 5.0."""

    def __init__(self, seed: int, serial: str, zone: str = "Europe/Amsterdam", *, gas: bool = True) -> None:
        self.serial = serial
        self.gas = f"G{serial[1:]}" if gas else ""
        self._zone = ZoneInfo(zone)
        self._energy, self._gas = GasProcess(seed, serial), GasProcess(seed, f"{serial}/gas")

    def payload(self, at: dt.datetime) -> bytes:
        """The telegram, with its CRC."""
        values = self.said(at)
        lines = ["/SIM5\\METERGATE", "", "1-3:0.2.8(50)", f"0-0:1.0.0({self._stamp(at)})"]
        lines.append(f"0-0:96.1.1({self.serial.encode().hex().upper()})")
        lines += [f"{one.series}({one.value:010.3f}*kWh)" for one in values if one.meter == self.serial]
        lines += ["0-0:96.14.0(0002)", "0-0:96.7.21(00004)", "1-0:99.97.0(0)(0-0:96.7.19)", "0-0:96.13.0()"]
        lines += ["1-0:32.7.0(230.1*V)", "1-0:31.7.0(001*A)"]
        for one in values:
            if one.meter == self.gas and one.timestamp is not None:
                lines += ["0-1:24.1.0(003)", f"0-1:96.1.0({self.gas.encode().hex().upper()})"]
                lines.append(f"0-1:24.2.1({self._stamp(one.timestamp)})({one.value:09.3f}*m3)")
        content = "\r\n".join([*lines, "!"]).encode("ascii")
        return content + f"{_crc16(content):04X}\r\n".encode("ascii")

    def said(self, at: dt.datetime) -> list[Said]:
        """Both energy counters at this second, and the gas counter at the last full hour."""
        at = at.replace(microsecond=0)
        second = int(at.timestamp())
        total = decimal.Decimal(self._energy.actual(second) * _WH_PER_M3) / 10_000
        low, high = total * 2 / 5, total * 3 / 5
        milli = decimal.Decimal("0.001")
        values = [
            Said(self.serial, "1-0:1.8.1", at, (low % 1_000_000).quantize(milli, decimal.ROUND_DOWN), "kWh"),
            Said(self.serial, "1-0:1.8.2", at, (high % 1_000_000).quantize(milli, decimal.ROUND_DOWN), "kWh"),
        ]
        if self.gas:
            hour = second - second % HOUR
            volume = decimal.Decimal(self._gas.actual(hour)) / 10_000 % 100_000
            when = dt.datetime.fromtimestamp(hour, dt.UTC)
            values.append(Said(self.gas, "24.2.1", when, volume.quantize(milli, decimal.ROUND_DOWN), "m3"))
        return values

    def _stamp(self, at: dt.datetime) -> str:
        local = at.astimezone(self._zone)
        return f"{local:%y%m%d%H%M%S}{'S' if local.dst() else 'W'}"


class ModeDMeter:
    """An electricity meter that says a data readout by itself: IEC 62056-21 mode D, seven bits and even parity."""

    def __init__(self, seed: int, serial: str) -> None:
        self.serial = serial
        self._energy = GasProcess(seed, serial)

    def payload(self, at: dt.datetime) -> bytes:
        """The readout: identification, data lines, ``!``; mode D has no block check. IEC 62056-21 6.4.6."""
        lines = ["/SIM3METERGATE D", "", f"1-0:0.0.0*255({self.serial})"]
        lines += [f"{one.series}({one.value:016.7f}*kWh)" for one in self.said(at)]
        text = "\r\n".join([*lines, "1-0:21.7.0*255(000747.85*W)", "!", ""])
        return bytes(code | (code.bit_count() & 1) << 7 for code in text.encode("ascii"))

    def said(self, at: dt.datetime) -> list[Said]:
        """The energy counter at this second; the meter gives no time."""
        total = decimal.Decimal(self._energy.actual(int(at.timestamp())) * _WH_PER_M3) / 10_000
        value = (total % 1_000_000).quantize(decimal.Decimal("0.0000001"), decimal.ROUND_DOWN)
        return [Said(self.serial, "1-0:1.8.0*255", None, value, "kWh")]


@dataclasses.dataclass(frozen=True, slots=True)
class Hazards:
    """What happens on the way, each with its probability for one payload."""

    loss: float = 0.0
    double: float = 0.0
    swap: float = 0.0
    cut: float = 0.0
    noise: float = 0.0


class Way:
    """Does to payloads what the hazards say; drawn from the seed."""

    def __init__(self, hazards: Hazards, seed: int) -> None:
        self._hazards = hazards
        self._rng = random.Random(f"{seed}/way")  # noqa: S311 - a reproducible way, not a secret
        self._held: bytes | None = None
        self.lost = self.doubled = self.swapped = self.cut = self.struck = 0

    def passes(self, payload: bytes) -> Iterator[bytes]:
        """What comes out for one payload: perhaps nothing, perhaps it twice, perhaps after the next."""
        if self._happens(self._hazards.loss):
            self.lost += 1
            return
        if self._happens(self._hazards.cut):
            self.cut += 1
            payload = payload[: self._rng.randrange(1, len(payload))]
        elif self._happens(self._hazards.noise):
            self.struck += 1
            at = self._rng.randrange(len(payload))
            payload = payload[:at] + bytes([payload[at] ^ 1 << self._rng.randrange(8)]) + payload[at + 1 :]
        if self._held is None and self._happens(self._hazards.swap):
            self.swapped += 1
            self._held = payload
            return
        yield payload
        if self._happens(self._hazards.double):
            self.doubled += 1
            yield payload
        if self._held is not None:
            held, self._held = self._held, None
            yield held

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability


def _crc16(data: bytes) -> int:
    """CRC16 of P1 5.0.2, bit by bit as its text has it: the reader's is another one."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value
