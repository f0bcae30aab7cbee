"""Reports, receipts and life signs: told apart by their tags, refused with a sentence."""

import datetime as dt
import uuid

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.commands import CommandUpdate
from protocol.readings import BatchName
from protocol.reports import (
    STORED,
    LossRecord,
    MeterSystemEvent,
    Online,
    PlanApplied,
    Receipt,
    Report,
    Resend,
    RunReport,
    decode_online,
    decode_receipt,
    decode_report,
)
from protocol.wire import ContractError, encode
from tests.protocol.strategies import struct_values

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
REPORTS = (RunReport, CommandUpdate, PlanApplied, MeterSystemEvent, LossRecord)


@settings(max_examples=60)
@given(st.one_of([struct_values(kind) for kind in REPORTS]))
def test_every_report_is_told_apart_by_its_tag(report: Report) -> None:
    assert decode_report(encode(report)) == report


@given(struct_values(Receipt) | struct_values(Resend))
def test_receipts_and_resends_are_told_apart(message: Receipt | Resend) -> None:
    assert decode_receipt(encode(message)) == message


def test_a_receipt_repeats_the_names_of_many_batches() -> None:
    names = [BatchName(bytes(16), first, first + 9, bytes([first]) * 16) for first in range(1, 100, 10)]
    receipt = decode_receipt(encode(Receipt("readings", names, NOON)))
    assert isinstance(receipt, Receipt)
    assert (receipt.names, receipt.outcome) == (names, STORED)


@pytest.mark.parametrize("row", [["later", 1, 2], ["run"], [], "run", None, {"type": "run"}])
def test_a_row_that_is_no_report_costs_itself(row: object) -> None:
    with pytest.raises(ContractError, match="not a report"):
        decode_report(msgspec.msgpack.encode(row))
    with pytest.raises(ContractError, match="not a receipt"):
        decode_receipt(msgspec.msgpack.encode(row))


@given(struct_values(Online))
def test_a_life_sign_comes_back(online: Online) -> None:
    assert decode_online(encode(online)) == online


def test_a_life_sign_of_another_kind_is_refused() -> None:
    with pytest.raises(ContractError, match="not a Online"):
        decode_online(encode(RunReport(uuid.uuid4(), uuid.uuid4(), "done", NOON, NOON)))
