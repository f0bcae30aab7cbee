"""What is expected, what of it is there, and what is lost for good: the ledger's tables.

Never a row per slot: a chunk is a row of bits. What the bits mean is in ``hub.ledger_chunks``.
"""

import datetime as dt
import uuid

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from hub.columns import BigId
from hub.models.base import COUNTED, Base


class LedgerRaster(Base):
    """A raster (``protocol.rasters``) of one organization: what expectations point to, so that chunks stay small.

    ``momentary``: values have no time of their own, and the latest slot at or before the reading is the one it fills.
    """

    __tablename__ = "ledger_rasters"
    __table_args__ = (
        UniqueConstraint(
            "organization", "interval", "anchor_seconds", "zone", "momentary", name="uq_ledger_rasters_all"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    organization: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"))
    interval: Mapped[str] = mapped_column(String(20))
    anchor_seconds: Mapped[int] = mapped_column(default=0)
    zone: Mapped[str] = mapped_column(String(64), default="UTC")
    momentary: Mapped[bool] = mapped_column(default=False)


class Expectation(Base):
    """One series of one meter is expected on one raster, from ``since_slot`` on, up to ``until_slot`` (both included).

    ``origin`` is ``config`` (the meter's config says so), ``archive`` or ``task`` (a task brings it); ``archive`` is
    the meter's archive that can be asked for it again. ``rebuilding``: its chunks are not to be believed, because they
    were just made or what is expected was changed; a clerk makes them anew from the readings.
    """

    __tablename__ = "expectations"
    __table_args__ = (
        Index("ix_expectations_device_series", "device", "series"),
        # Totals of many meters are counted in the index alone.
        Index("ix_expectations_raster", "raster", "since_slot", "until_slot"),
        Index(
            "ix_expectations_ended",
            "raster",
            "until_slot",
            sqlite_where=text("until_slot IS NOT NULL"),
            postgresql_where=text("until_slot IS NOT NULL"),
        ),
        Index("ix_expectations_rebuilding", "id", sqlite_where=text("rebuilding"), postgresql_where=text("rebuilding")),
        COUNTED,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"))
    series: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_reading_series.id", ondelete="CASCADE"), index=True)
    raster: Mapped[int] = mapped_column(ForeignKey("ledger_rasters.id"))
    origin: Mapped[str] = mapped_column(String(10))
    archive: Mapped[int | None]
    since_slot: Mapped[int] = mapped_column(BigInteger)
    until_slot: Mapped[int | None] = mapped_column(BigInteger)
    rebuilding: Mapped[bool] = mapped_column(default=True)


class ExpectationMark(Base):
    """Something was edited that a meter's expectations follow from; a clerk makes them again and removes the mark."""

    __tablename__ = "expectation_marks"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    device: Mapped[uuid.UUID]


class LedgerPending(Base):
    """Keys of readings that a transaction made or removed and no clerk has folded yet (``hub.ledger_pending``).

    With ``raster`` and ``chunk``: a chunk that was deleted, whoever did it, with its bits as ``keys``. A trigger on
    ``ledger_chunks`` notes it, so that the sums lose what goes with a meter, too.
    """

    __tablename__ = "ledger_pending"
    __table_args__ = (COUNTED,)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    keys: Mapped[bytes]
    removed: Mapped[bool] = mapped_column(default=False)
    raster: Mapped[int | None]
    chunk: Mapped[int | None]


class LedgerChunk(Base):
    """Which slots of one expectation are stored, some thousand slots in a row: one bit each.

    ``state`` says where to look for those that are not (``hub.ledger_chunks.Filling``).
    """

    __tablename__ = "ledger_chunks"
    __table_args__ = (
        Index("ix_ledger_chunks_raster_chunk", "raster", "chunk"),
        # Short, because what is past is whole; a row changes it seldom, so that PostgreSQL writes its bits in place.
        Index(
            "ix_ledger_chunks_unfilled",
            "raster",
            "chunk",
            "state",
            sqlite_where=text("state <> 0"),
            postgresql_where=text("state <> 0"),
        ),
        {"postgresql_with": {"fillfactor": 80}},
    )

    expectation: Mapped[int] = mapped_column(
        BigId, ForeignKey("expectations.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    raster: Mapped[int]
    state: Mapped[int] = mapped_column(SmallInteger)
    bits: Mapped[bytes] = mapped_column(LargeBinary)


class LedgerSum(Base):
    """All chunks of one raster with one number, put together: how many of them have each slot (``hub.ledger_sums``).

    ``chunks``: how many rows there are. ``everyone``: each expectation that has a slot in it has its row, if only one
    without bits.
    """

    __tablename__ = "ledger_sums"

    raster: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    chunks: Mapped[int]
    everyone: Mapped[bool]
    planes: Mapped[bytes] = mapped_column(LargeBinary)


class LedgerSettled(Base):
    """A span of one expectation that is lost for good, from ``start`` to ``end`` (both included), and how we know.

    By instants, because slots are other ones when the raster is changed. What is stored later after all counts.
    """

    __tablename__ = "ledger_settled"
    __table_args__ = (Index("ix_ledger_settled_expectation_start", "expectation", "start"), COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    expectation: Mapped[int] = mapped_column(BigId, ForeignKey("expectations.id", ondelete="CASCADE"))
    start: Mapped[dt.datetime]
    end: Mapped[dt.datetime]
    evidence: Mapped[str] = mapped_column(Text)
    command: Mapped[uuid.UUID | None]
    created_at: Mapped[dt.datetime]
