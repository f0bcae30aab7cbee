"""What meters are opened with, sealed."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Identified


class MeterSecurityKeys(Identified, Base):
    """The passwords and keys of one meter: ``sealed`` is a JSON object of them, ``stored`` their names."""

    __tablename__ = "meter_security_keys"

    meter: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"), unique=True)
    sealed: Mapped[bytes]
    stored: Mapped[list[Any]] = mapped_column(default=list)
