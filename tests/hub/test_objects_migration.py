"""Names that were not unique before are told apart by the migration that makes them so; nothing else changes."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.migrating import move
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, make_estate

__all__ = ["database_url", "engine"]


async def test_the_oldest_keeps_its_name(engine: AsyncEngine) -> None:
    one, other = await make_estate(engine, gateway_id="a"), await make_estate(engine, gateway_id="b")
    long = "x" * 50
    names = ["all", "all", "all (2)", long, long, "All", "all"]
    await move(engine, "0010")
    async with engine.begin() as connection:
        for owner in (one.organization, other.organization):
            for number, name in enumerate(names):
                values = {
                    "organization": owner,
                    "name": name,
                    "description": str(number),
                    "created_at": NOW.replace(minute=number),
                    "updated_at": NOW,
                }
                await connection.execute(sa.insert(models.AmrTaskGroup).values(values))
    await move(engine)
    async with engine.begin() as connection:
        for owner in (one.organization, other.organization):
            found = await connection.scalars(
                sa.select(models.AmrTaskGroup.name)
                .where(models.AmrTaskGroup.organization == owner)
                .order_by(models.AmrTaskGroup.created_at)
            )
            assert found.all() == ["all", "all (3)", "all (2)", long, f"{long} (2)", "All", "all (4)"]
