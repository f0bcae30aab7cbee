"""``metergate-hub keys``: the keys that secrets in the database are sealed for (``hub.secrets_ring``)."""

import asyncio
from pathlib import Path

from hub.cli_tokens import author_here
from hub.clocks import system_clock
from hub.database import create_engine, schema_problem
from hub.keys import read_key
from hub.secrets_ring import Ring, ring_file
from hub.secrets_rotation import Rotated, rotate
from hub.settings import StartError


def rotate_keys(database: str, hub_key_file: Path) -> Rotated:
    """Seal every secret of the database for a new key.

    Raises:
        StartError: when the database is not of this version.
        KeyFileError: when a key file cannot be used.
    """
    return asyncio.run(_rotate(database, Ring(read_key(hub_key_file), ring_file(hub_key_file))))


async def _rotate(database: str, ring: Ring) -> Rotated:
    engine = create_engine(database)
    try:
        problem = await schema_problem(engine)
        if problem:
            raise StartError(problem)
        return await rotate(engine, ring, author_here(), system_clock().now())
    finally:
        await engine.dispose()
