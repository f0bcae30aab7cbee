"""Who may use the REST API: users, the organizations that they belong to, and tokens."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from hub.columns import BigId
from hub.models.base import COUNTED, Base, Dated, Identified


class User(Identified, Base):
    """Somebody who signs in with a password. ``password`` is its hash with all that it needs (``hub.passwords``).

    Sessions that began before ``sessions_since`` have ended.
    """

    __tablename__ = "users"

    username: Mapped[str] = mapped_column(String(150), unique=True)
    password: Mapped[str] = mapped_column(Text)
    is_active: Mapped[bool] = mapped_column(default=True)
    sessions_since: Mapped[dt.datetime]


class Membership(Dated, Base):
    """A user belongs to an organization; without its row, nothing of the organization is there for the user."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("organization", "user"), COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organization: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"))
    user: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)


class Token(Base):
    """A token of staff or of a machine. The key itself is never stored, only its SHA-256.

    ``organization`` is the only one that it opens; None for all. ``scopes`` are of ``hub.scopes``; without one a token
    opens nothing. ``last_used`` is right to the minute.
    """

    __tablename__ = "tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(String(150))
    digest: Mapped[bytes] = mapped_column(unique=True)
    created: Mapped[dt.datetime]
    revoked: Mapped[dt.datetime | None]
    organization: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), index=True
    )
    scopes: Mapped[list[Any]] = mapped_column(default=list)
    expires: Mapped[dt.datetime | None]
    last_used: Mapped[dt.datetime | None]
