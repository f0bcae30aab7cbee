"""What is kept of gateways' life signs in their rows: read and locked for many at once, and written for many at once.

A sign that says nothing new is the most frequent thing that a relay hears: no object of the session is made for it,
and of its row only what each sign changes is written.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.among import among
from hub.many import update_many
from hub.models import Gateway


@dataclasses.dataclass(slots=True)
class Known:
    """What the hub knows of a gateway that has spoken; the names are those of ``hub.models.Gateway``.

    ``lines`` is None where it has none, and otherwise only there when it was said just now.
    """

    id: uuid.UUID
    gateway_id: str
    public_key: bytes | None
    content_digest: bytes | None
    desired_revision: int
    published_revision: int
    published_digest: bytes | None
    applied_session: int
    applied_sequence: int
    applied_revision: int
    applied_digest: bytes | None
    session: int
    online: bool
    last_seen: dt.datetime | None
    store_id: bytes | None
    said_at: dt.datetime | None
    readings_through: int
    reports_through: int
    depth: int
    oldest: dt.datetime | None
    software: str
    clock_believed: bool
    status: str
    sealing_key: bytes | None
    keys_wanted: bool
    rival_store: bytes | None
    rival_said_at: dt.datetime | None
    rival_returns: int
    rival_key: bytes | None
    rival_at: dt.datetime | None
    past_stores: list[Any]
    has_lines: bool
    lines: list[Any] | None = None
    spoke: bool = False
    """Whether anything of it is to be written."""
    before: "tuple[object, ...]" = ()


_READ = [field.name for field in dataclasses.fields(Known)[:-4]]
_OFTEN = (
    *("applied_session", "applied_sequence", "applied_revision", "applied_digest", "session", "online", "last_seen"),
    *("store_id", "said_at", "readings_through", "reports_through", "depth", "oldest"),
)
"""What nearly each sign says anew, or what it costs nothing to write with that."""

_SELDOM = (
    *("public_key", "software", "clock_believed", "status", "sealing_key", "keys_wanted"),
    *("rival_store", "rival_said_at", "rival_returns", "rival_key", "rival_at", "past_stores"),
)
_MORE = sa.cast(Gateway.lines, sa.Text) != "[]"
_COLUMNS = [*(getattr(Gateway, name) for name in _READ), _MORE.label("has_lines")]


def _seldom(known: Known) -> tuple[object, ...]:
    return tuple(getattr(known, name) for name in _SELDOM)


async def read_known(session: AsyncSession, gateways: Collection[str]) -> dict[str, Known]:
    """Return the gateways with these ids in topics, locked in one order until the transaction ends."""
    rows = await session.execute(
        sa.select(*_COLUMNS)
        .where(among(session, Gateway.gateway_id, gateways))
        .order_by(Gateway.gateway_id)
        # Not FOR UPDATE: ingestion holds key shares of gateways, and the two would form a ring.
        .with_for_update(key_share=True)
    )
    found = [Known(*row) for row in rows]
    for known in found:
        known.past_stores = known.past_stores or []
        known.before = _seldom(known)
    return {known.gateway_id: known for known in found}


async def read_again(session: AsyncSession, found: Iterable[Known]) -> None:
    """Look again which plans these gateways should have: that was changed in this transaction."""
    by_id = {known.id: known for known in found}
    if not by_id:
        return
    names = ("content_digest", "desired_revision", "published_revision", "published_digest")
    columns = [getattr(Gateway, name) for name in names]
    for row in await session.execute(sa.select(Gateway.id, *columns).where(among(session, Gateway.id, by_id))):
        for name, value in zip(names, row[1:], strict=True):
            setattr(by_id[row.id], name, value)


async def write_known(session: AsyncSession, found: Iterable[Known], now: dt.datetime) -> None:
    """Write what was said, of those that spoke."""
    spoke = [known for known in found if known.spoke]
    often, seldom, lines = [], [], []
    for known in spoke:
        row = {"id": known.id, "updated_at": now} | {name: getattr(known, name) for name in _OFTEN}
        if _seldom(known) == known.before:
            often.append(row)
        else:
            seldom.append(row | {name: getattr(known, name) for name in _SELDOM})
        if known.lines or (known.lines is not None and known.has_lines):
            lines.append({"id": known.id, "lines": known.lines})
    for rows in (often, seldom, lines):
        await update_many(session, Gateway, ("id",), rows)
