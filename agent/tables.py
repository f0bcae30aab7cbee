"""Columns of text for people on a terminal.

Rules: widths fit the widest cell; what is aligned to the right is named by its position. A table that grows while it
is printed (``Growing``) keeps the widths of its head and its first rows.
"""

from collections.abc import Collection, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table, its head first."""
    growing = Growing(head, rows, right)
    return [growing.line(row) for row in (head, *rows)]


class Growing:
    """A table whose rows come one by one; ``sample`` are rows that it should fit besides its head."""

    def __init__(self, head: Sequence[str], sample: Sequence[Sequence[str]] = (), right: Collection[int] = ()) -> None:
        self.head = head
        self._right = right
        self._widths = [max(len(row[column]) for row in (head, *sample)) for column in range(len(head))]

    def line(self, row: Sequence[str]) -> str:
        """One row; a column that turns out wider makes the rows after it wider, too."""
        cells = []
        for column, cell in enumerate(row):
            self._widths[column] = max(self._widths[column], len(cell))
            width = self._widths[column]
            cells.append(cell.rjust(width) if column in self._right else cell.ljust(width))
        return "  ".join(cells).rstrip()
