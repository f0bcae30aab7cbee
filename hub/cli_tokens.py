"""What the commands ``metergate-hub token`` do; and how a command does its work in the database."""

import asyncio
import datetime as dt
import getpass
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import click
import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit
from hub.clocks import Clock, system_clock
from hub.database import create_engine, migrate, schema_problem
from hub.models import Organization, Token
from hub.scopes import SCOPES, STAFF
from hub.settings import StartError
from hub.tokens import list_tokens, new_token, revoke_tokens

NOUN = "token"
"""What the audit log calls it, as the resource does."""

_Result = TypeVar("_Result")


class TokenLine(msgspec.Struct, kw_only=True):
    """A token as it is listed. ``key`` is there once, when it is made."""

    name: str
    created: dt.datetime
    state: str
    scopes: list[str]
    organization: uuid.UUID | None
    organization_name: str | None
    expires: dt.datetime | None
    revoked: dt.datetime | None
    last_used: dt.datetime | None
    key: str | msgspec.UnsetType = msgspec.UNSET

    def text(self) -> str:
        """Say it in one line for people and for ``cut``."""
        ended = self.revoked if self.state == "revoked" else self.expires
        state = f"{self.state} {shown(ended)}" if self.state in {"revoked", "expired"} else self.state
        place = self.organization_name if self.organization is not None else "all organizations"
        until, used = shown(self.expires), shown(self.last_used)
        parts = (self.name, shown(self.created), state, ",".join(self.scopes), place, f"until {until}", f"used {used}")
        return "\t".join(str(part) for part in parts)


def shown(instant: dt.datetime | None) -> str:
    """Say an instant to a person."""
    return instant.isoformat(timespec="seconds") if instant is not None else "never"


def author_here() -> audit.Author:
    """Return who changes what a command changes: somebody with a shell on this machine."""
    context = click.get_current_context(silent=True)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user has no name: a container's
        user = str(os.getuid())
    via = context.command_path if context is not None else "metergate-hub"
    return audit.Author("cli", f"{user}@{socket.gethostname()}", via)


def do_in(database: str, work: Callable[[AsyncSession], Awaitable[_Result]], *, fresh: bool = False) -> _Result:
    """Do it in one transaction; on a ``fresh`` database after its tables were made."""

    async def done() -> _Result:
        if fresh:
            await migrate(database)
        engine = create_engine(database)
        try:
            problem = await schema_problem(engine)
            if problem:
                raise StartError(problem)
            async with audit.changing(engine, author_here(), system_clock().now()) as session:
                return await work(session)
        finally:
            await engine.dispose()

    return asyncio.run(done())


async def organization_called(session: AsyncSession, said: str) -> Organization:
    """Return the organization of that name or id.

    Raises:
        StartError: when there is none.
    """
    found = await session.scalar(select(Organization).where(Organization.name == said))
    if found is None:
        try:
            found = await session.get(Organization, uuid.UUID(said))
        except ValueError:
            found = None
    if found is None:
        raise StartError(f"there is no organization {said!r}, by its name or by its id")
    return found


def make_token(
    database: str,
    name: str,
    clock: Clock,
    *,
    organization: str | None,
    scopes: Sequence[str],
    lasts: dt.timedelta | None,
) -> TokenLine:
    """Make a token.

    Raises:
        StartError: when there is no such organization.
    """
    now = clock.now()

    async def work(session: AsyncSession) -> TokenLine:
        owner = await organization_called(session, organization) if organization is not None else None
        token, key = await new_token(
            session,
            name,
            now,
            organization=owner.id if owner is not None else None,
            scopes=scopes,
            expires=now + lasts if lasts is not None else None,
        )
        line = _token_line(token, owner.name if owner is not None else None, now)
        audit.note(session, audit.CREATE, NOUN, token.id, token.organization, after=line)
        line.key = key
        return line

    return do_in(database, work, fresh=True)


def _token_line(token: Token, organization: str | None, now: dt.datetime) -> TokenLine:
    state = "valid"
    if token.revoked is not None:
        state = "revoked"
    elif token.expires is not None and token.expires <= now:
        state = "expired"
    return TokenLine(
        name=token.name,
        created=token.created,
        state=state,
        scopes=token.scopes,
        organization=token.organization,
        organization_name=organization,
        expires=token.expires,
        revoked=token.revoked,
        last_used=token.last_used,
    )


def tokens(database: str, clock: Clock) -> list[TokenLine]:
    """Return all tokens, the oldest first."""

    async def work(session: AsyncSession) -> list[TokenLine]:
        names = {row.id: row.name for row in await session.execute(select(Organization.id, Organization.name))}
        return [
            _token_line(token, names.get(token.organization) if token.organization else None, clock.now())
            for token in await list_tokens(session)
        ]

    return do_in(database, work)


def end_tokens(database: str, name: str, clock: Clock) -> int:
    """End all tokens of that name; return how many.

    Raises:
        StartError: when there is none that is valid.
    """
    now = clock.now()

    async def work(session: AsyncSession) -> int:
        revoked = await revoke_tokens(session, name, now)
        for token in revoked:
            told = {"name": name, "revoked": now}
            audit.note(session, "revoke", NOUN, token.id, token.organization, after=told)
        if not revoked:
            raise StartError(f"there is no valid token called {name!r}; see metergate-hub token list")
        return len(revoked)

    return do_in(database, work)


def scope_problem(scopes: Sequence[str], organization: str | None, *, everywhere: bool) -> str:
    """Say why no token can be made so; nothing when one can."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        return f"--scope {unknown[0]!r} is none of {', '.join(SCOPES)}"
    if organization is not None and (not scopes or STAFF in scopes):
        return "staff opens all organizations: give --organization with other scopes, or leave it out"
    if organization is not None and everywhere:
        return "give --organization or --all-organizations, not both"
    if organization is None and not everywhere and set(scopes) - {STAFF}:
        return "whose data? give --organization NAME, or --all-organizations"
    return ""
