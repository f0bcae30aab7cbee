"""How many rows one block of an archive has: as many as the rate carries in the time allowed, fewer on a bad line.

Rules: no input or output. A long block costs few turnarounds, but makes others wait for the line, and where bytes are
damaged it is the more likely to be asked for again. A block that came only after several repeats halves what follows,
one that did not come at all quarters it, and a run of clean ones doubles it again, up to what the time allows.
"""

import dataclasses

COLUMN_CHARACTERS, ROW_CHARACTERS = 8, 20
"""A row's length before one has been seen: per column with its brackets, and for time and row numbers."""
UNKNOWN_COLUMNS = 18
MOST_ROWS = 999
"""LIS-200 fact sheet 3.1."""
BITS_PER_CHARACTER = 10
FRAME_CHARACTERS = 3
"""STX, EOT or ETX, and the block check."""
ROW_END_CHARACTERS = 2
HALF, QUARTER = 2, 4
MANY_REPEATS = 2
CLEAN_BLOCKS = 8
"""So many clean blocks in a row, and longer ones are tried: asking anew brings one row twice."""


@dataclasses.dataclass(slots=True)
class Blocks:
    """The blocks of one archive of one meter, as far as they are known.

    Attributes:
        row_length: Characters of the longest row seen, its line end included; 0 before.
        part: By how much blocks are shorter than the time allows, a power of two.
        clean: Clean blocks in a row.
    """

    row_length: int = 0
    part: int = 1
    clean: int = 0

    def rows(self, seconds: float, rate: int, columns: int | None) -> int:
        """How many rows to ask for in a block of at most ``seconds`` at ``rate`` baud; at least one."""
        characters = seconds / self.part * rate / BITS_PER_CHARACTER - FRAME_CHARACTERS
        length = self.row_length or (columns or UNKNOWN_COLUMNS) * COLUMN_CHARACTERS + ROW_CHARACTERS
        return max(1, min(MOST_ROWS, int(characters / length)))

    def characters(self, rows: int) -> int:
        """About how long a block of that many rows is; 0 while that is not known."""
        return rows * self.row_length

    def seen(self, characters: int, rows: int) -> None:
        """Learn from the text of a block how long its rows are."""
        self.row_length = max(self.row_length, -(-(characters + ROW_END_CHARACTERS) // max(1, rows)))

    def came(self, repeats: int) -> bool:
        """Note a block that came after so many repeats; whether the rest is better asked for in other lengths."""
        if repeats:
            self.clean = 0
            if repeats < MANY_REPEATS:
                return False
            self.part *= HALF
            return True
        self.clean += 1
        if self.part == 1 or self.clean < CLEAN_BLOCKS:
            return False
        self.clean = 0
        self.part //= HALF
        return True

    def lost(self) -> None:
        """A block did not come through at all."""
        self.clean = 0
        self.part *= QUARTER
