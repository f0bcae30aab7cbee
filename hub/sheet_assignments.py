"""The sheet of assignments: one row for each task group, task or receiver that a meter has.

Rules. A row gives its meter one thing: a task group, a task of its own, or a place at a receiver, which is named by
its gateway and its name. ``assigned`` says whether the meter has it (true, unless it says otherwise) or is to have it
no more (false); what no row names stays as it is. A receiver's meters are judged as REST judges them.
"""

import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, expectations, plans
from hub.among import among
from hub.meter_devices import RESOURCE as METERS
from hub.models import (
    AmrTask,
    AmrTaskGroup,
    Gateway,
    MeterDevice,
    Receiver,
    device_groups,
    device_tasks,
    receiver_meters,
)
from hub.problems import Wrong, WrongField
from hub.receivers import RESOURCE as RECEIVERS
from hub.resources import flush, note, show
from hub.scopes import Access
from hub.sheet_files import Line
from hub.sheet_meters import find_meters, meters_of, refuse_stranger
from hub.sheet_names import Guesses
from hub.sheet_rows import CREATED, OWNER, REMOVED, UNCHANGED, Importing, Owners, SheetRow, broken_row, chunks_of

NAME = "assignments"
GROUP, TASK, RECEIVER = "task_group", "task", "receiver"
COLUMNS = ("meter", GROUP, TASK, "gateway", RECEIVER, "assigned")
NEEDED = ("meter",)
MOST_METERS = 20_000
"""Meters of one receiver; a plan has no room for so many."""

_Held = dict[str, list[uuid.UUID]]
"""What a meter has, by field."""

_TABLES = {
    GROUP: ("task_groups", device_groups, device_groups.c.group),
    TASK: ("meter_tasks", device_tasks, device_tasks.c.task),
}
_WORDS = {"": True, "true": True, "false": False}


class _Said(NamedTuple):
    """What a row says: which ``kind`` of thing the meter has (or no more), by name; receivers with their gateway."""

    kind: str
    name: str
    gateway: str
    assigned: bool


def read_row(line: Line) -> SheetRow:
    """Read a line of the file."""
    if line.problem:
        return broken_row(line)
    cells = line.cells
    errors = []
    named = [(kind, cells[kind]) for kind in (GROUP, TASK, RECEIVER) if cells.get(kind)]
    gateway = cells.get("gateway", "")
    if len(named) != 1:
        what = "names none" if not named else f"names {len(named)}"
        errors.append(WrongField("", f"a row names one of {GROUP}, {TASK} and {RECEIVER}; this one {what}"))
    elif bool(gateway) != (named[0][0] == RECEIVER):
        text = f"a receiver is named with its gateway, a {GROUP} or {TASK} without one"
        errors.append(WrongField("gateway", text))
    word = cells.get("assigned", "").strip().lower()
    if word not in _WORDS:
        errors.append(WrongField("assigned", f"{word[:50]!r} is neither true nor false"))
    kind, name = named[0] if named else ("", "")
    owner, meter = cells.get(OWNER, ""), cells["meter"]
    said = _Said(kind, name, gateway, _WORDS.get(word, True))
    label = f"{meter}: {kind} {f'{gateway} ' if gateway else ''}{name}"
    return SheetRow(line.number, (owner, meter, kind, gateway, name), owner, meter, label, said, errors)


def check_columns(columns: Collection[str]) -> None:
    """Accept the columns of a file.

    Raises:
        Wrong: when there is none that names what is assigned.
    """
    if not {GROUP, TASK, RECEIVER} & set(columns):
        raise Wrong(WrongField(GROUP, f"one of the columns {GROUP}, {TASK} and {RECEIVER} is required"))


class _Targets:
    """What meters can be given, by organization, kind, gateway and name."""

    def __init__(self) -> None:
        self._ids: defaultdict[tuple[uuid.UUID | None, str, str], dict[str, uuid.UUID]] = defaultdict(dict)
        self._gateways: defaultdict[uuid.UUID | None, set[str]] = defaultdict(set)

    @classmethod
    async def read(cls, session: AsyncSession, organization: uuid.UUID | None) -> "_Targets":
        targets = cls()
        for kind, model in ((GROUP, AmrTaskGroup), (TASK, AmrTask)):
            statement = select(model.organization, model.name, model.id)
            own = [] if organization is None else [model.organization == organization]
            for owner, name, key in await session.execute(statement.where(*own)):
                targets._ids[owner, kind, ""][name] = key
        receivers = select(Gateway.organization, Gateway.gateway_id, Receiver.name, Receiver.id).outerjoin(
            Receiver, Receiver.gateway == Gateway.id
        )
        own = [] if organization is None else [Gateway.organization == organization]
        for owner, gateway, name, key in await session.execute(receivers.where(*own)):
            targets._gateways[owner].add(gateway)
            if key is not None:
                targets._ids[owner, RECEIVER, gateway][name] = key
        return targets

    def find(self, organization: uuid.UUID | None, said: _Said, guesses: Guesses) -> uuid.UUID:
        """Return what a row names.

        Raises:
            Wrong: when there is no such thing.
        """
        known = self._ids[organization, said.kind, said.gateway]
        if said.name in known:
            return known[said.name]
        gateways = self._gateways[organization]
        if said.gateway and said.gateway not in gateways:
            near = guesses.nearest(said.gateway, gateways)
            text = f"there is no gateway {said.gateway!r} in the organization of this row{near}"
            raise Wrong(WrongField("gateway", text))
        place = f"at gateway {said.gateway}" if said.gateway else "in the organization of this row"
        near = guesses.nearest(said.name, known)
        raise Wrong(WrongField(said.kind, f"there is no {said.kind.replace('_', ' ')} {said.name!r} {place}{near}"))


class _Wish(NamedTuple):
    row: SheetRow
    meter: uuid.UUID
    target: uuid.UUID

    @property
    def assigned(self) -> bool:
        said: _Said = self.row.said
        return said.assigned

    @property
    def kind(self) -> str:
        said: _Said = self.row.said
        return said.kind

    def end(self, *, there: bool) -> bool:
        """Note the outcome, by whether the meter has it already; return whether anything is to be written."""
        if self.assigned == there:
            self.row.outcome = UNCHANGED
            return False
        self.row.outcome = CREATED if self.assigned else REMOVED
        return True


async def write_rows(importing: Importing, rows: Sequence[SheetRow]) -> None:
    """Judge and write the rows, in the caller's transaction; each ends with an outcome."""
    targets = await _Targets.read(importing.session, importing.owners.only)
    received: defaultdict[uuid.UUID, list[_Wish]] = defaultdict(list)
    async for some in chunks_of(rows):
        there = await find_meters(importing.session, importing.owners, some)
        wishes = []
        for row in some:
            if importing.owners.refuse(row, importing.guesses) or row.refused:
                continue
            owner = importing.owners.id_of(row)
            meter = there.get((owner, row.meter))
            if meter is None:
                await refuse_stranger(importing, row)
                continue
            try:
                wish = _Wish(row, meter.id, targets.find(owner, row.said, importing.guesses))
            except Wrong as error:
                row.refuse(*error.errors)
                continue
            if wish.kind == RECEIVER:
                received[wish.target].append(wish)
            else:
                wishes.append(wish)
        await _give_tasks(importing, {meter.id: meter for meter in there.values()}, wishes)
    for receiver, wished in received.items():
        await _give_places(importing, receiver, wished)


async def _give_tasks(importing: Importing, meters: dict[uuid.UUID, MeterDevice], wishes: Sequence[_Wish]) -> None:
    session = importing.session
    edited: dict[uuid.UUID, tuple[_Held, _Held]] = {}
    for kind, (field, table, column) in _TABLES.items():
        some = [wish for wish in wishes if wish.kind == kind]
        held: defaultdict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
        own = among(session, table.c.device, {wish.meter for wish in some})
        for device, target in await session.execute(select(table.c.device, column).where(own)) if some else ():
            held[device].append(target)
        due = [wish for wish in some if wish.end(there=wish.target in held[wish.meter])]
        for wish in due:
            before, after = edited.setdefault(wish.meter, ({}, {}))
            before.setdefault(field, list(held[wish.meter]))
            has = after.setdefault(field, list(held[wish.meter]))
            (has.append if wish.assigned else has.remove)(wish.target)
        new = [{"device": one.meter, column.name: one.target} for one in due if one.assigned]
        gone = [(one.meter, one.target) for one in due if not one.assigned]
        if new:
            await session.execute(table.insert(), new)
        if gone:
            await session.execute(table.delete().where(sa.tuple_(table.c.device, column).in_(gone)))
    if not edited:
        return
    for key in edited:
        meters[key].updated_at = importing.now
    await flush(session, METERS)
    await expectations.mark_devices(session, edited)
    importing.gateways |= await plans.gateways_of_device(session, *edited)
    noted = [
        audit.Noted(
            action=audit.CHANGE, object_id=key, organization=meters[key].organization, before=before, after=after
        )
        for key, (before, after) in edited.items()
    ]
    await audit.note_many(session, METERS.noun, noted)


async def _give_places(importing: Importing, receiver: uuid.UUID, wishes: Sequence[_Wish]) -> None:
    session = importing.session
    row = await session.get_one(Receiver, receiver)
    of_receiver = receiver_meters.c.receiver == receiver
    held = set((await session.scalars(select(receiver_meters.c.device).where(of_receiver))).all())
    due = [wish for wish in wishes if wish.end(there=wish.meter in held)]
    if not due:
        return
    wanted = held.union(wish.meter for wish in due if wish.assigned).difference(
        wish.meter for wish in due if not wish.assigned
    )
    errors = await _judge_places(importing, row, wanted)
    if errors:
        for wish in due:
            wish.row.refuse(*errors)
        return
    before = await show(session, RECEIVERS, [row])
    new = [{"receiver": receiver, "device": wish.meter} for wish in due if wish.assigned]
    if new:
        await session.execute(receiver_meters.insert(), new)
    gone = [wish.meter for wish in due if not wish.assigned]
    async for some in chunks_of(gone):
        device = receiver_meters.c.device
        await session.execute(receiver_meters.delete().where(of_receiver, among(session, device, some)))
    row.updated_at = importing.now
    await flush(session, RECEIVERS)
    if RECEIVERS.changed is not None:
        await RECEIVERS.changed(session, row, importing.hub)
    importing.gateways |= await RECEIVERS.gateways(session, receiver)
    after = await show(session, RECEIVERS, [row])
    await note(session, RECEIVERS, audit.CHANGE, row, before=before[0], after=after[0])


async def _judge_places(importing: Importing, row: Receiver, wanted: Collection[uuid.UUID]) -> list[WrongField]:
    """Return why a receiver cannot have these meters, as REST would say it; nothing when it can."""
    if len(wanted) > MOST_METERS:
        return [WrongField(RECEIVER, f"it would have {len(wanted)} meters; at most {MOST_METERS} are taken")]
    values = {name: getattr(row, name, None) for name in RECEIVERS.body.__struct_fields__}
    try:
        values["meter_devices"] = sorted(wanted)
        await RECEIVERS.check(importing.session, row, values, importing.now)
    except Wrong as error:
        return [WrongField(RECEIVER, one.text) for one in error.errors]
    return []


async def export_rows(session: AsyncSession, owners: Owners, access: Access) -> AsyncIterator[list[list[str]]]:
    """Yield the rows of all meters, in the order of their names, a chunk of meters at a time."""
    owner = owners.cells()
    async for meters in meters_of(session, owners, access):
        ids = [meter.id for meter in meters]
        has: defaultdict[uuid.UUID, list[list[str]]] = defaultdict(list)
        groups = select(device_groups.c.device, AmrTaskGroup.name).join(
            AmrTaskGroup, AmrTaskGroup.id == device_groups.c.group
        )
        for device, name in await session.execute(
            groups.where(among(session, device_groups.c.device, ids)).order_by(AmrTaskGroup.name)
        ):
            has[device].append([name, "", "", ""])
        tasks = select(device_tasks.c.device, AmrTask.name).join(AmrTask, AmrTask.id == device_tasks.c.task)
        for device, name in await session.execute(
            tasks.where(among(session, device_tasks.c.device, ids)).order_by(AmrTask.name)
        ):
            has[device].append(["", name, "", ""])
        places = (
            select(receiver_meters.c.device, Gateway.gateway_id, Receiver.name)
            .join(Receiver, Receiver.id == receiver_meters.c.receiver)
            .join(Gateway, Gateway.id == Receiver.gateway)
        )
        for device, gateway, name in await session.execute(
            places.where(among(session, receiver_meters.c.device, ids)).order_by(Gateway.gateway_id, Receiver.name)
        ):
            has[device].append(["", "", gateway, name])
        yield [[*owner[meter.organization], meter.name, *cells, "true"] for meter in meters for cells in has[meter.id]]
