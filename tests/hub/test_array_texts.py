"""Arrays as PostgreSQL writes them: what is told so is what arrives, whatever stands in a text."""

import uuid

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import array_texts
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine

__all__ = ["database_url", "engine"]

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
STRANGE = ["", "NULL", "null", '"', "\\", '\\"', "{", "}", ",", " ", "a b", "\n", "it's", "m³"]


@ONLY_POSTGRESQL
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS | st.sampled_from(STRANGE), max_size=20), st.lists(st.uuids(), max_size=20))
async def test_what_is_told_arrives(engine: AsyncEngine, texts: list[str], ids: list[uuid.UUID]) -> None:
    asked = sa.text("SELECT CAST(CAST(:texts AS text) AS text[]), CAST(CAST(:ids AS text) AS uuid[])")
    told = {"texts": array_texts.of_texts(texts), "ids": array_texts.of_ids(ids)}
    async with engine.connect() as connection:
        heard = (await connection.execute(asked, told)).one()
    assert (heard[0], [uuid.UUID(str(one)) for one in heard[1]]) == (texts, ids)
