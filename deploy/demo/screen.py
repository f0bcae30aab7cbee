"""What people see of the demo: chapters, one line per thing that happened, and on a terminal what is awaited.

Rules: everything is plain text that reads as well in a log file; colours, and the last line that is written again and
again, are for terminals only. Times are those of the shown clock.
"""

import datetime as dt
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TextIO

_WIDTH = 100
_INDENT = " " * 10
"""As wide as a stamp and the blanks behind it."""

BOLD, DIM, GOOD, BAD = "1;36", "2", "32", "1;31"


class Screen:
    """Writes to a terminal or a file; ``now`` is the clock that is shown."""

    def __init__(self, now: Callable[[], dt.datetime], out: TextIO | None = None) -> None:
        self._now = now
        self._out = sys.stdout if out is None else out
        self._terminal = self._out.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._waiting = False

    def chapter(self, title: str, text: str = "") -> None:
        """Begin a chapter: a heading, and what there is to see in it."""
        self._line("")
        self._line(self._painted(f"-- {title} ".ljust(_WIDTH, "-"), BOLD))
        self.prose(text)

    def prose(self, text: str) -> None:
        """Say something about it all, in paragraphs of a readable width."""
        for paragraph in filter(None, text.split("\n")):
            for line in textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False):
                self._line(self._painted(line, DIM))

    def to_copy(self, text: str) -> None:
        """Show something to be copied: in one line, without a stamp."""
        self._line(f"{_INDENT}{text}")

    def say(self, text: str, *, style: str = "") -> None:
        """Say what has happened, with the shown time in front."""
        self._line(f"{self._painted(f'{self._now():%H:%M:%S}', DIM)}  {self._painted(text, style)}")

    def wait(self, text: str) -> None:
        """On a terminal: show what is awaited, until the next line takes its place."""
        if self._terminal:
            room = shutil.get_terminal_size((_WIDTH, 24)).columns - 1
            shown = f"{self._now():%H:%M:%S}  {text}"[:room]
            self._out.write(f"\r\x1b[K{self._painted(shown, DIM)}")
            self._out.flush()
            self._waiting = True

    def clear(self) -> None:
        """Take away what was awaited."""
        if self._waiting:
            self._out.write("\r\x1b[K")
            self._waiting = False

    def _line(self, text: str) -> None:
        self.clear()
        self._out.write(f"{text}\n")
        self._out.flush()

    def _painted(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and style and text else text


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def counted(number: int, word: str) -> str:
    """Return ``1 reading``, ``2 readings``."""
    return f"{number} {word}{'' if number == 1 else 's'}"
