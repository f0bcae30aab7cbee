"""Readings, the batches they travel in, and the names by which batches are receipted.

A *reading* is what a meter said: meter, series, timestamp, value. Its key at the hub is (device, series, timestamp);
the meter's name stands beside the device's UUID for push doors and meters that the hub does not know yet.

A *batch* is a contiguous, immutable run of outbox rows. It is named ``(store, first, last, digest)``; the digest is
taken over the rows as they are stored, so both ends can compute it without encoding anything again.
"""

import datetime as dt
import decimal
import hashlib
import math
import re
import uuid
from collections.abc import Iterable

import msgspec

from protocol.wire import (
    Checked,
    ContractError,
    Digest,
    Instant,
    MeterName,
    Sequence,
    SeriesName,
    StoreId,
    Word,
    checked_decimal,
    checked_instant,
    decode,
)

STORE_ID_BYTES = 16
DIGEST_BYTES = 16
MAX_SEQUENCE = 2**63 - 1

FROM_METER = "meter"
"""Provenance: the timestamp is the meter's own."""

FROM_GATEWAY = "gateway"
"""Provenance: the meter gave no time; the timestamp is the gateway's UTC when the answer ended."""

FROM_PUSH = "push"
"""Provenance: the meter said it unasked; the timestamp is its own."""


class NewMeterReading(Checked, frozen=True, array_like=True):
    """One value that a meter gave, as it leaves the gateway.

    ``timestamp`` is when it was measured, ``collected`` when the gateway read it; neither is ever restamped.
    ``clock_offset`` is the meter's clock minus the gateway's at the time of reading, in seconds, where known.
    """

    meter: MeterName
    series: SeriesName
    timestamp: Instant
    value: decimal.Decimal
    unit: Word = ""
    device: uuid.UUID | None = None
    collected: Instant | None = None
    provenance: Word = FROM_METER
    clock_offset: float | None = None
    run: uuid.UUID | None = None

    def __post_init__(self) -> None:
        """Hold the contract's bounds at construction and at decoding alike."""
        # Spelled out, not super(): this is what the hub's speed of ingestion hangs on.
        if "\0" in self.meter or "\0" in self.series or "\0" in self.unit or "\0" in self.provenance:
            raise ContractError(f"the reading of {self.meter!r}, {self.series!r} contains the character NUL")
        if self.clock_offset is not None and not math.isfinite(self.clock_offset):
            raise ContractError("clock_offset is NaN or infinite; only finite numbers are allowed")
        checked_instant(self.timestamp)
        if self.collected is not None:
            checked_instant(self.collected)
        checked_decimal(self.value)


class BatchName(msgspec.Struct, frozen=True, array_like=True):
    """The name of a batch: which store, which rows (both ends included), and what they contained."""

    store: StoreId
    first: Sequence
    last: Sequence
    digest: Digest

    def __post_init__(self) -> None:
        """Refuse a name that no store gives: its sequences start at 1, and a batch has at least one row."""
        if not 0 < self.first <= self.last <= MAX_SEQUENCE:
            raise ContractError(f"a batch cannot have the rows {self.first} to {self.last}")


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
    return hashlib.sha256(b"".join(rows)).digest()[:DIGEST_BYTES]


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


_PROPERTY_FORMS = {
    "store": re.compile(r"[0-9a-f]{32}"),
    "first": re.compile(r"[0-9]{1,19}"),
    "last": re.compile(r"[0-9]{1,19}"),
    "digest": re.compile(r"[0-9a-f]{32}"),
}


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
    for key, form in _PROPERTY_FORMS.items():
        if key not in given:
            raise ContractError(f"the user property {key!r} of the batch's name is missing")
        if not form.fullmatch(given[key]):
            raise ContractError(f"the user property {key!r} is not of the form {form.pattern}")
    return BatchName(
        bytes.fromhex(given["store"]), int(given["first"]), int(given["last"]), bytes.fromhex(given["digest"])
    )
