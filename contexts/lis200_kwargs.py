"""What the calls of ``generic_lis200`` may be given: one struct per call, each field checked by its own type.

Rules: a struct is the documentation, the hub's 422 and the typed argument in one (``contexts.calls``); what only the
meter can tell (whether it has that archive, what its zone is) is checked by the call itself.
"""

from typing import Annotated

import msgspec

from contexts.calls import Date
from contexts.lis200_verify import Verify
from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import Address
from protocol.kwargs import KwargsError

MAX_OFFSET_SECONDS = 10 * 366 * 86400
"""Ten years: further back no archive of a LIS-200 meter reaches but its month rows."""

MAX_ADDRESSES = 50
"""Objects of one ``read_values``: some ten seconds of a line at 9600 baud."""

MAX_DRIFT_SECONDS = 86400

LOCK_CODE = "171"
"""Object of a lock's code; the lock's number is the instance. LIS-200 fact sheet 2.4."""

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

FirstOffset = Annotated[
    Annotated[int, msgspec.Meta(ge=1, le=MAX_OFFSET_SECONDS)] | None,
    msgspec.Meta(
        description=f"seconds from 1 to {MAX_OFFSET_SECONDS} that bound the first read, or null for the whole archive"
    ),
]


class ObjectAddress:
    """The address of one object, as a reader asks for it: ``2:300.0``; an archive (``3:V``) is not one.

    The code of a lock is not read either: some firmware tells it (LIS-200 fact sheet 2.4), and then it would be in an
    answer for everybody.
    """

    __slots__ = ("parsed",)

    def __init__(self, text: str) -> None:
        try:
            self.parsed = Address.parse(text)
        except UnreadableValue:
            raise ValueError(f"{text[:40]!r} is no address") from None
        if self.parsed.object == "V":
            raise ValueError(f"{text[:40]!r} is an archive, which read_archive_by_date reads")
        if self.parsed.object == LOCK_CODE:
            raise ValueError(f"{text[:40]!r} is the code of a lock, which is not read; 4:170 tells whether it is open")


class ReadSingleValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read one object."""

    address: Annotated[ObjectAddress, msgspec.Meta(description="a LIS-200 address such as 2:300 or 6:310_1.0")]
    verify: Verify = "once"


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
    verify: Verify = "once"

    def __post_init__(self) -> None:
        """Refuse a range that ends before it starts, as far as that can be told without the meter's zone."""
        start, end = self.start_date.moment, self.end_date.moment if self.end_date else None
        if end is not None and (start.tzinfo is None) == (end.tzinfo is None) and end < start:
            raise KwargsError("end_date", f"{end.isoformat()} is before start_date {start.isoformat()}")


class ReadArchiveByOffsetSeconds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read the rows of an archive of the last ``offset_seconds`` before the run's tick, and all that is newer."""

    offset_seconds: Annotated[
        int, msgspec.Meta(ge=1, le=MAX_OFFSET_SECONDS, description=f"seconds from 1 to {MAX_OFFSET_SECONDS}")
    ]
    archive_number: ArchiveNumber
    control_position: ControlPosition
    verify: Verify = "once"


class ReadArchiveSinceLast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read the rows of an archive that the gateway does not hold yet.

    The first time, while nothing is held, all that the archive has; with ``offset_seconds`` only the rows of so long
    before the run's tick. Only what it holds without a gap counts as held.
    """

    archive_number: ArchiveNumber
    control_position: Annotated[
        ControlPosition | None,
        msgspec.Meta(description="the position of the time column, or null to find it by the meter's own columns"),
    ] = None
    offset_seconds: FirstOffset = None
    verify: Verify = "once"


class ReadEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read the entries of a log book, or of an audit trail, that the gateway does not hold yet, as events."""

    archive_number: Annotated[
        ArchiveNumber | None,
        msgspec.Meta(
            description="the log book's archive number, or null for the event log book of this meter: 4 on EK and TC, "
            "10 on DL (audit trails are 5 on EK and TC, 11 on DL)"
        ),
    ] = None
    offset_seconds: FirstOffset = None
    verify: Verify = "once"


class ReadValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read several objects in one session; each is judged by itself, so one refusal costs one value."""

    addresses: Annotated[
        list[ObjectAddress],
        msgspec.Meta(
            min_length=1,
            max_length=MAX_ADDRESSES,
            description=f"1 to {MAX_ADDRESSES} addresses such as 2:300, each once",
        ),
    ]
    verify: Verify = "once"

    def __post_init__(self) -> None:
        """Refuse an object that is named twice, in whatever notation: its two readings would be one."""
        seen: set[str] = set()
        for address in self.addresses:
            if str(address.parsed) in seen:
                raise KwargsError("addresses", f"{address.parsed} stands there twice")
            seen.add(str(address.parsed))


class ReadIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read who the meter is: serial number, type, versions of its software, what is connected to it."""


class SetTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set the meter's clock to the gateway's time, if it is off and the moment does no harm to its archives."""

    allowed_drift_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=MAX_DRIFT_SECONDS,
            description=f"seconds from 0 to {MAX_DRIFT_SECONDS}: a clock that is off by no more is left as it is",
        ),
    ] = 5
    force: Annotated[
        bool,
        msgspec.Meta(
            description="true sets the clock also around the ends of measuring periods and days, "
            "and around the changes to and from summer time"
        ),
    ] = False
