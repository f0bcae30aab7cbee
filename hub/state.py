"""What every request of one hub process shares, and the two ways to a session."""

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from litestar import Request
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.passwords import Checker
from hub.rate_limits import Attempts
from hub.session_keys import SessionKeys
from hub.settings import Settings

MOST_EXPORTS = 4
"""Exports at a time in one process: each takes a good part of a processor."""

HubRequest = Request[Any, Any, Any]


@dataclasses.dataclass(slots=True)
class Running:
    """How many of something are under way in this process, and how many may be."""

    most: int
    now: int = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one while the block lasts."""
        self.now += 1
        try:
            yield
        finally:
            self.now -= 1


@dataclasses.dataclass(frozen=True, slots=True)
class Hub:
    """The parts of one process.

    ``usable`` is set once the database was found to be there and of this version. ``relay_ready`` is set while the
    relay of this process is connected; None when it has none. ``relays_only`` says that it has no REST. ``stopping``
    is set when the process is to end: whoever waits for something answers now. ``exports`` are those under way.
    ``session_keys`` are of users' sessions, None where nobody can sign in.
    """

    settings: Settings
    engine: AsyncEngine
    clock: Clock
    relay_ready: asyncio.Event | None = None
    relays_only: bool = False
    usable: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    stopping: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    session_keys: SessionKeys | None = None
    passwords: Checker = dataclasses.field(default_factory=Checker)
    attempts: Attempts = dataclasses.field(default_factory=Attempts)
    exports: Running = dataclasses.field(default_factory=lambda: Running(MOST_EXPORTS))


def hub_of(request: HubRequest) -> Hub:
    """Return the process's parts, as ``create_app`` put them there."""
    hub: Hub = request.app.state.hub
    return hub
