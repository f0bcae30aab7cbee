"""One readout of an archive: what was asked, what has come, and how to ask on after the line was lent.

Rules: no input or output. A readout brings every row once, whatever was interrupted. It goes on by the archive's own
row numbers where it has some, because a meter's clock may have been put back and numbers go up; else by what it was
asked by. The meter includes both limits, so the last good row comes again and is dropped.

Noise may make an ETX of the EOT behind a block that others follow, and its check fit. A block that is shorter than the
others is the last one in any case; one that is as long, and does not reach the end of what was asked for, is believed
to be the last only when the meter has nothing behind it. Asking costs one exchange (about 0.1 s at 9600 baud, 2 s at
300), and is left out wherever it is not needed. Source: LIS-200 fact sheet 3.1, 3.3.
"""

import array
import bisect
from collections.abc import Sequence

from contexts.meters import Layout
from protocol.iec62056 import lis200
from protocol.iec62056.codes import ARCHIVE_EMPTY

ROW_KEY = 3
"""Groups that name a row for good: its numbers and its time. LIS-200 fact sheet 3.3."""
NUMBER_OBJECT = "A20"
"""Object of an archive that is the source of its row numbers. LIS-200 fact sheet 4."""
ROW_OVERWRITTEN = 109
_NOTHING_BEHIND = frozenset({ARCHIVE_EMPTY, 104, 105})
"""How a meter may say that there is nothing behind its last row. LIS-200 fact sheet 3.3."""


class Readout:
    """The rows of ``archive`` whose column ``position`` lies from ``start`` to ``end`` (included; empty is open).

    Args:
        archive: The archive's number.
        position: The column, from 1, that the limits are compared with.
        start: First value in the meter's notation.
        end: Last value.
        layout: The archive's columns, if they are known.

    ``over`` says that there is no more to ask for, ``asks_on`` that the meter is to be asked what is behind the last
    row, ``asked`` is what it was asked for last.
    """

    def __init__(self, archive: int, position: int, start: str, end: str, layout: Layout | None) -> None:
        self.archive = archive
        self.over = False
        self.asked = lis200.ArchiveRange()
        self._overwritten = 0
        self._position, self._start, self._end = position, start, end
        sources = layout.sources if layout else ()
        number = f"{archive}:{NUMBER_OBJECT}"
        self._number = sources.index(number) + 1 if number in sources else None
        self._by_number = False
        self.asks_on = self._asked_on = False
        self._longest = 0
        self._seen = array.array("q")
        self._last: lis200.Row | None = None

    def argument(self, rows_per_block: int) -> str:
        """What to ask the meter now."""
        argument = self._argument(rows_per_block)
        self._asked_on, self.asks_on = self.asks_on, False
        self.asked = lis200.ArchiveRange.parse(argument)
        return argument

    def _argument(self, rows_per_block: int) -> str:
        if self._last is None:
            return lis200.archive_argument(self._position, self._start, self._end, rows_per_block)
        if self._by_number and self._number is not None:
            number = _text(self._last, self._number)
            if self.asks_on and number.isdigit():
                number = str(int(number) + 1)
            return lis200.archive_argument(self._number, number, None, rows_per_block)
        here = _text(self._last, self._position)
        begin = here if _at_least(here, self._start) else self._start
        return lis200.archive_argument(self._position, begin, self._end, rows_per_block)

    def take(self, rows: Sequence[lis200.Row], *, last: bool) -> list[list[str]]:
        """Return those of a block's rows that were asked for and are new; ``last``: the meter has no more."""
        wanted = [row for row in rows if not self._by_number or self._wants(row)]
        fresh = [row for row in wanted if not self._has(_key(row))]
        for key in map(_key, rows):
            if not self._has(key):
                bisect.insort(self._seen, key)
        self._last = fresh[-1] if fresh else self._last
        # Asked by number, the meter would go on to its newest row.
        over = self._by_number and bool(self._end) and not wanted
        self.asks_on = last and not over and bool(fresh) and self._may_be_cut(rows)
        self.over = over or (last and not self.asks_on)
        self._longest = max(self._longest, len(rows))
        if self.asks_on:
            self.interrupted()
        return [list(row) for row in fresh]

    def _has(self, key: int) -> bool:
        at = bisect.bisect_left(self._seen, key)
        return at < len(self._seen) and self._seen[at] == key

    def interrupted(self) -> None:
        """The meter has forgotten where it was: the line was lent, or a block did not come through."""
        self._by_number = self._last is not None and self._number is not None

    def goes_on_after(self, refusal: int, repeats: int) -> bool:
        """Whether the readout is not at fault: it is over, to be asked again, or to be asked in another way."""
        if self._last is not None and refusal in (_NOTHING_BEHIND if self._asked_on else {ARCHIVE_EMPTY}):
            self.over = True
            return True
        if refusal == ROW_OVERWRITTEN:
            self._overwritten += 1
            return self._overwritten <= repeats
        # Not every meter compares row numbers.
        was, self._by_number, self._number = self._by_number, False, None
        return was

    def _may_be_cut(self, rows: Sequence[lis200.Row]) -> bool:
        """Whether the last block is as long as one that others follow, and ends before what was asked for does."""
        if len(rows) < max(1, min(self.asked.rows or 1, self._longest or len(rows) + 1)):
            return False
        return not self._end or not _at_least(_text(rows[-1], self._position), self._end)

    def _wants(self, row: lis200.Row) -> bool:
        here = _text(row, self._position)
        return _at_least(here, self._start) and (not self._end or _at_least(self._end, here))


def _key(row: lis200.Row) -> int:
    # Eight bytes a row, because all are kept until the last has come, a month of rows on each of many lines. That two
    # of a hundred thousand rows have the same is less likely than one in a thousand million.
    return hash(row[:ROW_KEY])


def _text(row: lis200.Row, position: int) -> str:
    return row[position - 1].replace(" ", "") if 0 < position <= len(row) else ""


def _at_least(text: str, limit: str) -> bool:
    """Compare two times or two numbers in the meter's notation; an empty limit is open."""
    limit = limit.replace(" ", "")
    if text.isdigit() and limit.isdigit():
        return int(text) >= int(limit)
    return text >= limit
