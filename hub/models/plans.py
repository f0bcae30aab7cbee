"""The plans that gateways were given: the last ones of each, as they were or would have been sent."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base


class GatewayPlan(Base):
    """One revision of a gateway's plan. ``body`` is the document as it is signed and published, compressed.

    ``made_at`` is when an edit made it, ``made_by`` whose that was and ``made_via`` by what; both null where that is
    not known. ``published_at`` and ``applied_at`` are when it first was; ``problems`` are those that the gateway told
    when it applied it, null until then.
    """

    __tablename__ = "gateway_plans"

    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    digest: Mapped[bytes]
    body: Mapped[bytes]
    made_at: Mapped[dt.datetime]
    made_by: Mapped[str | None] = mapped_column(String(200))
    made_via: Mapped[str | None] = mapped_column(Text)
    published_at: Mapped[dt.datetime | None]
    applied_at: Mapped[dt.datetime | None]
    problems: Mapped[list[Any] | None]
