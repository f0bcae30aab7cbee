"""The statements that an engine's connections send, whether through SQLAlchemy or by its driver itself."""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine


class Heard:
    """The statements that an engine sends from now on, with their parameters."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statements: list[tuple[str, Any]] = []
        self._drivers: set[int] = set()
        sa.event.listen(engine.sync_engine, "before_cursor_execute", self._hear)
        if engine.dialect.name == "postgresql":
            sa.event.listen(engine.sync_engine, "checkout", self._listen)

    def _hear(self, _connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401 - a driver's
        self._statements.append((statement, parameters))

    def _listen(self, connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's own
        driver = connection.driver_connection
        if id(driver) not in self._drivers:
            self._drivers.add(id(driver))
            driver.add_query_logger(lambda query: self._statements.append((query.query, query.args)))

    async def taken(self) -> list[tuple[str, Any]]:
        """Return what was heard, and forget it."""
        # A driver tells in a turn of the loop of its own.
        await asyncio.sleep(0)
        heard, self._statements = self._statements, []
        return heard
