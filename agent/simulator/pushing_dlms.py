"""DLMS meters that push DataNotifications in the wrapper of IEC 62056-47, plain or ciphered.

Rules: as ``agent.simulator.pushing``. Bytes are made here by the standards' text, not by the code that reads them. The
invocation counter is the second of the clock, so a meter that is restarted goes on counting. The keys are no secrets:
anybody can work them out of seed and serial number (``keys``).
"""

import datetime as dt
import decimal
import hashlib
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.simulator.process import GasProcess
from agent.simulator.pushing import Said

_WH_PER_M3 = 11
_TITLE_BYTES = 8
_AUTHENTICATED_ENCRYPTION = b"\x30"
_ENERGY, _REACTIVE = bytes.fromhex("0100010800ff"), bytes.fromhex("0100030800ff")
_VOLUME = bytes.fromhex("0700030000ff")
_M3, _WH, _VARH = 13, 30, 32
_DEVICE_NAME = bytes.fromhex("00002a0000ff")


class DlmsMeter:
    """An electricity meter that pushes its name, its clock and two counters, for anybody to read."""

    def __init__(self, seed: int, serial: str) -> None:
        self.serial = serial
        self._energy, self._reactive = GasProcess(seed, serial), GasProcess(seed, f"{serial}/reactive")

    def payload(self, at: dt.datetime) -> bytes:
        """The notification in its wrapper."""
        return _wrapped(self._notification(at))

    def said(self, at: dt.datetime) -> list[Said]:
        """Both counters at this second."""
        at = at.replace(microsecond=0)
        energy, reactive = self._counters(at)
        return [
            Said(self.serial, "1-0:1.8.0", at, decimal.Decimal(energy).scaleb(-3), "kWh"),
            Said(self.serial, "1-0:3.8.0", at, decimal.Decimal(reactive).scaleb(-3), "kvarh"),
        ]

    def _counters(self, at: dt.datetime) -> tuple[int, int]:
        second = int(at.timestamp())
        energy, reactive = (one.actual(second) * _WH_PER_M3 // 10 for one in (self._energy, self._reactive))
        return energy % 2**32, reactive % 2**32

    def _values(self, at: dt.datetime) -> list[bytes]:
        """Its values, each three elements: code, number, scaler and unit."""
        return [
            _named(code, b"\x06" + struct.pack(">I", value), 0, unit)
            for code, value, unit in zip((_ENERGY, _REACTIVE), self._counters(at), (_WH, _VARH), strict=True)
        ]

    def _notification(self, at: dt.datetime) -> bytes:
        name = self.serial.encode("ascii")[:16]
        stamp = at.astimezone(dt.UTC)
        # No day of the week, no hundredths, no deviation from UTC, a status that says nothing is wrong.
        clock = struct.pack(
            ">HBBBBBBBhB", stamp.year, stamp.month, stamp.day, 0xFF, *stamp.timetuple()[3:6], 0xFF, 0, 0
        )
        values = self._values(at)
        elements = 2 + 3 * len(values)
        body = b"\x02" + bytes([elements]) + b"\x09\x06" + _DEVICE_NAME + b"\x09" + bytes([len(name)]) + name
        return b"\x0f" + struct.pack(">I", int(at.timestamp()) & 0xFFFFFF) + b"\x0c" + clock + body + b"".join(values)


class GasDlmsMeter(DlmsMeter):
    """A volume corrector whose modem pushes its actual volume: what its archive has as ``4:300``.

    The EK280 of the same seed and serial number (``metergate-agent simulate``) is the same meter, seen from its line.
    """

    def said(self, at: dt.datetime) -> list[Said]:
        """The volume at this second, in 1/10 000 m3."""
        at = at.replace(microsecond=0)
        volume = decimal.Decimal(self._energy.actual(int(at.timestamp()))).scaleb(-4)
        return [Said(self.serial, "7-0:3.0.0", at, volume, "m3")]

    def _values(self, at: dt.datetime) -> list[bytes]:
        volume = self._energy.actual(int(at.timestamp()))
        return [_named(_VOLUME, b"\x15" + struct.pack(">Q", volume), -4, _M3)]


class CipheredDlmsMeter(DlmsMeter):
    """The same in general-glo-ciphering, suite 0, authenticated and encrypted."""

    def __init__(self, seed: int, serial: str) -> None:
        super().__init__(seed, serial)
        self.title = title_of(serial)
        self._keys = keys(seed, serial)

    def payload(self, at: dt.datetime) -> bytes:
        """The notification, ciphered, in its wrapper."""
        counter = struct.pack(">I", int(at.timestamp()) & 0xFFFFFFFF)
        hidden = AESGCM(self._keys["encryption"]).encrypt(
            self.title + counter, self._notification(at), _AUTHENTICATED_ENCRYPTION + self._keys["authentication"]
        )
        # DLMS keeps 96 bits of the tag.
        content = _AUTHENTICATED_ENCRYPTION + counter + hidden[:-4]
        return _wrapped(
            b"\xdb" + bytes([_TITLE_BYTES]) + self.title + b"\x82" + struct.pack(">H", len(content)) + content
        )

    def said(self, at: dt.datetime) -> list[Said]:
        """Both counters; the meter is known by its system title."""
        return [one._replace(meter=self.title.hex().upper()) for one in super().said(at)]


def title_of(serial: str) -> bytes:
    """The system title: the serial number if that is one in hex, else made of it."""
    try:
        title = bytes.fromhex(serial)
    except ValueError:
        title = b""
    return title if len(title) == _TITLE_BYTES else b"MGS" + hashlib.sha256(serial.encode()).digest()[:5]


def keys(seed: int, serial: str) -> dict[str, bytes]:
    """The keys of a virtual meter: the first half of the SHA-256 of ``SEED/SERIAL/KIND``."""
    return {
        kind: hashlib.sha256(f"{seed}/{serial}/{kind}".encode()).digest()[:16]
        for kind in ("encryption", "authentication")
    }


def _named(code: bytes, number: bytes, scaler: int, unit: int) -> bytes:
    return b"\x09\x06" + code + number + b"\x02\x02\x0f" + struct.pack(">b", scaler) + b"\x16" + bytes([unit])


def _wrapped(apdu: bytes) -> bytes:
    return struct.pack(">HHHH", 1, 1, 1, len(apdu)) + apdu
