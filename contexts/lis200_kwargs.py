"""What the calls of ``generic_lis200`` may be given: one struct per call, each field checked by its own type.

Rules: a struct is the documentation, the hub's 422 and the typed argument in one (``contexts.calls``); what only the
meter can tell (whether it has that archive, what its zone is) is checked by the call itself.
"""

from typing import Annotated

import msgspec

from contexts.calls import CallError, Date
from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import Address

MAX_OFFSET_SECONDS = 10 * 366 * 86400
"""Ten years: further back no archive of a LIS-200 meter reaches but its month rows."""

ArchiveNumber = Annotated[
    int, msgspec.Meta(ge=1, le=99, description="an archive number from 1 to 99 (3 is the measuring period of an EK)")
]
ControlPosition = Annotated[
    int,
    msgspec.Meta(
        ge=2,
        le=99,
        description="the position of the time column: 3 on EK and DL, 2 on TC (1 is always a number)",
    ),
]


class ObjectAddress:
    """The address of one object, as a reader asks for it: ``2:300.0``; an archive (``3:V``) is not one."""

    __slots__ = ("parsed",)

    def __init__(self, text: str) -> None:
        try:
            self.parsed = Address.parse(text)
        except UnreadableValue:
            raise ValueError(f"{text[:40]!r} is no address") from None
        if self.parsed.object == "V":
            raise ValueError(f"{text[:40]!r} is an archive, which read_archive_by_date reads")


class ReadSingleValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read one object."""

    address: Annotated[ObjectAddress, msgspec.Meta(description="a LIS-200 address such as 2:300 or 6:310_1.0")]


class ReadArchiveByDate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read the rows of an archive from ``start_date`` to ``end_date``, both included; without an end to the newest."""

    start_date: Annotated[
        Date,
        msgspec.Meta(description="an RFC 3339 date and time, or a date; without an offset in the meter's zone"),
    ]
    archive_number: ArchiveNumber
    control_position: ControlPosition
    end_date: Annotated[
        Date | None,
        msgspec.Meta(description="as start_date and not before it, or null for the newest row"),
    ] = None

    def __post_init__(self) -> None:
        """Refuse a range that ends before it starts, as far as that can be told without the meter's zone."""
        start, end = self.start_date.moment, self.end_date.moment if self.end_date else None
        if end is not None and (start.tzinfo is None) == (end.tzinfo is None) and end < start:
            raise CallError("task_kwargs.end_date", f"{end.isoformat()} is before start_date {start.isoformat()}")


class ReadArchiveByOffsetSeconds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read the rows of an archive of the last ``offset_seconds`` before the run's tick, and all that is newer."""

    offset_seconds: Annotated[
        int, msgspec.Meta(ge=1, le=MAX_OFFSET_SECONDS, description=f"seconds from 1 to {MAX_OFFSET_SECONDS}")
    ]
    archive_number: ArchiveNumber
    control_position: ControlPosition


class SetTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set the meter's clock to the gateway's time."""
