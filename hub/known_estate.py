"""What ingestion knows of gateways, meters and series from one transaction to the next, for as long as it is still so.

Whatever readings are judged by (``hub.judging``, ``hub.known_gateways``) has triggers that count its changes, whoever
makes them: a request, a sheet, another version of this program, a person with a database's shell (migration 0023). A
transaction asks for that count before anything else. Is it the one that was kept, it uses what was kept, and looks up
only what nobody has asked for yet; else it begins anew with nothing.

Rules:
- What is kept under a count was read after it, when everything that was counted by then had ended. What is changed
  between the two is counted higher, so whoever asks next begins anew: what is kept may be newer than its count says,
  never older.
- On PostgreSQL the count is a sequence's, which does not wait for a commit: so a change has a shared lock from before
  it is counted until its transaction ends, and while anybody has that lock nothing is kept. Nobody ever waits for it.
  A server that was started anew has another count, whatever its number (a standby that took over lacks the last ones),
  and so has a sequence that was made anew (a dump that was put back, a schema that went down and up). One that has
  crashed may count again what was rolled back: nothing is believed over a new connection.
- What is looked up after the lock was asked for must be what is committed by then: READ COMMITTED, no other level.
- On SQLite the count is a row's: who has the one writer's turn, or a snapshot, sees what belongs to it.
"""

import uuid
import weakref
from collections.abc import Iterable
from typing import Final

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.judging import Directory, look_up
from hub.known_gateways import KnownGateway, read_gateways

KEPT: Final = 20_000
"""How many meters and gateways are kept, at most; then all are forgotten. A meter with ten series takes 1.6 kB."""

CHANGES: Final = "estate_changes"
"""The name of the count: a sequence's on PostgreSQL, a key's in ``hub_state`` on SQLite."""

LOCK: Final = 0x6D637265
"""PostgreSQL's advisory lock that a change has: the first of its two keys."""

_PG_COUNT = text(f"SELECT tableoid, last_value, is_called, pg_postmaster_start_time() FROM {CHANGES}")  # noqa: S608 - our own name
_SQLITE_COUNT = text(f"SELECT value FROM hub_state WHERE key = '{CHANGES}'")  # noqa: S608 - as above
_PG_CHANGING = text(f"""
    SELECT EXISTS (
        SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.classid = {LOCK}
    )
""")  # noqa: S608 - our own number


class Estate:
    """Gateways and meters as they are in a transaction. Nothing in it is changed by who uses it."""

    def __init__(self) -> None:
        self._gateways: dict[str, KnownGateway | None] = {}
        self._meters: set[bytes] = set()
        self._directory = Directory()

    @property
    def size(self) -> int:
        """How much it has, in gateways and meters."""
        # Of those that there are not, the directory knows nothing until a gateway asks for them.
        return len(self._gateways) + max(len(self._meters), self._directory.size)

    async def gateways(self, session: AsyncSession, names: Iterable[str]) -> dict[str, KnownGateway]:
        """Return those of the gateways that there are, by their ids in topics."""
        names = set(names)
        new = names - self._gateways.keys()
        if new:
            found = await read_gateways(session, new)
            self._gateways |= {name: found.get(name) for name in new}
        return {name: one for name in names if (one := self._gateways[name]) is not None}

    async def meters(self, session: AsyncSession, devices: set[bytes]) -> Directory:
        """Return what judges gateways' readings of these meters."""
        new = devices - self._meters
        if new:
            found = await look_up(session, (), {uuid.UUID(bytes=device) for device in new})
            self._directory.take(found)
            self._meters |= new
        return self._directory


class KnownEstate:
    """What a process keeps of one database's estate."""

    def __init__(self) -> None:
        self._count: object = None
        self._kept = Estate()

    def forget(self, *_connection: object) -> None:
        """Begin anew, because a connection is new: the server may have crashed, and count again what it counted."""
        self._count = None

    async def now(self, session: AsyncSession) -> Estate:
        """Return the estate as it is in this transaction, which has not changed anything of it itself."""
        connection = await session.connection()
        postgresql = connection.dialect.name == "postgresql"
        row = (await connection.execute(_PG_COUNT if postgresql else _SQLITE_COUNT)).one_or_none()
        count = tuple(row) if row is not None else None
        if count is None or count != self._count:
            # After the count: who is counted by then and not seen here has ended.
            if count is None or (postgresql and (await connection.execute(_PG_CHANGING)).scalar_one()):
                return Estate()
            self._count, self._kept = count, Estate()
        elif self._kept.size > KEPT:
            self._kept = Estate()
        return self._kept


_known: weakref.WeakKeyDictionary[object, KnownEstate] = weakref.WeakKeyDictionary()


def known_estate_of(engine: AsyncEngine) -> KnownEstate:
    """Return what this process keeps of the database's estate."""
    known = _known.get(engine.sync_engine)
    if known is None:
        known = _known[engine.sync_engine] = KnownEstate()
        event.listen(engine.sync_engine, "connect", known.forget)
    return known
