"""What the numbers of a LIS-200 meter mean: refusals, status messages, event codes.

Rules: tables and lookups only. A number that is in no table still gets a sentence, because new firmware has new
numbers. Source: LIS-200 fact sheet 5.1 (refusals), 5.2 (messages), 5.3 (event codes).
"""

REFUSALS: dict[int, str] = {
    1: "wrong address or telegram",
    2: "object not available",
    3: "instance not available",
    4: "unknown attribute",
    5: "attribute not available for this object",
    6: "value outside its range",
    9: "a constant or measured value, cannot be written",
    11: "range not readable, or no input allowed",
    13: "wrong input",
    14: "unit code unknown",
    17: "wrong access code (password)",
    18: "no right to read: a lock must be open",
    19: "no right to write: a lock must be open",
    20: "function locked",
    100: "archive number not available",
    101: "value position not available in this archive",
    103: "archive or range empty",
    104: "lower limit not found in the archive",
    105: "upper limit not found in the archive",
    108: "too many archives open",
    109: "row overwritten while it was read",
    110: "row with a CRC error",
    180: "source not allowed",
    200: "syntax error",
    201: "wrong password",
    222: "EEPROM read error",
    223: "EEPROM write error",
    249: "encoder mode: the counter cannot be set",
}
"""Meaning of ``(#nnnn)``. Source: LIS-200 fact sheet 5.1."""

WRONG_INPUT = 13
"""Some firmware says this, instead of NAK, of a command with a wrong block check. LIS-200 fact sheet 1.8."""
WRONG_ACCESS_CODE = 17
NO_RIGHT_TO_READ = 18
NO_RIGHT_TO_WRITE = 19
ARCHIVE_EMPTY = 103

SYSTEM_MESSAGES: dict[int, str] = {
    1: "restart",
    3: "data restored",
    4: "supply voltage low",
    5: "data error",
    7: "software error",
    8: "settings error",
    9: "battery low",
    10: "repair mode",
    11: "clock not set",
    13: "data transmission running",
    14: "remote clock setting",
    15: "battery operation",
    16: "summer time",
}
"""Messages of the system status (StSy). Source: LIS-200 fact sheet 5.2."""

STATUS_MESSAGES: dict[tuple[int, int], str] = {
    (1, 4): "Q alarm limits",
    (1, 5): "C not computable",
    (1, 6): "T alarm limits",
    (1, 7): "p alarm limits",
    (1, 8): "K not computable",
    (1, 9): "Z not computable",
    (2, 1): "input 1 (encoder) error",
    (2, 5): "temperature sensor error",
    (2, 6): "pressure sensor error",
    **{(4, n): f"output {n} error" for n in range(1, 5)},
    (5, 2): "pulse comparison at input 2",
    (6, 1): "power warning limits",
    (6, 2): "Qb warning limits",
    (6, 4): "Q warning limits",
    (6, 6): "T warning limits",
    (6, 7): "p warning limits",
    (8, 2): "warning signal at input 2",
    (8, 3): "warning signal at input 3",
    (10, 5): "temperature input not calibrated",
    (10, 6): "pressure input not calibrated",
    (11, 1): "encoder report",
    (13, 2): "report signal at input 2",
    (13, 3): "report signal at input 3",
    (14, 1): "calibration lock open",
    (14, 2): "manufacturer lock open",
    (14, 3): "supplier lock open",
    (14, 4): "customer lock open",
    (15, 1): "extended call window",
    **{(16, n): f"call acceptance window {n}" for n in range(1, 5)},
}
"""Messages of St.n, keyed by (message, n). Source: LIS-200 fact sheet 5.2, EK260 and EK270."""

LOGGER_MESSAGES: dict[tuple[int, int], str] = {
    **{(1, n): f"encoder {n} implausible" for n in range(1, 5)},
    **{(2, n): f"encoder {n} error" for n in range(1, 5)},
    **{(6, n): f"warning limit of channel {n}" for n in range(1, 5)},
    **{(8, n): f"warning signal at input {n}" for n in range(1, 5)},
    (9, 4): "battery 2 low",
    **{(12, n): f"limit of channel {n}" for n in range(1, 5)},
    **{(13, n): f"report signal at input {n}" for n in range(1, 5)},
    (14, 1): "calibration lock open",
    (14, 2): "manufacturer lock open",
    (14, 3): "supplier lock open",
    (14, 4): "customer lock open",
    **{(16, n): f"call acceptance window {n}" for n in range(1, 5)},
}
"""Messages of St.n of data loggers, keyed by (message, n). Source: LIS-200 fact sheet 5.2, DL210; n is the input."""

LAST_ALARM, LAST_WARNING, LAST_REPORT = 2, 8, 14
"""Types of messages: 1-2 alarm, 3-8 warning, 9-14 report, 15-16 information. Source: LIS-200 fact sheet 5.2."""


def refusal_meaning(code: int) -> str:
    """What ``(#nnnn)`` means, a sentence also for numbers that no table knows."""
    return REFUSALS.get(code, "an error number of this meter that is in no table")


TIME_EVENTS: dict[int, str] = {1: "backup time", 2: "month boundary", 3: "day boundary", 4: "measuring period"}
"""What the last byte of ``81nn`` and ``80nn`` names; from 05 on a counter. Source: LIS-200 fact sheet 5.3."""

_TOTAL, _SYSTEM, _SYSTEM_2 = 1, 2, 3
_PARAMETER_EVENTS = {2: "changed, row after it", 3: "changed, row before it"}


def is_logger(model: str) -> bool:
    """Whether a meter that names itself so is a data logger (DL): its status messages are others. Fact sheet 5.2."""
    return model.upper().startswith("DL")


def severity(message: int) -> str:
    """``alarm``, ``warning``, ``report`` or ``information``. Source: LIS-200 fact sheet 5.2."""
    limits = ((LAST_ALARM, "alarm"), (LAST_WARNING, "warning"), (LAST_REPORT, "report"))
    return next((word for last, word in limits if message <= last), "information")


def message_title(message: int, status: int | None, model: str = "") -> str:
    """Short text of message 1 to 16 in status ``St.status``, or in the system status when that is None."""
    messages = LOGGER_MESSAGES if is_logger(model) else STATUS_MESSAGES
    known = SYSTEM_MESSAGES.get(message) if status is None else messages.get((message, status))
    return known or f"message {message} in {'the system status' if status is None else f'status {status}'}"


def event_title(code: int, model: str = "") -> str:
    """Short text of the event code ``0xABCC`` of an archive row. Source: LIS-200 fact sheet 5.3.

    ``model`` is how the meter names itself (``DL220``): the messages of data loggers are others.
    """
    group, nibble, last = code >> 12, code >> 8 & 0xF, code & 0xFF
    if group < 8:  # noqa: PLR2004 - A = 0 to 7 are messages, 8 is time, counters and parameters
        edge = "appeared" if group & 2 else "ended"
        place = _place(last, whole_device=bool(group & 1))
        if group & 4:
            return f"any of messages 1 to {nibble + 1} in {place} {edge}"
        title = _message_in(nibble + 1, last, model, whole_device=bool(group & 1))
        return f"{title}: {edge}"
    if group == 8 and nibble in {0, 1}:  # noqa: PLR2004 - as above
        what = TIME_EVENTS.get(last, f"counter event {last}")
        return what if nibble else f"{what}, crossed backwards"
    if group == 8 and nibble in _PARAMETER_EVENTS:  # noqa: PLR2004 - as above
        return f"parameter of archive {last} {_PARAMETER_EVENTS[nibble]}"
    if group == 8 and nibble == 5:  # noqa: PLR2004 - as above
        return f"archive {last} frozen"
    return f"event 0x{code:04X}"


def _message_in(message: int, last: int, model: str, *, whole_device: bool) -> str:
    if not whole_device:
        return message_title(message, last, model)
    if last == _SYSTEM:
        return message_title(message, None)
    return f"message {message} in {_place(last, whole_device=True)}"


def _place(last: int, *, whole_device: bool) -> str:
    if not whole_device:
        return f"status {last}"
    named = {_TOTAL: "the total status", _SYSTEM: "the system status", _SYSTEM_2: "the system status 2"}
    return named.get(last, f"the programmable status {last}")
