"""What LIS-200 texts mean: addresses, groups and rows, values, times, states, archive commands. Pure functions.

Rules: texts in, values out, nothing remembered; a number never becomes a float and never loses a digit; a time is the
meter's own local time without a zone. What is not what it should be raises ``UnreadableValue`` with the text. Source:
LIS-200 fact sheet 2.2, 2.3, 3.1, 3.3.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from protocol.iec62056.errors import UnreadableValue

Row = tuple[str, ...]
"""The raw texts in brackets of one row."""

MAX_DIGITS = 38
MAX_EXPONENT = 18
"""Limits of a value, the same as on the wire to the hub: 38 digits, 18 of them after the point."""

VALUE, NAMES, UNITS, SOURCES, ROW_COUNT = "0", "2", "3", "4", "A.0"
"""Attributes of an archive. Source: LIS-200 fact sheet 3.2."""

_ADDRESS = re.compile(
    r"(?:(?P<medium>\d+)-)?(?P<instance>\d{1,4}):(?P<object>[0-9A-Fa-f]{1,4}|V)"
    r"(?:_(?P<sub>[0-9A-Fa-f]+))?(?:\.(?P<attribute>[0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?))?"
)
_GROUP = re.compile(r"\(([^()]*)\)")
_ROW = re.compile(r"[^()]*(?:\([^()]*\)\s*)+")
_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?", re.ASCII)
_DATETIME = re.compile(r"(\d{4})-(\d\d)-(\d\d), ?(\d\d):(\d\d):(\d\d)", re.ASCII)
_ESCAPE = re.compile(r"\\(?:\\|x([0-9A-Fa-f]{2}))")
_UNITS = {"{C": "°C", "{F": "°F", "{K": "K", "m3|h": "m3/h", "m3:h": "m3/h"}


@dataclass(frozen=True, slots=True)
class Address:
    """``[medium-]instance:object[_sub][.attribute]``, normalised. Source: LIS-200 fact sheet 2.2.

    ``object`` is upper-case hexadecimal of three digits without the leading zero, or ``V`` for an archive. A four-digit object
    that does not begin with 0 is the older notation, whose first digit is the attribute.
    """

    instance: int
    object: str
    sub: str = ""
    attribute: str = ""
    medium: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``1:0400.0``, ``7-2:302.2``, ``6:310_1.0``, ``0003:0A20``, ``3:V.A.0``; raises UnreadableValue."""
        found = _ADDRESS.fullmatch(text.strip())
        if found is None:
            raise UnreadableValue(text, "an address such as 2:300.0")
        name, attribute = found["object"].upper(), (found["attribute"] or "").upper()
        if len(name) == 4:  # noqa: PLR2004 - leading zero, or the attribute in the older notation
            attribute = attribute or name[0].removeprefix("0")
            name = name[1:]
        if name != "V":
            name = name.rjust(3, "0")
        sub = (found["sub"] or "").upper()
        return cls(int(found["instance"]), name, sub, attribute, found["medium"] or "")

    @property
    def core(self) -> str:
        """``instance:object[_sub]``: what identifies the object, whatever notation was used (``2:300``)."""
        return f"{self.instance}:{self.object}{'_' if self.sub else ''}{self.sub}"

    def __str__(self) -> str:
        """The address as a reader asks for it: core and attribute (``2:300.0``)."""
        return f"{self.core}.{self.attribute or VALUE}"


def matches(asked: str, echoed: str) -> bool:
    """Whether an answer that echoes ``echoed`` may answer ``asked``: same core, or no address at all. Fact sheet 2.2."""
    if not echoed.strip():
        return True
    try:
        return Address.parse(asked).core == Address.parse(echoed).core
    except UnreadableValue:
        return False


@dataclass(frozen=True, slots=True)
class Value:
    """One group: its text without the unit, and the unit normalised (empty: none)."""

    text: str
    unit: str = ""

    @property
    def number(self) -> Decimal:
        """The exact number; raises UnreadableValue if the text is none."""
        return parse_decimal(self.text)
