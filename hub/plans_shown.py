"""Plans as people read them: a document as plain fields with names beside ids, and how two of them differ.

Pure: bytes in, structs out. What is secret in a plan is sealed for its gateway and not shown: only that it is there.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from protocol import plans
from protocol.envelopes import fingerprint

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
KINDS = ("line", "device", "task", "caller", "receiver")
"""The kinds of items of a plan, as an agent's problems name them."""

Item = dict[str, Any]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway cannot run of a plan, and why. ``name`` is the item's, as far as the plan says it."""

    kind: str
    item: str
    name: str
    text: str


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A plan. ``tasks`` of devices and ``device`` of receivers' meters have names beside ids.

    ``unreadable`` are items that this hub itself cannot read.
    """

    gateway: str
    revision: int
    issued: dt.datetime
    lines: list[Item]
    devices: list[Item]
    tasks: list[Item]
    callers: list[Item]
    receivers: list[Item]
    unreadable: list[Problem]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field that differs. Of a list, ``added`` and ``removed`` are what only one side has; else both are null."""

    field: str
    before: Any
    after: Any
    added: list[Any] | None = None
    removed: list[Any] | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """An item that only one plan has, or that differs; ``change`` is added, removed or changed.

    ``fields`` are those that differ, of an item that was added or removed none. ``problems`` are what the gateway said
    of it last.
    """

    kind: str
    id: str
    name: str
    change: str
    fields: list[Field]
    problems: list[str]


def read_document(body: bytes) -> Document:
    """Read a plan as it was published.

    Raises:
        ContractError: when it is none.
    """
    plan = plans.read_plan(body)
    return Document(
        gateway=plan.gateway,
        revision=plan.revision,
        issued=plan.issued,
        lines=[_line(line) for line in plan.lines.values()],
        devices=[_device(device, plan) for device in plan.devices.values()],
        tasks=[_task(task) for task in plan.tasks.values()],
        callers=[_caller(caller) for caller in plan.callers.values()],
        receivers=[_receiver(receiver) for receiver in plan.receivers.values()],
        unreadable=[Problem(kind=one.kind, item=one.item, name="", text=one.text) for one in plan.problems],
    )


EMPTY = Document(
    gateway="",
    revision=0,
    issued=dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    lines=[],
    devices=[],
    tasks=[],
    callers=[],
    receivers=[],
    unreadable=[],
)
"""What a gateway runs that was never given a plan: revision 0."""


def _fields(item: msgspec.Struct) -> Item:
    return {name: getattr(item, name) for name in item.__struct_fields__}


def _line(line: plans.Line) -> Item:
    return _fields(line)


def _device(device: plans.Device, plan: plans.Plan) -> Item:
    line = plan.lines.get(device.line)
    tasks = [{"id": key, "name": plan.tasks[key].name if key in plan.tasks else ""} for key in device.tasks]
    named = {"line_name": line.name if line is not None else "", "tasks": tasks}
    return _fields(device) | named | {"mappings": [_fields(one) for one in device.mappings]}


def _task(task: plans.Task) -> Item:
    return _fields(task)


def _caller(caller: plans.CallerGrant) -> Item:
    return _fields(caller) | {"key": fingerprint(caller.key)}


def _receiver(receiver: plans.Receiver) -> Item:
    return _fields(receiver) | {"meters": [_push_meter(meter) for meter in receiver.meters]}


def _push_meter(meter: plans.PushMeter) -> Item:
    mappings = [_fields(one) for one in meter.mappings]
    return _fields(meter) | {"mappings": mappings, "keys": _sealed(meter.keys)}


def _sealed(keys: bytes) -> str | None:
    # A digest of what is sealed says that it was sealed anew, and nothing of the keys.
    return f"sealed {hashlib.sha256(keys).hexdigest()[:12]}" if keys else None


def compare(before: Document, after: Document, problems: Iterable[Problem]) -> list[Difference]:
    """Return how two plans differ, by kind and name: first what was added, then what was removed and changed."""
    said: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        said.setdefault((problem.kind, problem.item), []).append(problem.text)
    found = []
    for kind in KINDS:
        old, new = _items(before, kind), _items(after, kind)
        for key in {**new, **old}:
            fields = _differing(old[key], new[key]) if key in old and key in new else []
            if key in old and key in new and not fields:
                continue
            change = ADDED if key not in old else REMOVED if key not in new else CHANGED
            found.append(
                Difference(
                    kind=kind,
                    id=key,
                    name=str((new.get(key) or old[key]).get("name", "")),
                    change=change,
                    fields=fields,
                    problems=said.get((kind, key), []),
                )
            )
    order = {word: place for place, word in enumerate((ADDED, REMOVED, CHANGED))}
    return sorted(found, key=lambda one: (KINDS.index(one.kind), order[one.change], one.name, one.id))


def name_problems(told: Sequence[Mapping[str, Any]], document: Document | None) -> list[Problem]:
    """Give the problems that a gateway told of this plan the names of their items, if it is known what it says."""
    items = [] if document is None else [(kind, *one) for kind in KINDS for one in _items(document, kind).items()]
    names = {(kind, key): str(item["name"]) for kind, key, item in items}
    return [
        Problem(
            kind=str(one["kind"]),
            item=str(one["item"]),
            name=names.get((str(one["kind"]), str(one["item"])), ""),
            text=str(one["text"]),
        )
        for one in told
    ]


def _items(document: Document, kind: str) -> dict[str, Item]:
    items: list[Item] = getattr(document, f"{kind}s")
    return {str(item.get("id", item["name"])): item for item in items}


def _differing(old: Item, new: Item, path: str = "") -> list[Field]:
    found: list[Field] = []
    for name in {**old, **new}:
        before, after, field = old.get(name), new.get(name), path + name
        if _meant(name, before) == _meant(name, after):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differing(before, after, f"{field}.")
        elif isinstance(before, list) and isinstance(after, list):
            added, removed = _only_in(after, before), _only_in(before, after)
            found.append(Field(field=field, before=before, after=after, added=added, removed=removed))
        else:
            found.append(Field(field=field, before=before, after=after))
    return found


def _meant(name: str, value: Any) -> Any:  # noqa: ANN401 - any field's value
    """Return what counts of a field: of what another item is, its id. Its name is for people, and its own item's."""
    if name == "line_name":
        return None
    return [_key(one) for one in value] if isinstance(value, list) else value


def _key(one: Any) -> bytes:  # noqa: ANN401 - an entry of a list
    return msgspec.json.encode(one["id"] if isinstance(one, dict) and "id" in one else one)


def _only_in(some: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    known = {_key(one) for one in others}
    return [one for one in some if _key(one) not in known]
