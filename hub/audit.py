"""Audit: who changed what, when, by which token, user or command, and what it was before and after.

Rules.
- A change and its note are one transaction (``changing``), so there is none without the other. A transaction that
  wrote something and noted nothing is undone and fails: a new operation cannot forget it.
- What is noted is what answers show, never what is stored: secrets are in no answer, so they are in no note. That one
  was changed is said by its name (``CHANGED``).
- Of a change, ``before`` and ``after`` have the fields that differ; of a creation ``after`` has all, of a deletion
  ``before``.
- What gateways deliver, and what the hub does because of an edit (plans, adoption, the ledger), is no change of
  somebody's: readings, reports and runs are their own record.
"""

import dataclasses
import datetime as dt
import itertools
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction

from hub.access import access_of
from hub.database import writing
from hub.models import AuditEntry
from hub.state import HubRequest

CHANGED = "changed"
"""What is told of a secret."""

CREATE, CHANGE, DELETE = "create", "change", "delete"
"""The actions that all resources have; others are words of their own, such as ``cancel``."""

_TRAIL = "audit"
_LONGEST_VIA = 300
_UNTOLD = frozenset({"updated_at"})
"""Fields that differ after every change: when it was is the entry's own ``at``."""

Shown = msgspec.Struct | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change. ``kind`` is ``token``, ``user``, ``cli`` or ``hub``; ``id`` is a token's or a user's."""

    kind: str
    name: str
    via: str
    id: uuid.UUID | None = None
    address: str | None = None


def author_of(request: HubRequest) -> Author:
    """Return who changes what a request changes."""
    access = access_of(request)
    kind, key = ("user", access.user) if access.user is not None else ("token", access.token)
    address = request.client.host if request.client is not None else None
    return Author(kind, access.name, f"{request.method} {request.url.path}"[:_LONGEST_VIA], key, address)


def the_hub(what: str) -> Author:
    """Return the author of what the hub does by itself because somebody has ruled so once, such as retention."""
    return Author("hub", "hub", what)


class UnnotedError(RuntimeError):
    """A transaction changed something and noted nothing. This is a bug of the operation."""


@dataclasses.dataclass(slots=True)
class _Trail:
    """What a transaction has done so far."""

    author: Author
    now: dt.datetime
    wrote: bool = False
    noted: bool = False


@asynccontextmanager
async def changing(engine: AsyncEngine, author: Author, now: dt.datetime) -> AsyncIterator[AsyncSession]:
    """Open a session and one transaction, as ``writing`` does, in which every change is noted as the author's.

    Raises:
        UnnotedError: when the block changed something and noted nothing; nothing is changed then.
    """
    async with writing(engine) as session:
        trail = _Trail(author, now)
        session.info[_TRAIL] = trail
        _watch(session.sync_session, trail)
        yield session
        await session.flush()
        if trail.wrote and not trail.noted:
            raise UnnotedError(f"{author.via} changed something that no audit entry tells of: it needs audit.note")


def _watch(session: Session, trail: _Trail) -> None:
    def flushed(within: Session, _context: UOWTransaction) -> None:
        # With thousands of rows to look at: no further than to the first that tells.
        modified = (row for row in within.dirty if within.is_modified(row))
        rows = itertools.chain(within.new, within.deleted, modified)
        trail.wrote = trail.wrote or any(not isinstance(row, AuditEntry) for row in rows)

    def executed(state: ORMExecuteState) -> None:
        trail.wrote = trail.wrote or state.is_insert or state.is_update or state.is_delete

    event.listen(session, "after_flush", flushed)
    event.listen(session, "do_orm_execute", executed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What is done to one object.

    ``organization`` is whose the object is: only who sees that organization, or all, will see the entry. ``before`` and
    ``after`` are answers of the API, or what of them there is to tell; with both, the fields that differ are kept.
    ``secrets`` are names of fields that were changed and are not shown.
    """

    action: str
    object_id: uuid.UUID | int | None
    organization: uuid.UUID | None
    before: Shown = None
    after: Shown = None
    secrets: Iterable[str] = ()


def note(
    session: AsyncSession,
    action: str,
    kind: str,
    object_id: uuid.UUID | int | None,
    organization: uuid.UUID | None,
    *,
    before: Shown = None,
    after: Shown = None,
    secrets: Iterable[str] = (),
) -> None:
    """Note a change, of which ``Noted`` says the parts, in the session of its transaction; ``kind`` is a noun.

    Raises:
        LookupError: when the session is not one of ``changing``.
    """
    trail: _Trail = session.info[_TRAIL]
    noted = Noted(
        action=action,
        object_id=object_id,
        organization=organization,
        before=before,
        after=after,
        secrets=secrets,
    )
    session.add(AuditEntry(**_values(trail, kind, noted)))
    trail.noted = True


async def note_many(session: AsyncSession, kind: str, noted: Iterable[Noted]) -> None:
    """Note many changes of one kind of object at once, in the session of their transaction.

    Raises:
        LookupError: when the session is not one of ``changing``.
    """
    trail: _Trail = session.info[_TRAIL]
    rows = [_values(trail, kind, one) for one in noted]
    if rows:
        await session.execute(insert(AuditEntry), rows)
    trail.noted = True


def _values(trail: _Trail, kind: str, noted: Noted) -> dict[str, Any]:
    old, new = _plain(noted.before), _plain(noted.after)
    if old is not None and new is not None:
        names = [name for name in {**old, **new} if old.get(name) != new.get(name) and name not in _UNTOLD]
        old, new = ({name: told[name] for name in names if name in told} for told in (old, new))
    hidden = dict.fromkeys(noted.secrets, CHANGED)
    return {
        "at": trail.now,
        "organization": noted.organization,
        "actor_kind": trail.author.kind,
        "actor": trail.author.id,
        "actor_name": trail.author.name,
        "address": trail.author.address,
        "via": trail.author.via,
        "action": noted.action,
        "kind": kind,
        "object_id": str(noted.object_id) if noted.object_id is not None else None,
        "before": old,
        "after": {**(new or {}), **hidden} if hidden else new,
    }


def author_in(session: AsyncSession) -> Author | None:
    """Return whose changes the session's are; None where it is not one of ``changing``."""
    trail: _Trail | None = session.info.get(_TRAIL)
    return None if trail is None else trail.author


def note_nothing(session: AsyncSession) -> None:
    """Say that this transaction writes nothing that anybody asks for: a hash made anew, what a look brings along."""
    trail: _Trail = session.info[_TRAIL]
    trail.noted = True


def _plain(shown: Shown) -> dict[str, Any] | None:
    if shown is None:
        return None
    told: dict[str, Any] = msgspec.to_builtins(shown)
    return told
