"""How a LIS-200 meter writes the groups of its rows: numbers, padded or not, row numbers, status lists.

Rules: pure; what is no number or list is None, never an error: whoever checks rows says what is wrong with them.
Source: LIS-200 fact sheet 2.3, 3.3.
"""

import dataclasses
import re
from decimal import Decimal
from itertools import pairwise

from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import Row, parse_status

NUMBER = re.compile(r"[+-]?\d+(?:\.(\d+))?", re.ASCII)
"""A number, and its decimals."""
_MESSAGES = 16
"""Messages of one status word. LIS-200 fact sheet 5.2."""


@dataclasses.dataclass(slots=True)
class Format:
    """How a column's numbers have looked so far: decimals, whether they are fixed, and the length of padded ones."""

    decimals: int
    same: bool = True
    fixed: bool = False
    padded: int = 0

    @classmethod
    def of(cls, text: str) -> "Format":
        """The format of a column whose first number is ``text``."""
        return cls(decimals(text), padded=len(text) if _is_padded(text) else 0)

    def learn(self, text: str) -> None:
        """One more number of this column."""
        count = decimals(text)
        self.same = self.same and count == self.decimals
        self.fixed = self.fixed or (count > 0 and text.endswith("0"))

    def fits(self, text: str) -> bool:
        """Whether ``text`` is written as the numbers before it."""
        count = decimals(text)
        if self.padded:
            return len(text) == self.padded and count == self.decimals
        if _is_padded(text):
            return False
        return not (self.same and self.fixed) or count == self.decimals


def _is_padded(text: str) -> bool:
    return len(text) > 1 and text[0] == "0" and text[1].isdigit()


def decimals(text: str) -> int:
    """Digits behind the point."""
    return len(text.strip().partition(".")[2])


def row_number(row: Row, at: int) -> int | None:
    """The row number in column ``at``."""
    text = row[at].strip() if at < len(row) else ""
    return int(text) if text.isascii() and text.isdigit() else None


def exact_number(row: Row, at: int) -> Decimal | None:
    """The number in column ``at``."""
    text = row[at].strip() if at < len(row) else ""
    return Decimal(text) if NUMBER.fullmatch(text) else None


def messages_in(text: str) -> tuple[int, ...] | None:
    """The messages of a status in rising order."""
    if text in {"0", ""}:
        return ()
    try:
        messages = parse_status(text)
    except UnreadableValue:
        return None
    rising = all(earlier < later for earlier, later in pairwise(messages))
    return messages if rising and all(message <= _MESSAGES for message in messages) else None
