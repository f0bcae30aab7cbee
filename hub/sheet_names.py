"""Names in sheets: of those that are not known, the nearest that is, for whoever mistyped it.

Rules. A suggestion is a courtesy and is bounded: a file full of wrong names costs no more than a few.
"""

import difflib
from collections.abc import Collection

_COMPARED = 2000
"""Names that are compared letter by letter."""

_GUESSES = 30
_LONGEST = 200


class Guesses:
    """Finds the nearest known names for one file, for the first names that are not known."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    @property
    def left(self) -> bool:
        """Whether there are any more to be made."""
        return len(self._said) < _GUESSES

    def nearest(self, name: str, known: Collection[str]) -> str:
        """Return ``; did you mean 'x'?`` as ``nearest`` does, or nothing when enough were found."""
        if name not in self._said and self.left:
            self._said[name] = nearest(name, known)
        return self._said.get(name, "")


def nearest(name: str, known: Collection[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name that is most like this one; empty when none is."""
    plain = _plain(name[:_LONGEST])
    names = {_plain(one): one for one in reversed(list(known))}
    if plain in names:
        return f"; did you mean {names[plain]!r}?"
    some = [one for one in names if len(names) <= _COMPARED or one[:1] == plain[:1]][:_COMPARED]
    found = difflib.get_close_matches(plain, some, 1)
    return f"; did you mean {names[found[0]]!r}?" if found else ""


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
