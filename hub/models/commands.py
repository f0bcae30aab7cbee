"""Commands: on-demand calls, what becomes of them, those that were asked for together, and requests that come twice."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from hub.columns import BigId
from hub.models.base import COUNTED, Base, Identified, owner


class Command(Identified, Base):
    """An on-demand call and where it stands.

    States are those of ``protocol.commands`` and, before the gateway has answered, ``pending`` and ``sent``.
    ``store_id`` is pinned when the command is first published; ``session``, ``sequence`` are those of the update that
    set the state. ``origin`` is ``hub``, or the caller's name for a direct invocation over MQTT. Of those of one line
    the ones with a higher ``priority`` come first. It is not published before ``send_after``.
    """

    __tablename__ = "commands"
    __table_args__ = (
        Index("ix_commands_state_expires_at", "state", "expires_at"),
        Index("ix_commands_batch_state", "batch", "state"),
        Index("ix_commands_created_at", "created_at", "id"),
    )

    organization: Mapped[uuid.UUID] = owner()
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"), index=True)
    meter_device: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("meter_devices.id", ondelete="SET NULL"))
    meter: Mapped[str] = mapped_column(Text, default="")
    context: Mapped[str] = mapped_column(Text)
    call: Mapped[str] = mapped_column(Text)
    kwargs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    delay_seconds: Mapped[int] = mapped_column(default=0)
    ttl_seconds: Mapped[int]
    state: Mapped[str] = mapped_column(String(20), default="pending")
    cause: Mapped[str] = mapped_column(Text, default="")
    origin: Mapped[str] = mapped_column(Text, default="hub")
    expires_at: Mapped[dt.datetime]
    store_id: Mapped[bytes | None]
    published_at: Mapped[dt.datetime | None]
    session: Mapped[int] = mapped_column(BigInteger, default=0)
    sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    readings: Mapped[list[Any]] = mapped_column(default=list)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    ended_at: Mapped[dt.datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    cancel_published_at: Mapped[dt.datetime | None]
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    batch: Mapped[uuid.UUID | None]
    send_after: Mapped[dt.datetime | None]


class CommandUpdate(Base):
    """The history of a command: every update that came, in whatever order."""

    __tablename__ = "command_updates"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    command: Mapped[uuid.UUID] = mapped_column(ForeignKey("commands.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(Text)
    at: Mapped[dt.datetime]
    session: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    cause: Mapped[str] = mapped_column(Text, default="")


class CommandEvent(Base):
    """A command has come into another state: what is told to those who follow it, in the order of ``number``.

    What they filter by stands here as well, so that one query without a join serves all of them.
    """

    __tablename__ = "command_events"
    __table_args__ = (Index("ix_command_events_command_number", "command", "number"), COUNTED)

    number: Mapped[int] = mapped_column(BigId, primary_key=True)
    command: Mapped[uuid.UUID] = mapped_column(ForeignKey("commands.id", ondelete="CASCADE"))
    organization: Mapped[uuid.UUID]
    gateway: Mapped[uuid.UUID]
    meter_device: Mapped[uuid.UUID | None]
    batch: Mapped[uuid.UUID | None]
    state: Mapped[str] = mapped_column(String(20))
    cause: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[dt.datetime]


class CommandBatch(Identified, Base):
    """One call for many meters: what was asked, of whom, and how many commands that became."""

    __tablename__ = "command_batches"
    __table_args__ = (Index("ix_command_batches_created_at", "created_at"),)

    organization: Mapped[uuid.UUID] = owner()
    task_group: Mapped[uuid.UUID | None]
    gateway: Mapped[uuid.UUID | None]
    context: Mapped[str] = mapped_column(Text)
    call: Mapped[str] = mapped_column(Text)
    kwargs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    delay_seconds: Mapped[int] = mapped_column(default=0)
    ttl_seconds: Mapped[int]
    priority: Mapped[int] = mapped_column(default=0)
    per_second: Mapped[int]
    meters: Mapped[int]
    commands: Mapped[int]
    refused: Mapped[int]
    sent_until: Mapped[dt.datetime]
    cancel_requested: Mapped[bool] = mapped_column(default=False)


class CommandRefusal(Base):
    """A meter of a batch that no command could be made for, and why."""

    __tablename__ = "command_refusals"

    batch: Mapped[uuid.UUID] = mapped_column(ForeignKey("command_batches.id", ondelete="CASCADE"), primary_key=True)
    meter_device: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    meter: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(String(20))
    cause: Mapped[str] = mapped_column(Text)


class IdempotencyKey(Base):
    """A request that its sender may send again: ``target`` is what it made, ``digest`` what it asked for."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("caller", "key"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    caller: Mapped[str] = mapped_column(String(50))
    key: Mapped[str] = mapped_column(String(255))
    digest: Mapped[bytes]
    target: Mapped[uuid.UUID | None]
    created_at: Mapped[dt.datetime] = mapped_column(index=True)
