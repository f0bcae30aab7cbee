"""The models that can be simulated: how each names itself, which archives it has, how it writes numbers.

Rules: tables only; a new sibling is a new ``Persona``, never an ``if model ==`` elsewhere. Source: LIS-200 fact sheet
1.4 (identification), 3.4 (numbers of archives), 3.5 (layouts), 2.2 (echoed addresses), 2.4 (factory codes).
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.simulator import layouts
from agent.simulator.layouts import Layout

CUSTOMER, SUPPLIER = 4, 3
LOCKS = (1, 2, 3, 4, 5, 6)
"""Calibration, manufacturer, supplier, customer, data collector, further user. LIS-200 fact sheet 2.4."""


class Content(enum.Enum):
    """What makes an archive grow."""

    INTERVALS = "measuring periods"
    DAYS = "gas days"
    MONTHS = "gas months"
    EVENTS = "events"
    CHANGES = "changes of parameters"


class Echo(enum.Enum):
    """How a meter repeats the address that it was asked. LIS-200 fact sheet 2.2."""

    ASKED = "as it was asked"
    CORE = "without attribute"
    MEDIUM = "with 7- in front and another last digit"


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive of a model; ``event`` is the code of its regular rows, ``kind`` its type id (object A32)."""

    number: int
    content: Content
    layout: Layout
    depth: int
    kind: int
    event: int = 0
    channel: int = 1


@dataclass(frozen=True, slots=True)
class Persona:
    """One model."""

    model: str
    escapes: str
    rate_id: str
    archives: tuple[Archive, ...]
    echo: Echo
    code: str = field(repr=False)
    version: str
    channels: int = 0
    fixed_decimals: bool = False
    battery: bool = True
    pressure: int | None = None
    """Fixed absolute pressure in 1/100 000 bar of a temperature corrector."""
    pressure_unit: str = " bar"
    maker: str = "Els"
    padded: bool = False
    """Volumes are padded with zeros (old firmware)."""
    numeric_check: bool = False
    """The check column is a number, not ``CRC Ok`` (old firmware)."""
    undescribed: frozenset[str] = frozenset()
    """Attributes of archives that the model does not have: its columns are known by their number only."""

    def archive(self, number: int) -> Archive | None:
        """The archive with this number, if the model has it."""
        return next((archive for archive in self.archives if archive.number == number), None)


MONTH_ROW, DAY_ROW, INTERVAL_ROW, CHANNEL_ROW = 0x8102, 0x8103, 0x8104, 0x8105
"""Event codes of regular rows. LIS-200 fact sheet 5.3; the channels of a data logger count on from 8105."""

EK280 = Persona(
    model="EK280",
    escapes="\\2",
    rate_id="6",
    archives=(
        Archive(1, Content.MONTHS, layouts.EK_MONTH_COUNTERS, 24, 82, MONTH_ROW),
        Archive(2, Content.MONTHS, layouts.EK_MONTH_MEANS, 24, 50, MONTH_ROW),
        Archive(3, Content.INTERVALS, layouts.EK_INTERVALS, 7_000, 161, INTERVAL_ROW),
        Archive(4, Content.EVENTS, layouts.EVENT_LOG, 500, 3),
        Archive(5, Content.CHANGES, layouts.AUDIT_TRAIL, 300, 67),
        Archive(7, Content.DAYS, layouts.EK_INTERVALS, 600, 20, DAY_ROW),
    ),
    echo=Echo.MEDIUM,
    code="00000000",
    version="1.20",
    battery=False,
)
EK220 = Persona(
    model="EK220",
    escapes="",
    rate_id="5",
    archives=(
        Archive(1, Content.MONTHS, layouts.EK_MONTH_COUNTERS, 24, 34, MONTH_ROW),
        Archive(2, Content.MONTHS, layouts.EK_MONTH_MEANS, 24, 50, MONTH_ROW),
        Archive(3, Content.INTERVALS, layouts.EK_INTERVALS, 7_000, 65, INTERVAL_ROW),
        Archive(4, Content.EVENTS, layouts.EVENT_LOG, 500, 3),
        Archive(5, Content.CHANGES, layouts.AUDIT_TRAIL, 300, 67),
        Archive(7, Content.DAYS, layouts.EK_INTERVALS, 600, 20, DAY_ROW),
        Archive(10, Content.INTERVALS, layouts.EK_OUTPUT, 2_000, 51, INTERVAL_ROW),
    ),
    echo=Echo.MEDIUM,
    code="00000000",
    version="1.10",
)
"""An EK with the standard output archive (10)."""
TC220 = Persona(
    model="TC220",
    escapes="",
    rate_id="6",
    archives=(
        Archive(1, Content.MONTHS, layouts.EK_MONTH_COUNTERS, 24, 34, MONTH_ROW),
        Archive(3, Content.INTERVALS, layouts.TC_HOURS, 7_000, 113, INTERVAL_ROW),
        Archive(4, Content.EVENTS, layouts.EVENT_LOG, 250, 3),
        Archive(5, Content.CHANGES, layouts.AUDIT_TRAIL, 200, 35),
        Archive(7, Content.DAYS, layouts.TC_HOURS, 600, 20, DAY_ROW),
    ),
    echo=Echo.CORE,
    code="0",
    version="1.02",
    fixed_decimals=True,
    pressure=104_325,
    pressure_unit="kPa",
)
DL220 = Persona(
    model="DL220",
    escapes="\\2",
    rate_id="5",
    archives=(
        Archive(1, Content.MONTHS, layouts.dl_months(1), 24, 50, MONTH_ROW, 1),
        Archive(2, Content.INTERVALS, layouts.dl_intervals(1), 7_000, 81, CHANNEL_ROW, 1),
        Archive(3, Content.MONTHS, layouts.dl_months(2), 24, 50, MONTH_ROW, 2),
        Archive(4, Content.INTERVALS, layouts.dl_intervals(2), 7_000, 81, CHANNEL_ROW + 1, 2),
        Archive(10, Content.EVENTS, layouts.EVENT_LOG, 500, 3),
    ),
    echo=Echo.ASKED,
    code="00000000",
    version="2.42",
    channels=2,
)

EK260 = Persona(
    model="EK260",
    escapes="",
    rate_id="5",
    archives=(
        Archive(1, Content.MONTHS, layouts.EK260_MONTH_COUNTERS, 24, 18, MONTH_ROW),
        Archive(3, Content.INTERVALS, layouts.EK_INTERVALS, 2_000, 33, INTERVAL_ROW),
        Archive(4, Content.EVENTS, layouts.EVENT_LOG, 250, 3),
        Archive(5, Content.CHANGES, layouts.AUDIT_TRAIL, 200, 35),
        Archive(7, Content.DAYS, layouts.EK_INTERVALS, 300, 20, DAY_ROW),
    ),
    echo=Echo.CORE,
    code="00000000",
    version="1.11",
    padded=True,
    numeric_check=True,
    undescribed=frozenset("234"),
)
DL240 = Persona(
    model="DL240",
    escapes="",
    rate_id="5",
    archives=(
        *(
            archive
            for channel in (1, 2, 3, 4)
            for archive in (
                Archive(2 * channel - 1, Content.MONTHS, layouts.dl_months(channel), 24, 2, MONTH_ROW, channel),
                Archive(
                    2 * channel,
                    Content.INTERVALS,
                    layouts.dl_intervals(channel),
                    2_000,
                    1,
                    CHANNEL_ROW + channel - 1,
                    channel,
                ),
            )
        ),
        Archive(10, Content.EVENTS, layouts.EVENT_LOG, 250, 3),
        Archive(11, Content.CHANGES, layouts.AUDIT_TRAIL, 200, 35),
    ),
    echo=Echo.ASKED,
    code="00000000",
    version="1.10",
    channels=4,
    padded=True,
    numeric_check=True,
)

PERSONAS: Mapping[str, Persona] = {persona.model: persona for persona in (EK280, TC220, DL220, EK260, DL240, EK220)}
"""By the word that ``--meter`` takes."""
