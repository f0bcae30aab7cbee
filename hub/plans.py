"""Plans: which gateways an edit concerns, whether it changes what they should run, and the document that says it.

Rules:
- An edit and the raised desired revisions of the gateways that it changes are one transaction, in the order of gateway
  ids. Edits of what plans are made of go one after the other (``one_at_a_time``): of two that cross, a meter that
  leaves a line and the line that moves to another gateway, neither would see what the other makes of the plans.
- An edit that changes nothing raises nothing: what counts is the digest of the content, without revision and time.
- A document is a pure function of the database: rendered again for the same revision it has the same bytes, whichever
  relay does it, so the digest that an agent reports can be compared.
- Every gateway that a meter ever stood on the plan of is remembered (``device_gateways``): a backlog of its old gateway
  still counts.
"""

import asyncio
import dataclasses
import datetime as dt
import functools
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import array_texts
from hub.among import among
from hub.many import batched, insert_many, update_many
from hub.models import (
    DeviceGateway,
    Gateway,
    GatewayPlan,
    MeterDevice,
    MeterDeviceType,
    NetworkInterface,
    Receiver,
    device_groups,
    device_tasks,
    group_tasks,
    receiver_meters,
)
from hub.notices import Notice, tell
from hub.plan_contents import Content, read_contents
from hub.plans_kept import Made, keep
from hub.problems import Conflict
from protocol import plans
from protocol.envelopes import ENVELOPE_BYTES
from protocol.meter_keys import SEALED_BYTES
from protocol.wire import MAX_MESSAGE_BYTES

GATEWAYS_AT_ONCE = 100
"""Plans that are read, rendered and written together: some ten statements, and a tenth of a second of processor."""

_INLINE = 5
_ALONE = "plans_alone"
_EDITS = 0x6D706C6E
"""PostgreSQL advisory lock: one transaction edits plans at a time."""


class PlanTooLargeError(Conflict):
    """An edit would make a gateway's plan larger than a message may be. ``gateway`` is its id in topics."""

    def __init__(self, gateway: str, size: int, limit: int) -> None:
        super().__init__(
            f"the plan of gateway {gateway!r} would be {size} bytes; at most {limit} are allowed: "
            "give some of its meters or tasks to another gateway"
        )
        self.gateway = gateway


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A plan ready to be signed and published. ``noted``: it is known that it was published, as it is."""

    gateway: str
    revision: int
    body: bytes
    noted: bool = False

    @property
    def digest(self) -> bytes:
        """The digest that the agent repeats."""
        return plans.plan_digest(self.body)


async def gateways_of_device(session: AsyncSession, *devices: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways whose plan has one of these meters now."""
    return await _gateways(session, MeterDevice.id.in_(devices))


async def gateways_of_interface(session: AsyncSession, *interfaces: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways that poll these interfaces, meters or not."""
    statement = select(NetworkInterface.gateway).where(
        NetworkInterface.id.in_(interfaces), NetworkInterface.gateway.is_not(None)
    )
    return {gateway for gateway in (await session.scalars(statement)).all() if gateway is not None}


async def gateways_of_sim(session: AsyncSession, *cards: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways that poll an interface with one of these SIM cards."""
    statement = select(NetworkInterface.gateway).where(
        NetworkInterface.sim.in_(cards), NetworkInterface.gateway.is_not(None)
    )
    return {gateway for gateway in (await session.scalars(statement)).all() if gateway is not None}


async def gateways_of_task(session: AsyncSession, *tasks: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter that one of these tasks reaches, by itself or in a group."""
    own = select(device_tasks.c.device).where(device_tasks.c.task.in_(tasks))
    grouped = (
        select(device_groups.c.device)
        .join(group_tasks, group_tasks.c.group == device_groups.c.group)
        .where(group_tasks.c.task.in_(tasks))
    )
    return await _gateways(session, MeterDevice.id.in_(own.union(grouped)))


async def gateways_of_group(session: AsyncSession, *groups: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter that has one of these groups."""
    return await _gateways(
        session, MeterDevice.id.in_(select(device_groups.c.device).where(device_groups.c.group.in_(groups)))
    )


async def gateways_of_type(session: AsyncSession, *types: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter of one of these types."""
    return await _gateways(session, MeterDevice.type.in_(types))


async def gateways_of_config(session: AsyncSession, *configs: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter whose type has one of these configs."""
    return await _gateways(
        session, MeterDevice.type.in_(select(MeterDeviceType.id).where(MeterDeviceType.config.in_(configs)))
    )


async def _gateways(session: AsyncSession, meters: sa.ColumnElement[bool]) -> set[uuid.UUID]:
    polled = (
        select(NetworkInterface.gateway)
        .join(MeterDevice, MeterDevice.network_interface == NetworkInterface.id)
        .where(meters, NetworkInterface.gateway.is_not(None))
    )
    pushed = (
        select(Receiver.gateway)
        .join(receiver_meters, receiver_meters.c.receiver == Receiver.id)
        .join(MeterDevice, MeterDevice.id == receiver_meters.c.device)
        .where(meters)
    )
    return {gateway for gateway in (await session.scalars(polled.union(pushed))).all() if gateway is not None}


async def one_at_a_time(session: AsyncSession) -> None:
    """Wait until no other transaction edits what plans are made of; call it first, before anything is read.

    On SQLite the transaction itself is that lock: it begins IMMEDIATE.
    """
    session.info[_ALONE] = True
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(sa.text(f"SELECT pg_advisory_xact_lock({_EDITS})"))


async def raise_changed(session: AsyncSession, gateways: Collection[uuid.UUID], now: dt.datetime) -> list[str]:
    """Raise the desired revision of those gateways whose content is no longer what it was; return their ids.

    Call it in the edit's own transaction, after the flush, with every gateway that had or has to do with what was
    edited (before and after). Where nobody else edits plans (``one_at_a_time``) only the gateways that change are
    locked, and only to be written: their relays go on while ten thousand plans are read and rendered.

    Raises:
        PlanTooLargeError: when a changed plan would not fit into a message; roll back.
    """
    if not gateways:
        return []
    alone = _ALONE in session.info
    made: dict[uuid.UUID, _Draft] = {}
    waiting: set[uuid.UUID] = set()
    rows = await _standing(session, gateways, locked=not alone)
    async for draft in _drafts(session, list(rows.values()), now):
        if draft.keys_wait and not rows[draft.gateway].keys_wanted:
            waiting.add(draft.gateway)
        if draft.digest != rows[draft.gateway].content_digest:
            made[draft.gateway] = draft
    if alone and made:
        # Meanwhile a first life sign may have given one of them its plan, or a restore have lifted its revision.
        rows = await _standing(session, made, locked=True)
        moved = [row for row in rows.values() if row.desired_revision + 1 != made[row.id].revision]
        made |= {draft.gateway: draft async for draft in _drafts(session, moved, now)}
    changed = [made[key] for key, row in rows.items() if key in made and made[key].digest != row.content_digest]
    await _write(session, changed, waiting, now)
    return [draft.gateway_id for draft in changed]


@dataclasses.dataclass(frozen=True, slots=True)
class _Draft:
    """What a gateway's plan would be: the next revision, rendered, if its content is another than before."""

    gateway: uuid.UUID
    gateway_id: str
    revision: int
    digest: bytes
    body: bytes | None
    """None where the content is what it was."""
    meters: list[uuid.UUID]
    keys_wait: bool


async def _standing(
    session: AsyncSession, gateways: Collection[uuid.UUID], *, locked: bool
) -> dict[uuid.UUID, Row[Any]]:
    """Return how these gateways stand, in the order of their ids in topics, in which they are locked."""
    statement = select(
        Gateway.id, Gateway.gateway_id, Gateway.content_digest, Gateway.desired_revision, Gateway.keys_wanted
    ).order_by(Gateway.gateway_id)
    if locked:
        # Not FOR UPDATE: ingestion holds key shares of gateways, and the two would form a ring.
        statement = statement.with_for_update(key_share=True)
    found = await session.execute(statement.where(among(session, Gateway.id, gateways)))
    return {row.id: cast("Row[Any]", row) for row in found}


async def _drafts(session: AsyncSession, rows: Sequence[Row[Any]], now: dt.datetime) -> AsyncIterator[_Draft]:
    """Read what these gateways should run; render what is another than before, while the next ones are read."""
    rendering: asyncio.Task[list[_Draft]] | None = None
    try:
        for some in batched(rows, GATEWAYS_AT_ONCE):
            contents = await read_contents(session, [row.id for row in some])
            work = functools.partial(_render, some, contents, now)
            if len(some) <= _INLINE:
                # A thread would be the larger part.
                drafts, rendering = [*(await rendering if rendering is not None else []), *work()], None
            else:
                # Beside it others are answered.
                drafts = await rendering if rendering is not None else []
                rendering = asyncio.create_task(asyncio.to_thread(work))
                # Looked at, also where reading the next ones fails first.
                rendering.add_done_callback(lambda done: done.cancelled() or done.exception())
            for draft in drafts:
                yield draft
        for draft in await rendering if rendering is not None else []:
            yield draft
    finally:
        if rendering is not None:
            # What it makes nobody wants any more.
            rendering.cancel()


def _render(rows: Sequence[Row[Any]], contents: Mapping[uuid.UUID, Content], now: dt.datetime) -> list[_Draft]:
    drafts = []
    for row in rows:
        content, revision, body = contents[row.id], row.desired_revision + 1, None
        digest = content.digest()
        if digest != row.content_digest:
            body = _render_within_size(row.gateway_id, content, revision, now)
        meters = list(content.meters)
        drafts.append(_Draft(row.id, row.gateway_id, revision, digest, body, meters, content.keys_wait))
    return drafts


async def _write(session: AsyncSession, drafts: Sequence[_Draft], waiting: set[uuid.UUID], now: dt.datetime) -> None:
    """Write the new revisions, and which gateways wait for keys."""
    for keyless in batched(sorted(waiting), GATEWAYS_AT_ONCE):
        await session.execute(
            sa.update(Gateway)
            .where(Gateway.id.in_(keyless))
            .values(keys_wanted=True)
            .execution_options(synchronize_session=False)
        )
    if not drafts:
        return
    raised = [
        {
            "id": one.gateway,
            "desired_revision": one.revision,
            "desired_at": now,
            "content_digest": one.digest,
            "updated_at": now,
        }
        for one in drafts
    ]
    await update_many(session, Gateway, ("id",), raised)
    for some in batched(drafts, GATEWAYS_AT_ONCE):
        await keep(session, [Made(one.gateway, one.revision, one.body) for one in some if one.body is not None], now)
        await _remember_devices(session, {one.gateway: one.meters for one in some}, now)
    await tell(session, Notice.PLANS)


async def lift_above(session: AsyncSession, gateway: uuid.UUID, revision: int, now: dt.datetime) -> None:
    """Lift the desired revision above one that an agent already runs: this database was put back from a backup."""
    await session.execute(
        sa.update(Gateway)
        .where(Gateway.id == gateway, Gateway.desired_revision <= revision)
        .values(desired_revision=revision + 1, desired_at=now, updated_at=now)
    )


async def render(session: AsyncSession, gateway: uuid.UUID) -> Rendered | None:
    """Render the plan of the desired revision; None while the gateway was never given one."""
    return (await render_many(session, [gateway])).get(gateway)


async def render_many(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, Rendered]:
    """Render the plans of the desired revisions; none of gateways that were never given one."""
    found = await session.execute(
        select(Gateway.id, Gateway.gateway_id, Gateway.desired_revision, Gateway.desired_at).where(
            among(session, Gateway.id, gateways), Gateway.desired_at.is_not(None)
        )
    )
    rows = {row.id: row for row in found}
    if not rows:
        return {}
    contents = await read_contents(session, rows)
    return {
        key: Rendered(
            row.gateway_id,
            row.desired_revision,
            contents[key].render(row.gateway_id, row.desired_revision, row.desired_at),
        )
        for key, row in rows.items()
    }


async def read_desired(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, Rendered]:
    """Return the plans of the desired revisions as they were kept when edits made them; rendered where none was."""
    same = sa.and_(GatewayPlan.gateway == Gateway.id, GatewayPlan.revision == Gateway.desired_revision)
    noted = sa.and_(
        Gateway.published_revision == GatewayPlan.revision,
        Gateway.published_digest == GatewayPlan.digest,
        GatewayPlan.published_at.is_not(None),
    )
    rows = await session.execute(
        select(Gateway.id, Gateway.gateway_id, Gateway.desired_revision, GatewayPlan.body, noted)
        .join(GatewayPlan, same)
        .where(among(session, Gateway.id, gateways))
    )
    found = {key: Rendered(gateway, revision, body, bool(known)) for key, gateway, revision, body, known in rows}
    left = [key for key in gateways if key not in found]
    return found | await render_many(session, left) if left else found


def _render_within_size(gateway: str, content: Content, revision: int, now: dt.datetime) -> bytes:
    # An edit is told at once what would fit no more when the keys of its meters are sealed.
    keys = content.unsealed * SEALED_BYTES
    plain = content.size() + keys
    if plain > plans.MAX_PLAN_BYTES - 1024:
        raise PlanTooLargeError(gateway, plain, plans.MAX_PLAN_BYTES - 1024)
    body = content.render(gateway, revision, now)
    if (size := len(body) + ENVELOPE_BYTES + keys) > MAX_MESSAGE_BYTES:
        raise PlanTooLargeError(gateway, size, MAX_MESSAGE_BYTES)
    return body


async def _remember_devices(
    session: AsyncSession, devices: Mapping[uuid.UUID, Sequence[uuid.UUID]], now: dt.datetime
) -> None:
    """Remember which meters stand on the plans of these gateways; most are known already."""
    pairs = [(device, gateway) for gateway, named in devices.items() for device in named]
    if session.get_bind().dialect.name == "postgresql":
        told = {
            "devices": array_texts.of_ids([device for device, _ in pairs]),
            "gateways": array_texts.of_ids([gateway for _, gateway in pairs]),
        }
        # An insert of nothing would count as a change of what relays keep (``hub.known_estate``).
        if not (await (await session.connection()).execute(_UNKNOWN, told)).scalar_one():
            return
    rows = [{"device": device, "gateway": gateway, "since": now} for device, gateway in pairs]
    await insert_many(session, DeviceGateway, ("device", "gateway"), rows)


_UNKNOWN = sa.text("""
    SELECT EXISTS (
        SELECT FROM unnest(CAST(CAST(:devices AS text) AS uuid[]), CAST(CAST(:gateways AS text) AS uuid[]))
            AS p(device, gateway)
        LEFT JOIN device_gateways k ON k.device = p.device AND k.gateway = p.gateway
        WHERE k.device IS NULL
    )
""")
