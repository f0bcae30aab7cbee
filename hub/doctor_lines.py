"""One line of what the doctor says."""

from typing import Final

import msgspec

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
SKIPPED: Final = "skipped"


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was looked at, how it is, and unless it is well what to do."""

    check: str
    status: str
    text: str
    advice: str = ""


def line(check: str, status: str, text: str, advice: str) -> Line:
    """Return a line; what is well needs no advice."""
    return Line(check, status, text, "" if status == OK else advice)
