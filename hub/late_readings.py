"""Late readings: what lies in the default partition is moved to months of its own, while readings arrive (PostgreSQL).

An archive of three years that is read today lands in ``readings_default``, and ingestion is not held up. A month can
only be attached when the default partition has no row of it; deleting them under lock takes as long as there are rows.
So nothing is deleted: the default partition is copied, by month, beside readings, and then replaced.

1. *Lay out*: ``readings_moving`` gets a table for each month, and a default of its own for what else arrives.
2. *Mirror*: a trigger has every row that is inserted, changed or deleted in the default partition do so in the copy.
3. *Copy*: what was there before, in slices by id. Rows of a slice are locked FOR SHARE until it is committed, so that
   no change of theirs comes between reading and writing; the mirror comes after the copy, never beside it.
4. *Swap*: under lock, the default partition is dropped, the months and the new default are attached. No row is read.

Rules:
- Each step is one transaction, and what was done is kept in it (``hub_state``): whoever comes next goes on from there,
  after a crash or in another process. Until the swap is committed nobody sees anything of it.
- ``MOST`` months go at a time: attaching one takes some 20 ms, and readings wait for all of them.
- A migration abandons a move first (``abandoning``): the copy would not have its new columns. It is begun again.
"""

from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import HubState
from hub.months import DEFAULT, Month, build, is_table, lock, run

SLICE = 2000
"""Rows that are copied in one transaction."""

MOST = 12
"""Months that are moved at a time; there are as many turns as needed, the newest months first."""

KEY: Final = "readings_moving"
"""Under this key ``hub_state`` has how far a move is; it is the name of the copy too."""

_REST: Final = "readings_moving_default"
_MIRROR: Final = "readings_moving_mirror"

_FUNCTION = f"""
    CREATE FUNCTION {_MIRROR}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            DELETE FROM {KEY} WHERE id = OLD.id AND timestamp = OLD.timestamp;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO {KEY} VALUES (NEW.*);
        END IF;
        RETURN NULL;
    END $$
"""  # noqa: S608 - our own names
# Some are there already: the mirror has written those that were changed in the meantime.
_COPY = sa.text(f"""
    WITH chosen AS MATERIALIZED (
        SELECT * FROM {DEFAULT} WHERE id > :last AND id <= :through ORDER BY id LIMIT :slice FOR SHARE
    ), copied AS (INSERT INTO {KEY} SELECT * FROM chosen ON CONFLICT DO NOTHING)
    SELECT max(id) FROM chosen
""")  # noqa: S608 - our own names
_LATE = sa.text(f"""
    WITH RECURSIVE months AS (
        SELECT date_trunc('month', min(timestamp) AT TIME ZONE 'UTC') AS month FROM {DEFAULT}
        UNION ALL
        SELECT (SELECT date_trunc('month', min(timestamp) AT TIME ZONE 'UTC') FROM {DEFAULT}
                WHERE timestamp >= (months.month + interval '1 month') AT TIME ZONE 'UTC')
        FROM months WHERE month IS NOT NULL
    ) SELECT month FROM months WHERE month IS NOT NULL
""")  # noqa: S608 - our own names


class Move(msgspec.Struct):
    """How far a move is: ``last`` is the id up to which is copied, ``through`` where the copy ends."""

    months: list[str]
    last: int = 0
    through: int | None = None
    copied: bool = False


def abandoning() -> list[str]:
    """Return the statements that take back a move that is under way; where none is they do nothing."""
    return [
        f"DROP TRIGGER IF EXISTS {_MIRROR} ON {DEFAULT}",
        f"DROP FUNCTION IF EXISTS {_MIRROR}()",
        f"DROP TABLE IF EXISTS {KEY}",
        f"DELETE FROM hub_state WHERE key = '{KEY}'",  # noqa: S608 - our own names
    ]


async def late_months(session: AsyncSession) -> list[Month]:
    """Return the months of which the default partition has rows; an index is asked once for each."""
    return [Month(month.year, month.month) for month in await session.scalars(_LATE)]


async def under_way(session: AsyncSession) -> Move | None:
    """Return how far the move is that is under way."""
    value = await session.scalar(sa.select(HubState.value).where(HubState.key == KEY))
    return None if value is None else msgspec.json.decode(value, type=Move)


async def begin(session: AsyncSession, months: list[Month]) -> None:
    """Begin to move, into the newest of these months."""
    await build(session, _REST)
    await run(
        session,
        f"CREATE TABLE {KEY} (LIKE readings) PARTITION BY RANGE (timestamp)",
        f"ALTER TABLE {KEY} ATTACH PARTITION {_REST} DEFAULT",
    )
    move = Move([month.table for month in sorted(months)[-MOST:]])
    session.add(HubState(key=KEY, value=msgspec.json.encode(move).decode()))


async def go_on(session: AsyncSession, move: Move) -> list[str]:
    """Do the next step; return the partitions that there are now, which is after the last step."""
    months = [month for name in move.months if (month := Month.named(name)) is not None]
    if move.copied:
        await _swap(session, months)
        return move.months
    if move.through is None:
        for month in months:
            if not await is_table(session, month.table):
                await build(session, month.table, month)
                await run(session, f"ALTER TABLE {KEY} ATTACH PARTITION {month.table} {month.bounds}")
                return []
        move.through = await _mirror(session)
    else:
        last = await session.scalar(_COPY, {"last": move.last, "through": move.through, "slice": SLICE})
        if last is None:
            # The months are planned with from the first query on.
            await run(session, f"ANALYZE {KEY}")
            move.copied = True
        else:
            move.last = last
    value = msgspec.json.encode(move).decode()
    await session.execute(sa.update(HubState).where(HubState.key == KEY).values(value=value))
    return []


async def _mirror(session: AsyncSession) -> int:
    """Begin to mirror; return up to which id rows are there that were not mirrored."""
    # Who writes the default partition has ended, or begins after this: nobody's row is neither copied nor mirrored.
    await run(
        session,
        f"LOCK TABLE {DEFAULT} IN SHARE ROW EXCLUSIVE MODE",
        _FUNCTION,
        f"CREATE TRIGGER {_MIRROR} AFTER INSERT OR UPDATE OR DELETE ON {DEFAULT} FOR EACH ROW "
        f"EXECUTE FUNCTION {_MIRROR}()",
    )
    return await session.scalar(sa.text(f"SELECT coalesce(max(id), 0) FROM {DEFAULT}")) or 0  # noqa: S608 - our own name


async def _swap(session: AsyncSession, months: list[Month]) -> None:
    await lock(session)
    # Without a default partition no month is searched for among its rows.
    await run(session, f"DROP TABLE {DEFAULT}", f"DROP FUNCTION {_MIRROR}()")
    for month in months:
        await run(
            session,
            f"ALTER TABLE {KEY} DETACH PARTITION {month.table}",
            f"ALTER TABLE readings ATTACH PARTITION {month.table} {month.bounds}",
            f"ALTER TABLE {month.table} DROP CONSTRAINT of_month",
        )
    await run(
        session,
        f"ALTER TABLE {KEY} DETACH PARTITION {_REST}",
        f"DROP TABLE {KEY}",
        f"ALTER TABLE {_REST} RENAME TO {DEFAULT}",
        f"ALTER TABLE readings ATTACH PARTITION {DEFAULT} DEFAULT",
    )
    await session.execute(sa.delete(HubState).where(HubState.key == KEY))
