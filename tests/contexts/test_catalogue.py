from typing import Any

import pytest

from contexts.catalogue import CONTEXTS, CallError, check_call, kwargs_from_text
from contexts.lis200_kwargs import ReadArchiveByDate, ReadArchiveByOffsetSeconds, ReadSingleValue

LIS200 = "generic_lis200"
BY_DATE = {"start_date": "2024-01-15T06:00:00Z", "archive_number": 3, "control_position": 3}
BY_OFFSET = {"offset_seconds": 3600, "archive_number": 3, "control_position": 3}


def test_the_calls_of_generic_lis200() -> None:
    calls = CONTEXTS[LIS200].calls

    assert list(calls) == [
        "read_single_value",
        "read_archive_by_date",
        "read_archive_by_offset_seconds",
        "read_archive_since_last",
        "read_events",
        "read_values",
        "read_identity",
        "set_time",
    ]
    assert [name for name, call in calls.items() if call.writes] == ["set_time"]
    assert [name for name, call in calls.items() if call.archive] == [
        "read_archive_by_date",
        "read_archive_by_offset_seconds",
        "read_archive_since_last",
        "read_events",
    ]


@pytest.mark.parametrize(
    ("call", "kwargs", "field", "expectation"),
    [
        ("read_single_value", None, "task_kwargs.address", "missing; expected a LIS-200 address"),
        ("read_single_value", {"address": 5}, "task_kwargs.address", "Expected `str`, got `int`"),
        ("read_single_value", {"address": None}, "task_kwargs.address", "expected a LIS-200 address"),
        ("read_single_value", {"address": "volume"}, "task_kwargs.address", "'volume' is no address"),
        ("read_single_value", {"address": "2:300.0(1)"}, "task_kwargs.address", "is no address"),
        ("read_single_value", {"address": "3:V.0"}, "task_kwargs.address", "is an archive"),
        ("read_single_value", {"address": "4:0171"}, "task_kwargs.address", "code of a lock"),
        ("read_values", {"addresses": ["2:300", "3:171.5"]}, "task_kwargs.addresses", "code of a lock"),
        ("read_single_value", {"address": "2:300", "adress": 1}, "task_kwargs.adress", "takes address"),
        ("read_archive_by_date", {}, "task_kwargs.start_date", "missing; expected an RFC 3339 date"),
        ("read_archive_by_date", BY_DATE | {"start_date": "yesterday"}, "task_kwargs.start_date", "'yesterday' is no"),
        ("read_archive_by_date", BY_DATE | {"start_date": "0001-01-01"}, "task_kwargs.start_date", "the year 1"),
        ("read_archive_by_date", BY_DATE | {"start_date": 17}, "task_kwargs.start_date", "got `int`"),
        ("read_archive_by_date", BY_DATE | {"end_date": "2024-01-15T05:59:59Z"}, "task_kwargs.end_date", "is before"),
        ("read_archive_by_date", BY_DATE | {"end_date": ""}, "task_kwargs.end_date", "expected as start_date"),
        ("read_archive_by_date", BY_DATE | {"archive_number": 0}, "task_kwargs.archive_number", "from 1 to 99"),
        ("read_archive_by_date", BY_DATE | {"archive_number": 100}, "task_kwargs.archive_number", "from 1 to 99"),
        ("read_archive_by_date", BY_DATE | {"archive_number": "3"}, "task_kwargs.archive_number", "got `str`"),
        ("read_archive_by_date", BY_DATE | {"archive_number": True}, "task_kwargs.archive_number", "got `bool`"),
        ("read_archive_by_date", BY_DATE | {"control_position": 1}, "task_kwargs.control_position", "3 on EK and DL"),
        ("read_archive_by_date", BY_DATE | {"control_position": 100}, "task_kwargs.control_position", "2 on TC"),
        ("read_archive_by_offset_seconds", BY_OFFSET | {"offset_seconds": 0}, "task_kwargs.offset_seconds", "from 1"),
        ("read_archive_by_offset_seconds", BY_OFFSET | {"offset_seconds": -5}, "task_kwargs.offset_seconds", ">= 1"),
        ("read_archive_by_offset_seconds", BY_OFFSET | {"offset_seconds": 10**12}, "task_kwargs.offset_seconds", "<="),
        ("read_archive_by_offset_seconds", BY_OFFSET | {"offset_seconds": 1.5}, "task_kwargs.offset_seconds", "`int`"),
        ("set_time", {"time": "now"}, "task_kwargs.time", "takes allowed_drift_seconds, force"),
        ("read_identity", {"serial": 1}, "task_kwargs.serial", "takes no kwargs"),
        ("set_time", {"force": 1}, "task_kwargs.force", "Expected `bool`"),
        ("set_time", {"allowed_drift_seconds": -1}, "task_kwargs.allowed_drift_seconds", "from 0 to 86400"),
        ("read_values", {"addresses": []}, "task_kwargs.addresses", "1 to 50 addresses"),
        ("read_values", {"addresses": ["2:300", "02:0300.0"]}, "task_kwargs.addresses", "stands there twice"),
        ("read_values", {"addresses": ["2:300", "volume"]}, "task_kwargs.addresses", "'volume' is no address"),
        ("read_values", {"addresses": "2:300"}, "task_kwargs.addresses", "Expected `array`"),
        ("read_archive_since_last", {}, "task_kwargs.archive_number", "missing"),
        ("read_archive_since_last", {"archive_number": 3, "offset_seconds": 0}, "task_kwargs.offset_seconds", "from 1"),
        ("read_events", {"archive_number": 0}, "task_kwargs.archive_number", "4 on EK and TC"),
        ("read_all", {}, "task_call", "read_single_value, read_archive_by_date"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_expected(
    call: str, kwargs: dict[str, Any] | None, field: str, expectation: str
) -> None:
    with pytest.raises(CallError) as caught:
        check_call(LIS200, call, kwargs)

    assert caught.value.field == field
    assert expectation in caught.value.text
    assert str(caught.value) == f"{field}: {caught.value.text}"


def test_an_unknown_context_is_named_with_those_that_there_are() -> None:
    with pytest.raises(CallError) as caught:
        check_call("generic_corus_meter", "read_single_value", {"address": "2:300"})

    assert caught.value.field == "meter_execution_type"
    assert LIS200 in caught.value.text


@pytest.mark.parametrize("address", ["2:300", "2:300.0", "1:0400.0", "7-2:302.2", "6:310_1", "10:161"])
def test_addresses_in_every_notation_are_taken(address: str) -> None:
    assert isinstance(check_call(LIS200, "read_single_value", {"address": address}), ReadSingleValue)


def test_what_is_right_becomes_typed() -> None:
    by_date = check_call(LIS200, "read_archive_by_date", BY_DATE | {"end_date": None})
    by_offset = check_call(LIS200, "read_archive_by_offset_seconds", BY_OFFSET)

    assert isinstance(by_date, ReadArchiveByDate)
    assert by_date.end_date is None
    assert isinstance(by_offset, ReadArchiveByOffsetSeconds)
    assert by_offset.offset_seconds == 3600
    check_call(LIS200, "set_time", None)


def test_texts_of_a_command_line_become_what_json_would_have() -> None:
    texts = {"start_date": "2024-01-15", "archive_number": "3", "control_position": "3"}

    kwargs = kwargs_from_text(LIS200, "read_archive_by_date", texts)

    assert kwargs == {"start_date": "2024-01-15", "archive_number": 3, "control_position": 3}
    check_call(LIS200, "read_archive_by_date", kwargs)
    with pytest.raises(CallError, match=r"task_kwargs\.archive_number.*from 1 to 99"):
        kwargs_from_text(LIS200, "read_archive_by_date", texts | {"archive_number": "three"})


def test_lists_and_switches_of_a_command_line() -> None:
    values = kwargs_from_text(LIS200, "read_values", {"addresses": "2:300,6:310_1"})
    clock = kwargs_from_text(LIS200, "set_time", {"allowed_drift_seconds": "2", "force": "true"})
    events = kwargs_from_text(LIS200, "read_events", {"archive_number": "null"})

    assert values == {"addresses": ["2:300", "6:310_1"]}
    assert clock == {"allowed_drift_seconds": 2, "force": True}
    assert events == {"archive_number": None}
    for call, kwargs in (("read_values", values), ("set_time", clock), ("read_events", events)):
        check_call(LIS200, call, kwargs)
