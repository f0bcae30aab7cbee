"""What people set up for meters that push, and what gateways could not take of it."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Identified, owner


class Receiver(Identified, Base):
    """Where a gateway takes in what meters push: ``receiver`` says who takes it apart, ``endpoint`` where it comes."""

    __tablename__ = "receivers"
    __table_args__ = (UniqueConstraint("gateway", "name"),)

    organization: Mapped[uuid.UUID] = owner()
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"))
    name: Mapped[str] = mapped_column(String(100))
    receiver: Mapped[str] = mapped_column(String(100))
    endpoint: Mapped[str] = mapped_column(String(255))
    receiver_kwargs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    is_active: Mapped[bool] = mapped_column(default=True)


receiver_meters = Table(
    "receiver_meters",
    Base.metadata,
    Column("receiver", ForeignKey("receivers.id", ondelete="CASCADE"), primary_key=True),
    Column("device", ForeignKey("meter_devices.id", ondelete="CASCADE"), primary_key=True, index=True),
)


class UndecodablePush(Base):
    """A payload that came through a receiver and is no reading; its first bytes, for people and for a fix."""

    __tablename__ = "undecodable_pushes"
    __table_args__ = (Index("ix_undecodable_pushes_receiver_came", "gateway", "receiver", "came"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"))
    receiver: Mapped[uuid.UUID]
    name: Mapped[str] = mapped_column(Text)
    came: Mapped[dt.datetime]
    cause: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes]
    size: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str] = mapped_column(Text)
    meter: Mapped[str] = mapped_column(Text)
    count: Mapped[int] = mapped_column(Integer)
    received_at: Mapped[dt.datetime]
