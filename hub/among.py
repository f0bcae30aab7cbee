"""Lists of ids in statements: one parameter for all of them where the database has arrays, one for each elsewhere.

A parameter for each id is rendered, named and sent by itself, again in every statement of a question: with some hundred
ids that is most of the time that a statement takes, and each length of list is another statement to prepare.
"""

from collections.abc import Iterable
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession


def among(session: AsyncSession, column: Any, ids: Iterable[Any]) -> sa.ColumnElement[bool]:  # noqa: ANN401 - a mapped or plain column
    """Return the condition that the column is one of these ids."""
    values = list(ids)
    if session.get_bind().dialect.name != "postgresql":
        return cast("sa.ColumnElement[bool]", column.in_(values))
    return cast("sa.ColumnElement[bool]", column == sa.any_(sa.bindparam(None, values, type_=ARRAY(column.type))))
