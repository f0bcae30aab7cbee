"""What validation keeps beside the flags on readings: what is still to be judged, and which meter stood there when."""

import datetime as dt
import uuid

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from hub.columns import BigId
from hub.models.base import COUNTED, Base, Identified


class UnjudgedReadings(Base):
    """Readings that came, changed or went in one transaction, as ``spans`` (see ``hub.unjudged``); judged, it goes."""

    __tablename__ = "unjudged_readings"
    __table_args__ = (COUNTED,)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    spans: Mapped[bytes]


class DevicePeriod(Identified, Base):
    """From when until when the meter with one serial number stood at a metering point.

    There are rows only for devices whose meter was replaced; ``since`` is null for the first, ``until`` for the last.
    """

    __tablename__ = "device_periods"
    __table_args__ = (Index("ix_device_periods_meter_device", "meter_device"),)

    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"))
    serial: Mapped[str] = mapped_column(String(50))
    since: Mapped[dt.datetime | None]
    until: Mapped[dt.datetime | None]
