"""What meters are opened with, sealed: for the hub, and for the gateways that need it."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Identified


class MeterSecurityKeys(Identified, Base):
    """The passwords and keys of one meter: ``sealed`` is a JSON object of them, ``stored`` their names.

    ``generation`` rises with each change of them; a rotation of the hub's own key is none.
    """

    __tablename__ = "meter_security_keys"

    meter: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"), unique=True)
    sealed: Mapped[bytes]
    stored: Mapped[list[Any]] = mapped_column(default=list)
    generation: Mapped[int] = mapped_column(default=0)


class SealedMeterKeys(Base):
    """The DLMS keys of one meter as the plan of one gateway carries them (``hub.sealed_keys``).

    ``generation`` is that of the keys when they were sealed, ``sealed_for`` the gateway's sealing key then. Where
    they could not be sealed ``problem`` says why, and ``sealed`` is empty.
    """

    __tablename__ = "sealed_meter_keys"

    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"), primary_key=True)
    keys: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("meter_security_keys.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    generation: Mapped[int]
    sealed_for: Mapped[bytes]
    sealed: Mapped[bytes]
    problem: Mapped[str] = mapped_column(Text)
    sealed_at: Mapped[dt.datetime]
