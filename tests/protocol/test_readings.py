"""Batches: their names, digests and user properties; and that the names of impossible batches are refused."""

import datetime as dt
import decimal
import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.readings import (
    BatchName,
    NewMeterReading,
    batch_of,
    checked_batch,
    name_from_properties,
    name_properties,
    rows_digest,
    utc_milliseconds,
)
from protocol.wire import ContractError, decode, encode
from tests.protocol.strategies import struct_values

STORE = bytes(range(16))
NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
ROWS = [encode(NewMeterReading("m", "2:300", NOON, decimal.Decimal(number))) for number in range(3)]


@given(st.lists(struct_values(NewMeterReading).map(encode), min_size=1, max_size=5), st.integers(1, 2**62))
def test_a_batch_comes_back_with_the_name_that_both_ends_compute(rows: list[bytes], first: int) -> None:
    batch = batch_of(STORE, first, rows)
    back = checked_batch(encode(batch))
    assert back.name == batch.name == BatchName(STORE, first, first + len(rows) - 1, rows_digest(rows))
    assert [bytes(row) for row in back.rows] == rows
    assert back.name.digest == hashlib.sha256(b"".join(rows)).digest()[:16]


def test_one_strange_row_leaves_the_batch_and_the_other_rows_whole() -> None:
    strange = msgspec.msgpack.encode({"a newer": "row"})
    batch = checked_batch(encode(batch_of(STORE, 5, [ROWS[0], strange, ROWS[1]])))
    decoded: list[decimal.Decimal | None] = []
    for row in batch.rows:
        try:
            decoded.append(decode(row, NewMeterReading).value)
        except ContractError:
            decoded.append(None)
    assert decoded == [decimal.Decimal(0), None, decimal.Decimal(1)]


def test_a_batch_whose_rows_are_not_those_of_its_name_is_refused() -> None:
    batch = batch_of(STORE, 5, ROWS)
    with pytest.raises(ContractError, match="digest"):
        checked_batch(encode(msgspec.structs.replace(batch, rows=[*batch.rows[:2], msgspec.Raw(ROWS[0])])))
    with pytest.raises(ContractError, match="names 3 rows but has 2"):
        checked_batch(encode(msgspec.structs.replace(batch, rows=batch.rows[:2])))
    with pytest.raises(ContractError, match="at least one row"):
        batch_of(STORE, 5, [])


@given(struct_values(BatchName))
def test_a_name_comes_back_from_user_properties(name: BatchName) -> None:
    others = [("content-type", "x"), *name_properties(name), ("zone", "1")]
    assert name_from_properties(others) == name


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("store", None),
        ("digest", None),
        ("store", "00"),
        ("store", "zz" * 16),
        ("first", "-1"),
        ("first", "0"),
        ("first", "9"),
        ("last", "1_0"),
        ("last", " 8"),
        ("last", "9" * 19),
        ("last", "9" * 5000),
        ("last", "\N{ARABIC-INDIC DIGIT NINE}"),
    ],
)
def test_properties_that_are_no_name_are_refused(key: str, text: str | None) -> None:
    given_properties = dict(name_properties(BatchName(STORE, 5, 8, bytes(16))))
    if text is None:
        del given_properties[key]
    else:
        given_properties[key] = text
    with pytest.raises(ContractError):
        name_from_properties(given_properties.items())


@pytest.mark.parametrize(("first", "last"), [(0, 1), (5, 4), (1, 2**63), (-1, 1)])
def test_a_batch_without_rows_or_outside_the_sequence_has_no_name(first: int, last: int) -> None:
    with pytest.raises(ContractError):
        BatchName(STORE, first, last, bytes(16))
    with pytest.raises(ContractError):
        decode(msgspec.msgpack.encode([STORE, first, last, bytes(16)]), BatchName)


def test_a_value_without_a_time_of_its_own_is_stamped_in_utc_milliseconds() -> None:
    local = dt.datetime(2026, 11, 22, 13, 0, 0, 123_999, dt.timezone(dt.timedelta(hours=1)))
    assert utc_milliseconds(local).isoformat() == "2026-11-22T12:00:00.123000+00:00"
