"""How long readings, events, staged readings and audit entries are kept, and from when on readings are there."""

import datetime as dt
import uuid

from sqlalchemy import ForeignKey, false
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Identified


class RetentionPolicy(Identified, Base):
    """Days for which things are kept; None for ever. Without organization it is the installation's.

    An organization with a policy of its own has nothing of the installation's. ``readings_whole_months``: readings go
    when a whole month of them is old enough.
    """

    __tablename__ = "retention_policies"
    organization: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), unique=True
    )
    readings_days: Mapped[int | None]
    events_days: Mapped[int | None]
    staged_days: Mapped[int | None]
    audit_days: Mapped[int | None]
    readings_whole_months: Mapped[bool] = mapped_column(default=False, server_default=false())


class ReadingsKept(Base):
    """From when on an organization's readings are kept: nothing older is expected, or there for long.

    It never goes back. ``cleared`` once all that is older was deleted.
    """

    __tablename__ = "readings_kept"

    organization: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True
    )
    since: Mapped[dt.datetime]
    cleared: Mapped[bool] = mapped_column(default=False)
