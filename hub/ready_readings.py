"""Plain readings that are made ready before SQLite's one writer has its turn, and in it are found to be so still.

What is looked up of their meters, and what is made of it (``hub.plain_readings``: columns, notes for the clerks), is
most of the hub's own work for a group of batches. In the turn nothing is believed of it: the database is asked once
more for all that it was made from, in one statement whose answer is compared as text. When it is not the same to the
letter (a meter has another type, a config another series, a gateway was assigned), all is done again in the turn.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from hub.judging import Directory, look_up
from hub.plain_readings import Columns, Plain, meters_of

Batch = tuple[uuid.UUID, Plain]
"""A gateway, and what it brought."""

# All that ``hub.judging.Directory`` reads for them.
_SAME = """
    WITH meters AS MATERIALIZED (
        SELECT d.id, d.organization, t.config, n.gateway
        FROM json_each(?1) k CROSS JOIN meter_devices d ON d.id = k.value
        LEFT JOIN meter_device_types t ON t.id = d.type
        LEFT JOIN network_interfaces n ON n.id = d.network_interface
    )
    SELECT
        (SELECT json_group_array(json_array(id, organization, config, gateway)) FROM meters),
        (SELECT json_group_array(json_array(g.device, g.gateway))
         FROM json_each(?1) k CROSS JOIN device_gateways g ON g.device = k.value),
        (SELECT json_group_array(json_array(c.config, s.id, s.name, s.organization))
         FROM (SELECT DISTINCT config FROM meters) m CROSS JOIN config_series c ON c.config = m.config
         CROSS JOIN meter_reading_series s ON s.id = c.series)
"""


@dataclasses.dataclass(slots=True)
class Ready:
    """Plain batches as they are stored."""

    batches: list[Batch]
    directory: Directory
    columns: Columns
    taken: list[bool]
    """Whether the columns have it: all its rows may be readings."""
    told: tuple[str, ...] = ()
    """What the database said of their meters."""

    async def is_still_so(self, session: AsyncSession, batches: Sequence[Batch]) -> bool:
        """Whether it was made of just these batches, and would be made alike in the caller's transaction."""
        if len(batches) != len(self.batches):
            return False
        alike = zip(batches, self.batches, strict=True)
        if not all(gateway == known and one is made for (gateway, one), (known, made) in alike):
            return False
        return self.told == await _told(session, self.batches)


async def make_ready(session: AsyncSession, batches: list[Batch], now: dt.datetime) -> Ready:
    """Look up and make what is to be stored; ``session`` reads one snapshot."""
    told = await _told(session, batches)
    directory = await look_up(session, (), meters_of(one for _, one in batches), {gateway for gateway, _ in batches})
    columns = Columns(now)
    taken = []
    for gateway, one in batches:
        # Whoever else waits for this process has a turn.
        await asyncio.sleep(0)
        taken.append(columns.add(one, directory, gateway))
    await columns.make_notes()
    return Ready(batches, directory, columns, taken, told)


async def _told(session: AsyncSession, batches: Sequence[Batch]) -> tuple[str, ...]:
    devices: set[bytes] = set()
    for _, one in batches:
        devices.update(one.devices)
    connection = await session.connection()
    asked = json.dumps([device.hex() for device in sorted(devices)])
    return tuple((await connection.exec_driver_sql(_SAME, (asked,))).one())
