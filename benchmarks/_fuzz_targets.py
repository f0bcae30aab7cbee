"""What the fuzz bench gives inputs to: what a target is, and what it notes.

Rules: a target's ``run`` takes any bytes, returns when everything that is promised held, and raises whatever did not:
``Broken`` for a promise, any other error as it came. The same bytes do the same thing every time.
"""

import dataclasses
from collections.abc import Callable, Iterable


class Broken(Exception):  # noqa: N818 - named by what it is
    """A promise did not hold; the text says which."""


@dataclasses.dataclass(slots=True)
class Notes:
    """What one input reached, and the most that it made the code keep (in the target's own unit)."""

    reached: set[object] = dataclasses.field(default_factory=set)
    peak: int = 0
    events_per_byte: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Something that reads what comes from outside.

    ``bound`` is the declared bound of what is noted as ``peak``, 0 where nothing is kept; ``share`` how many inputs it
    is given before the next target has its turn.
    """

    name: str
    seeds: Callable[[], Iterable[bytes]]
    run: Callable[[bytes, Notes], None]
    bound: int = 0
    share: int = 25


def broken_unless(holds: bool, text: str) -> None:  # noqa: FBT001 - the promise itself, as in assert
    """Raise Broken with ``text`` unless the promise holds."""
    if not holds:
        raise Broken(text)
