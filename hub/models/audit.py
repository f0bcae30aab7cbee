"""Who changed what: one row for each change that people and programs made, which nobody changes any more."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hub.columns import BigId
from hub.models.base import COUNTED, Base


class AuditEntry(Base):
    """One change. It outlives what it is about, so it refers to nothing: ids are kept as they were.

    ``organization`` is whose the object is, None for what only staff has. ``actor`` is the id of the token or user;
    commands and the hub itself have none. ``via`` is the request, or the command, that it came with.
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_organization_at", "organization", "at", "id"),
        Index("ix_audit_at", "at", "id"),
        Index("ix_audit_actor_name", "actor_name", "at", "id"),
        Index("ix_audit_kind_object", "kind", "object_id", "at", "id"),
        COUNTED,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[dt.datetime]
    organization: Mapped[uuid.UUID | None]
    actor_kind: Mapped[str] = mapped_column(String(10))
    actor: Mapped[uuid.UUID | None]
    actor_name: Mapped[str] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(Text)
    via: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(50))
    kind: Mapped[str] = mapped_column(String(50))
    object_id: Mapped[str | None] = mapped_column(Text)
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
