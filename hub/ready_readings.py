"""Plain readings that are made ready before SQLite's one writer has its turn, and in it are found to be so still.

What is looked up of their meters, and what is made of it (``hub.plain_readings``: columns, notes for the clerks), is
most of the hub's own work for a group of batches. In the turn nothing of it is believed unless the estate is still the
one that it was made from (``hub.known_estate``); when it is not, all is done again in the turn.
"""

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence

from hub.judging import Directory
from hub.plain_readings import Columns, Plain

Batch = tuple[uuid.UUID, Plain]
"""A gateway, and what it brought."""


@dataclasses.dataclass(slots=True)
class Ready:
    """Plain batches as they are stored."""

    batches: Sequence[Batch]
    directory: Directory
    """What they were judged by."""
    columns: Columns
    taken: list[bool]
    """Whether the columns have it: all its rows may be readings."""

    def is_still_so(self, directory: Directory, batches: Sequence[Batch]) -> bool:
        """Whether it was made of just these batches, by just this directory."""
        if directory is not self.directory or len(batches) != len(self.batches):
            return False
        alike = zip(batches, self.batches, strict=True)
        return all(gateway == known and one is made for (gateway, one), (known, made) in alike)


async def make_ready(
    directory: Directory, batches: Sequence[Batch], now: dt.datetime, *, beside: bool = False
) -> Ready:
    """Make what is to be stored.

    Args:
        directory: Has the batches' meters.
        batches: What came.
        now: The hub's clock.
        beside: Whether somebody else has the turn: then whoever waits for this process goes first, and notes for the
            clerks are made too.
    """
    columns = Columns(now)
    taken = []
    for gateway, one in batches:
        if beside:
            await asyncio.sleep(0)
        taken.append(columns.add(one, directory, gateway))
    if beside:
        await columns.make_notes()
    return Ready(batches, directory, columns, taken)
