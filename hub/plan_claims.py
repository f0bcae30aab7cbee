"""Which of several relays publishes a plan: all of them hear of an edit in the same moment, and one is enough.

A relay notes in the gateway's row which revision it is about to publish, and when, by the database's clock; where
another one has just done so it leaves the plan to that one. Nothing depends on it: it is not looked at when what was
published is noted (``hub.plans_kept``), and a claim whose relay died is worth nothing after a while. So a plan that is
published twice is a waste, and one that nobody publishes is late.
"""

import uuid
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

LEASE_SECONDS = 10.0
"""A revision that somebody began to publish so long ago, and that is not noted as published, is anybody's again."""

HEARD_SECONDS = 2.0
"""A gateway whose life sign wants its plan gets none that somebody began to publish so shortly before: all relays hear
the sign, and whoever listens has got it. If it was lost after all the next sign, within a minute, says so."""

ALWAYS = -3600.0
"""As an age: whoever began when."""

# In the order in which everybody locks gateways. Not SKIP LOCKED: a life sign that is being noted locks the row too.
_CLAIM = sa.text("""
UPDATE gateways SET publishing_revision = desired_revision, publishing_at = clock_timestamp()
FROM (
    SELECT g.id FROM gateways AS g
    JOIN unnest(CAST(:gateways AS uuid[]), CAST(:ages AS float8[])) AS owed (gateway, age) ON owed.gateway = g.id
    WHERE g.publishing_revision IS DISTINCT FROM g.desired_revision
        OR g.publishing_at < clock_timestamp() - owed.age * interval '1 second'
    ORDER BY g.gateway_id
    FOR NO KEY UPDATE OF g
) AS mine
WHERE gateways.id = mine.id
RETURNING gateways.id
""")


async def claim(engine: AsyncEngine, owed: Mapping[uuid.UUID, float]) -> Collection[uuid.UUID]:
    """Take the plans of these gateways for this relay; return those that no other one has.

    Args:
        engine: On SQLite there is one relay, and all are its.
        owed: How many seconds ago somebody may have begun to publish the revision that is desired now for it to be
            enough, by gateway.
    """
    if engine.dialect.name != "postgresql":
        return owed.keys()
    async with engine.connect() as connection:
        # One statement is all: no row stays locked while this process does something else.
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        taken = await connection.execute(_CLAIM, {"gateways": list(owed), "ages": list(owed.values())})
        return set(taken.scalars())
