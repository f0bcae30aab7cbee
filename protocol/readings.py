"""Readings, the batches they travel in, and the names by which batches are receipted.

A *reading* is what a meter said: meter, series, timestamp, value. Its key at the hub is (device, series, timestamp);
the meter's name stands beside the device's UUID for push doors and meters that the hub does not know yet.

A *batch* is a contiguous, immutable run of outbox rows. It is named ``(store, first, last, digest)``; the digest is
taken over the rows as they are stored, so both ends can compute it without encoding anything again.
"""

import datetime as dt
import decimal
import hashlib
import uuid
from collections.abc import Iterable

import msgspec

from protocol.wire import (
    ContractError,
    Digest,
    Instant,
    MeterName,
    Sequence,
    SeriesName,
    StoreId,
    checked_decimal,
    checked_instant,
    decode,
)

STORE_ID_BYTES = 16
DIGEST_BYTES = 16

FROM_METER = "meter"
"""Provenance: the timestamp is the meter's own."""

FROM_GATEWAY = "gateway"
"""Provenance: the meter gave no time; the timestamp is the gateway's UTC when the answer ended."""


class NewMeterReading(msgspec.Struct, frozen=True, array_like=True):
    """One value that a meter gave, as it leaves the gateway.

    ``timestamp`` is when it was measured, ``collected`` when the gateway read it; neither is ever restamped.
    ``clock_offset`` is the meter's clock minus the gateway's at the time of reading, in seconds, where known.
    """

    meter: MeterName
    series: SeriesName
    timestamp: Instant
    value: decimal.Decimal
    unit: str = ""
    device: uuid.UUID | None = None
    collected: Instant | None = None
    provenance: str = FROM_METER
    clock_offset: float | None = None
    run: uuid.UUID | None = None

    def __post_init__(self) -> None:
        """Hold the contract's bounds at construction and at decoding alike."""
        checked_decimal(self.value)
        checked_instant(self.timestamp)
        if self.collected is not None:
            checked_instant(self.collected)


class BatchName(msgspec.Struct, frozen=True, array_like=True):
    """The name of a batch: which store, which rows (both ends included), and what they contained."""

    store: StoreId
    first: Sequence
    last: Sequence
    digest: Digest


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """A contiguous run of outbox rows of one channel (``readings`` or ``report``).

    ``rows`` stay raw so that each is judged by itself: one strange row costs one row.
    """

    name: BatchName
    rows: list[msgspec.Raw]


ReadingBatch = Batch
"""A batch on the channel ``readings``: every row is a NewMeterReading."""


def rows_digest(rows: Iterable[bytes | msgspec.Raw]) -> bytes:
    """Digest of a batch: the first 16 bytes of SHA-256 over the encoded rows, one after another."""
    state = hashlib.sha256()
    for row in rows:
        state.update(row)
    return state.digest()[:DIGEST_BYTES]


def batch_of(store: bytes, first: int, rows: list[bytes]) -> Batch:
    """Name and bundle encoded rows whose sequences run from ``first`` without a gap.

    Raises:
        ContractError: when there is no row.
    """
    if not rows:
        raise ContractError("a batch has at least one row")
    name = BatchName(store, first, first + len(rows) - 1, rows_digest(rows))
    return Batch(name, [msgspec.Raw(row) for row in rows])


def checked_batch(data: bytes) -> Batch:
    """Decode a batch and check that its name fits its rows.

    Raises:
        ContractError: when it is not a batch, or its rows are not those that its name promises.
    """
    batch = decode(data, Batch)
    expected = batch.name.last - batch.name.first + 1
    if len(batch.rows) != expected:
        raise ContractError(f"batch names {expected} rows but has {len(batch.rows)}")
    if rows_digest(batch.rows) != batch.name.digest:
        raise ContractError("the rows of the batch do not have the digest in its name")
    return batch


def utc_milliseconds(instant: dt.datetime) -> dt.datetime:
    """The instant in UTC, cut to milliseconds: the timestamp of a value for which the meter gave none."""
    utc = checked_instant(instant).astimezone(dt.UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


def name_properties(name: BatchName) -> list[tuple[str, str]]:
    """Return the batch's name as MQTT 5 user properties, so that an unreadable batch can still be receipted."""
    return [
        ("store", name.store.hex()),
        ("first", str(name.first)),
        ("last", str(name.last)),
        ("digest", name.digest.hex()),
    ]


def name_from_properties(properties: Iterable[tuple[str, str]]) -> BatchName:
    """Read a batch's name from MQTT 5 user properties; the inverse of ``name_properties``.

    Raises:
        ContractError: when a property is missing or unreadable.
    """
    given = dict(properties)
    try:
        name = BatchName(
            bytes.fromhex(given["store"]),
            int(given["first"]),
            int(given["last"]),
            bytes.fromhex(given["digest"]),
        )
    except KeyError as error:
        raise ContractError(f"the user property {error} of the batch's name is missing") from error
    except ValueError as error:
        raise ContractError(f"the batch's name in the user properties is unreadable: {error}") from error
    if len(name.store) != STORE_ID_BYTES or len(name.digest) != DIGEST_BYTES or not 0 < name.first <= name.last:
        raise ContractError("the batch's name in the user properties is out of bounds")
    return name
