"""The columns of every archive that a virtual meter may have, in the order of the device.

Rules: tables only. A column is its source address, its German and English name, its unit as the meter writes it, and
its *content*: the word by which ``quantities`` and ``months`` compute it. A measured column is one whose content is its
value; row numbers, times, status lists and events are not, and neither are columns without a source. Source: LIS-200
fact sheet 3.2, 3.5; which objects feed the maxima of the month archives is not known, so those are the simulator's own.

The language trap of fact sheet 3.5 is kept: German ``Vb`` is the actual volume, English ``Vb`` the standard one.
"""

from dataclasses import dataclass

GONO, AONO, TIME, EVENT, CHECK = "gono", "aono", "time", "event", "check"
SYSTEM_STATUS = "system status"
ZERO = "zero"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; ``{a}`` in its source is the number of the archive."""

    source: str
    german: str
    english: str
    unit: str
    content: str
    measured: bool = False

    def source_in(self, archive: int) -> str:
        """The source as core address (``2:300``), or nothing."""
        return self.source.format(a=archive)

    def notation(self, archive: int) -> str:
        """The source as attribute 4 writes it: ``0002:0300``. LIS-200 fact sheet 3.2."""
        instance, colon, name = self.source_in(archive).partition(":")
        main, underscore, sub = name.partition("_")
        return f"{instance:>04}{colon}{main:>04}{underscore}{sub}" if colon else ""


Layout = tuple[Column, ...]

_GONO = Column("1:1F8", "GONr", "GONo", "", GONO)
_AONO = Column("{a}:A20", "AONr", "AONo", "", AONO)
_TIME = Column("1:400", "Zeit", "Time", "", TIME)
_EVENT = Column("{a}:A22", "Er", "Ev", "", EVENT)
_CHECK = Column("", "Check", "Check", "", CHECK)
_SYSTEM = Column("2:100", "StSy", "StSy", "", SYSTEM_STATUS)


def _status(number: int) -> Column:
    return Column(f"{number}:110", f"St.{number}", f"St.{number}", "", f"status {number}")


def _measured(source: str, german: str, english: str, unit: str, content: str = "") -> Column:
    return Column(source, german, english, unit, content or source, measured=True)


def _with_time(source: str, german: str, english: str, unit: str, content: str) -> Layout:
    """A value with the time at which it arose and its status, as month archives have them."""
    return (
        _measured(source, german, english, unit, content),
        Column("", "Zeit", "Time", "", f"{content} time"),
        Column("", "St", "St", "", ZERO),
    )


EVENT_LOG: Layout = (_GONO, _AONO, _TIME, _EVENT, _CHECK)
"""Five columns."""

AUDIT_TRAIL: Layout = (
    _GONO,
    _AONO,
    _TIME,
    Column("", "Addr", "Addr", "", "parameter"),
    Column("", "Alt", "Old", "", "old"),
    Column("", "Neu", "New", "", "new"),
    Column("", "ES", "AL", "", ZERO),
    Column("", "HS", "ML", "", ZERO),
    Column("", "LS", "SL", "", ZERO),
    Column("", "KS", "CL", "", "open"),
    _CHECK,
)
"""Eleven columns; AL, ML, SL, CL are the states of the four locks."""

EK_INTERVALS: Layout = (
    _GONO,
    _AONO,
    _TIME,
    _measured("2:300", "Vn", "Vb", "m3"),
    _measured("2:302", "VnG", "VbT", "m3"),
    _measured("4:300", "Vb", "V", "m3"),
    _measured("4:302", "VbG", "VT", "m3"),
    _measured("7:310", "p.MP ", "p.MP ", " bar"),
    _measured("6:310_1", "T.MP", "T.MP", "{C"),
    _measured("8:310", "K.MP", "K.MP", ""),
    _measured("5:310", "Z.MP", "C.MP", ""),
    _status(2),
    _status(4),
    _status(7),
    _status(6),
    _SYSTEM,
    _EVENT,
    _CHECK,
)
"""Eighteen columns: measuring periods and days."""

EK_MONTH_COUNTERS: Layout = (
    _GONO,
    _AONO,
    _TIME,
    _measured("2:300", "Vn", "Vb", "m3"),
    _measured("2:302", "VnG", "VbT", "m3"),
    *_with_time("10:161", "VnMPmax", "VbMPmax", "m3", "most standard per interval"),
    *_with_time("11:161", "VnTgMax", "VbDyMax", "m3", "most standard per day"),
    _measured("4:300", "Vb", "V", "m3"),
    _measured("4:302", "VbG", "VT", "m3"),
    *_with_time("3:161", "VbMPmax", "VMPmax", "m3", "most actual per interval"),
    *_with_time("4:161", "VbTgMax", "VDyMax", "m3", "most actual per day"),
    _status(2),
    _status(4),
    _CHECK,
)
"""Twenty-two columns."""

EK_MONTH_MEANS: Layout = (
    _GONO,
    _AONO,
    _TIME,
    *_with_time("12:161", "Qn max", "Qb max", "m3|h", "highest standard flow"),
    *_with_time("13:161", "Qn min", "Qb min", "m3|h", "lowest standard flow"),
    *_with_time("14:161", "Qb max", "Q max", "m3|h", "highest actual flow"),
    *_with_time("15:161", "Qb min", "Q min", "m3|h", "lowest actual flow"),
    _measured("7:310", "p.Mon", "p.Mon", " bar"),
    *_with_time("16:161", "p max", "p max", " bar", "highest pressure"),
    *_with_time("17:161", "p min", "p min", " bar", "lowest pressure"),
    _measured("6:310_1", "T.Mon", "T.Mon", "{C"),
    *_with_time("18:161", "T max", "T max", "{C", "highest temperature"),
    *_with_time("19:161", "T min", "T min", "{C", "lowest temperature"),
    _measured("8:310", "K.Mon", "K.Mon", ""),
    _measured("5:310", "Z.Mon", "C.Mon", ""),
    _status(7),
    _status(6),
    _status(8),
    _status(5),
    _CHECK,
)
"""Thirty-six columns."""

EK_OUTPUT: Layout = (
    _GONO,
    _AONO,
    _TIME,
    _measured("2:302", "VnG", "VbT", "m3"),
    _measured("4:302", "VbG", "VT", "m3"),
    _measured("2:310", "Qn", "Qb", "m3|h"),
    _measured("4:310", "Qb", "Q", "m3|h"),
    _measured("7:310", "p", "p", " bar"),
    _measured("6:310_1", "T", "T", "{C"),
    _measured("5:310", "Z", "C", ""),
    _SYSTEM,
    _EVENT,
    _CHECK,
)
"""Thirteen columns: the standard output archive; no source tells its columns, so these are the simulator's own."""

TC_HOURS: Layout = (
    _AONO,
    _TIME,
    _measured("2:300", "Vn", "Vb", "m3"),
    _measured("2:302", "VnG", "VbT", "m3"),
    _measured("4:300", "Vb", "V", "m3"),
    _measured("4:302", "VbG", "VT", "m3"),
    _measured("6:310_1", "T.MP", "T.MP", "{C"),
    _measured("7:310", "p.Fest", "p.Fix", "kPa"),
    _measured("5:310", "Z.MP", "C.MP", ""),
    _status(2),
    _status(6),
    _SYSTEM,
    _EVENT,
    _CHECK,
)
"""Fourteen columns with one row number, so the time stands in position 2."""


EK260_MONTH_COUNTERS: Layout = tuple(column for column in EK_MONTH_COUNTERS if column.source not in {"2:302", "4:302"})
"""Twenty columns: the months of an EK260 with software 1."""


def dl_intervals(channel: int) -> Layout:
    """Nine columns: the measuring periods of one channel."""
    return (
        _GONO,
        _AONO,
        _TIME,
        _measured(f"{channel}:202", f"V{channel}.G", f"V{channel}.T", "m3"),
        _measured(f"{channel}:203", f"V{channel}.P", f"V{channel}.A", "m3"),
        _status(channel),
        _SYSTEM,
        _EVENT,
        _CHECK,
    )


def dl_months(channel: int) -> Layout:
    """Fourteen columns: the months of one channel."""
    return (
        _GONO,
        _AONO,
        _TIME,
        _measured(f"{channel}:202", f"V{channel}.G", f"V{channel}.T", "m3"),
        _measured(f"{channel}:203", f"V{channel}.P", f"V{channel}.A", "m3"),
        *_with_time(f"{channel + 10}:161", "MP.max", "MP.max", "m3", f"most of channel {channel} per interval"),
        *_with_time(f"{channel + 14}:161", "Tg.max", "Dy.max", "m3", f"most of channel {channel} per day"),
        _status(channel),
        _SYSTEM,
        _CHECK,
    )
