"""A plan is judged item by item: what is strange costs itself, named, and the rest runs."""

import datetime as dt
import uuid
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.plans import (
    MAX_PLAN_BYTES,
    CallerGrant,
    Device,
    GatewayPlan,
    Line,
    Task,
    plan_digest,
    read_plan,
    render_plan,
)
from protocol.reports import PlanApplied
from protocol.wire import ContractError, decode, encode
from tests.protocol.strategies import struct_values

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
LINE = Line(uuid.UUID(int=1), "north", "socket://10.0.0.7:4001")
TASK = Task(uuid.UUID(int=3), "daily", "daily", 60, "generic_lis200", "read_archive_by_date", {"archive": 3})
DEVICE = Device(uuid.UUID(int=2), "m-1", LINE.id, "Europe/Copenhagen", tasks=[TASK.id])
GRANT = CallerGrant("dispatcher", bytes(32), ["generic_lis200.*", "other.read"])


def plan_of(**items: list[Any]) -> bytes:
    raw = {kind: [msgspec.Raw(msgspec.msgpack.encode(item)) for item in given] for kind, given in items.items()}
    return zlib.compress(encode(GatewayPlan("gw-1", 7, NOON, **raw)))


def fields_of(item: msgspec.Struct) -> list[Any]:
    return msgspec.msgpack.decode(encode(item), type=list[Any])


def test_a_rendered_plan_comes_back_whole() -> None:
    body = render_plan("gw-1", 7, NOON, lines=[LINE], devices=[DEVICE], tasks=[TASK], callers=[GRANT])
    plan = read_plan(body)
    assert (plan.gateway, plan.revision, plan.issued, plan.digest) == ("gw-1", 7, NOON, plan_digest(body))
    assert plan.lines == {LINE.id: LINE}
    assert plan.devices == {DEVICE.id: DEVICE}
    assert plan.tasks == {TASK.id: TASK}
    assert plan.callers == {"dispatcher": GRANT}
    assert plan.problems == []


def test_unknown_words_are_text_that_the_agent_judges_and_do_not_touch_the_plan() -> None:
    """Schedule, context, call and missed-run policy of a later version decode; who runs them reports them."""
    later = msgspec.structs.replace(TASK, id=uuid.UUID(int=9), schedule="lunar", context="dlms", missed="wisely")
    plan = read_plan(plan_of(tasks=[TASK, later]))
    assert set(plan.tasks) == {TASK.id, later.id}
    assert plan.tasks[later.id].schedule == "lunar"
    assert plan.problems == []


def test_strange_items_cost_themselves_and_are_named() -> None:
    line = fields_of(LINE)
    mark = dict(enumerate(line)) | {0: uuid.UUID(int=4).bytes, 5: "mark"}
    plan = read_plan(
        plan_of(
            lines=[[*line, "a later field", {"x": 1}], list(mark.values())],
            devices=[{"a": "map"}, fields_of(DEVICE), 17],
            tasks=[[uuid.UUID(int=5).bytes, "no schedule"], fields_of(TASK)],
            callers=[["UPPER", bytes(32), []], fields_of(GRANT)],
        )
    )
    assert plan.lines == {LINE.id: LINE}
    assert plan.devices == {DEVICE.id: DEVICE}
    assert plan.tasks == {TASK.id: TASK}
    assert plan.callers == {"dispatcher": GRANT}
    assert [(problem.kind, problem.item) for problem in plan.problems] == [
        ("line", str(uuid.UUID(int=4))),
        ("device", "#0"),
        ("device", "#2"),
        ("task", str(uuid.UUID(int=5))),
        ("caller", "UPPER"),
    ]
    assert "parity 'mark' is none of auto, even, none" in plan.problems[0].text


def test_the_problems_of_any_plan_can_be_reported() -> None:
    """However long and strange the item, PlanApplied arrives at the hub."""
    line = fields_of(LINE)
    line[5] = "x" * 100_000
    plan = read_plan(plan_of(lines=[line], callers=[["\0\n" + "n" * 90_000, b"", []]]))
    applied = PlanApplied(uuid.UUID(int=8), plan.revision, plan.digest, NOON, 1, 1, plan.problems)
    assert decode(encode(applied), PlanApplied) == applied
    assert len(encode(applied)) < 10_000


@settings(max_examples=50)
@given(st.lists(st.recursive(st.none() | st.integers(-9, 9) | st.binary(max_size=20), st.lists, max_leaves=8)))
def test_any_items_at_all_leave_the_good_ones_running(garbage: list[Any]) -> None:
    plan = read_plan(plan_of(tasks=[*garbage, fields_of(TASK)]))
    assert plan.tasks == {TASK.id: TASK}
    assert len(plan.problems) == len(garbage)


@settings(max_examples=25)
@given(struct_values(Device), struct_values(CallerGrant))
def test_every_device_and_caller_survives_the_whole_document(device: Device, caller: CallerGrant) -> None:
    body = render_plan("gw-1", 1, NOON, lines=[], devices=[device], tasks=[], callers=[caller])
    plan = read_plan(body)
    assert plan.devices == {device.id: device}
    assert plan.callers == {caller.name: caller}


def test_a_small_message_cannot_fill_a_gateway() -> None:
    bomb = zlib.compress(bytes(MAX_PLAN_BYTES + 1), 9)
    assert len(bomb) < 8192
    with pytest.raises(ContractError, match=f"larger than {MAX_PLAN_BYTES} bytes"):
        read_plan(bomb)


@pytest.mark.parametrize(
    "body", [b"", b"not zlib", zlib.compress(b"not a plan"), plan_of(lines=[fields_of(LINE)])[:-9]]
)
def test_a_document_that_is_no_plan_is_refused(body: bytes) -> None:
    with pytest.raises(ContractError, match=r"plan|Plan"):
        read_plan(body)


def test_a_grant_covers_its_calls_and_no_others() -> None:
    assert GRANT.allows("generic_lis200", "set_time")
    assert GRANT.allows("other", "read")
    assert not GRANT.allows("other", "write")
    assert not GRANT.allows("generic_lis20", "0.set_time")
