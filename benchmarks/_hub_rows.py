"""What benches of the hub's database share: an engine for the length of a block, the rows of one kind of meter."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import models
from hub.database import create_engine


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    """Open an engine for the length of the block."""
    engine = create_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


async def add_kind(
    session: AsyncSession, config: models.MeterDeviceConfig, series: Sequence[models.ReadingSeries]
) -> uuid.UUID:
    """Add a config with its series, and a type of meters that has it, of the config's dates; return the type's id."""
    session.add_all([config, *series])
    await session.flush()
    await session.execute(sa.insert(models.config_series), [{"config": config.id, "series": one.id} for one in series])
    kind = models.MeterDeviceType(
        organization=config.organization,
        name="EK280",
        manufacturer="Elster",
        manufacturer_model="EK280",
        config=config.id,
        created_at=config.created_at,
        updated_at=config.updated_at,
    )
    session.add(kind)
    await session.flush()
    return kind.id
