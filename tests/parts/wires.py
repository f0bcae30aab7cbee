"""What the tests of links, sessions and lines share: a remembering memory, scaled times, a line and its meters."""

import datetime as dt
import json
import pathlib
import uuid

from agent.conversation import Times
from contexts.meters import Held, Layout
from protocol.plans import Device, Line

NOW = dt.datetime(2025, 3, 12, 9, 30, 10, tzinfo=dt.UTC)
QUICK = Times(identification=0.4, tries=3, telegram=1.0, character=0.25, quiet=0.05)
"""Time-outs for lines on which nobody is late on purpose."""


class DictMemory:
    """A ``LineMemory`` that a test can look into; ``rates`` has every rate that was ever kept, in order."""

    def __init__(self) -> None:
        self.layouts: dict[tuple[uuid.UUID, int], Layout] = {}
        self.marks: dict[tuple[uuid.UUID, int], Held] = {}
        self.rate: int | None = None
        self.rates: list[int | None] = []

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        return self.layouts.get((device, archive))

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        self.layouts[device, archive] = layout

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        return self.marks.get((device, archive))

    def line_rate(self, line: uuid.UUID) -> int | None:
        del line
        return self.rate

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        del line
        self.rate = rate
        self.rates.append(rate)


def line_at(endpoint: str, **settings: object) -> Line:
    return Line(uuid.uuid4(), "line", endpoint, **settings)  # type: ignore[arg-type]


def device_on(line: Line, address: str = "1", serial: str | None = None, name: str = "") -> Device:
    return Device(uuid.uuid4(), name or f"meter-{address}", line.id, "Europe/Berlin", address, serial)


def heard(log: pathlib.Path) -> bytes:
    """Everything that the meters on the line heard, without parity."""
    chunks = [json.loads(line) for line in log.read_text().splitlines()]
    return bytes(byte & 0x7F for chunk in chunks if chunk["dir"] == "rx" for byte in bytes.fromhex(chunk["hex"]))


BREAK = b"\x01B0\x03q"
