"""What is done to many rows, in parts of one length: a statement takes only so many parameters, and so much time."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def batched(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield the items in parts of so many, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
