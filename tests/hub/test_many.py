"""Many rows inserted at once on both databases: as one after the other, and a repetition changes nothing."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import reading, writing
from hub.many import insert_many
from hub.models import GatewayPlan
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, make_estate

__all__ = ["database_url", "engine"]

KEY = ("gateway", "revision")
PROBLEMS = [{"kind": "task", "item": 'it\'s "{so}", \\ NULL', "text": ""}]


async def kept(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    told = sa.select(
        GatewayPlan.revision, GatewayPlan.body, GatewayPlan.made_by, GatewayPlan.published_at, GatewayPlan.problems
    )
    async with reading(engine) as session:
        return [tuple(row) for row in await session.execute(told.order_by(GatewayPlan.revision))]


async def test_what_is_there_stays_and_the_rest_comes_with_all_its_values(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)

    def row(revision: int, body: bytes, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - values of columns
        fixed = {"gateway": estate.gateway, "revision": revision, "digest": bytes(16), "body": body, "made_at": NOW}
        return fixed | {"made_by": None, "published_at": None, "problems": None} | more

    async with writing(engine) as session:
        await insert_many(session, GatewayPlan, KEY, [])
        await insert_many(session, GatewayPlan, KEY, [row(2, b"\x00\xff")])
    told = {"made_by": 'user {"a", NULL}', "published_at": NOW, "problems": PROBLEMS}
    async with writing(engine) as session:
        await insert_many(
            session, GatewayPlan, KEY, [row(3, b"", **told), row(1, b"a"), row(2, b"other"), row(1, b"b")]
        )
    assert await kept(engine) == [
        (1, b"b", None, None, None),
        (2, b"\x00\xff", None, None, None),
        (3, b"", 'user {"a", NULL}', NOW, PROBLEMS),
    ]
    async with reading(engine) as session:
        without = sa.select(sa.func.count()).select_from(GatewayPlan).where(GatewayPlan.problems.is_(None))
        assert await session.scalar(without) == 2
