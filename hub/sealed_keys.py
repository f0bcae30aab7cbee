"""Keys of meters that push, as plans carry them: which are needed, which there are, and what is missing.

Rules:
- A gateway gets the DLMS keys of the meters of its own active receivers, and of those only what opens payloads: never
  a master key, never a password. They are sealed for it (``protocol.meter_keys``) by a relay (``hub.key_sealing``).
- What was sealed is kept, because sealing is never the same twice: a plan stays a pure function of the database. It
  is sealed again when the meter's keys or the gateway's sealing key have changed, not when the hub's own key rotates.
- Until then the plan has what was sealed before; keys that were taken from a meter leave the plan with that edit.
"""

import dataclasses
import uuid
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.identities import ciphering
from hub.models import Gateway, MeterDevice, MeterSecurityKeys, Receiver, SealedMeterKeys, receiver_meters

FIELDS = {
    "encryption": "dlms_global_unicast_encryption_key",
    "authentication": "dlms_global_authentication_key",
    "broadcast": "dlms_global_broadcast_encryption_key",
    "dedicated": "dlms_dedicated_key",
}
"""The fields of a meter's security keys that receivers need, by the names of ``protocol.meter_keys.MeterKeys``."""


MOST_TOLD = 20
"""Meters of a gateway whose missing keys are told one by one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """What was sealed: of which generation of the keys, for which sealing key; or why it could not be."""

    generation: int
    sealed_for: bytes
    sealed: bytes = dataclasses.field(repr=False)
    problem: str


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    """A meter of a receiver whose payloads may need keys, and what there is of these.

    ``keys`` is the row of the meter's security keys; ``given`` says whether it has any that a receiver needs.
    """

    gateway: uuid.UUID
    gateway_id: str
    sealing_key: bytes | None
    receiver: uuid.UUID
    receiver_name: str
    security: str
    device: uuid.UUID
    device_name: str
    keys: uuid.UUID | None
    generation: int
    given: bool
    box: Box | None

    @property
    def sealed(self) -> bytes:
        """What the plan has of it."""
        return self.box.sealed if self.given and self.box is not None else b""

    @property
    def waits(self) -> bool:
        """Whether a relay has to seal them, or to seal them again."""
        if not self.given or self.sealing_key is None:
            return False
        box = self.box
        return box is None or box.generation != self.generation or box.sealed_for != self.sealing_key

    @property
    def missing(self) -> str:
        """What keeps the gateway from opening this meter's payloads, for people; empty: nothing."""
        whose = f"{self.receiver_name}: the keys of {self.device_name}"
        if not self.given:
            asked = "POST /v1/metering/meter-security-keys takes them"
            return "" if self.security == "none" else f"{whose} are not known: {asked}"
        if self.sealing_key is None:
            return f"{whose} wait for the gateway's sealing key, which its agent says when it runs this plan"
        if self.waits:
            return f"{whose} wait for a relay that seals them"
        return f"{whose} cannot be sealed: {self.box.problem}" if self.box is not None and self.box.problem else ""


class Missing(NamedTuple):
    """What is missing for a receiver, for people."""

    receiver: uuid.UUID
    text: str


async def read_needs(session: AsyncSession, gateways: Collection[uuid.UUID]) -> list[Need]:
    """Return what these gateways need for their active receivers, and what there is of it."""
    return await _read(session, _statement(gateways))


async def read_missing(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, list[Missing]]:
    """Return what is missing at which gateway: of each ``MOST_TOLD`` meters at most, then how many more there are."""
    receivers = sa.select(Receiver.id, Receiver.receiver_kwargs).where(
        Receiver.gateway.in_(gateways), Receiver.is_active, Receiver.receiver.in_(ciphering())
    )
    keyless = [row.id for row in await session.execute(receivers) if row.receiver_kwargs.get("security") == "none"]
    current = sa.and_(
        SealedMeterKeys.generation == MeterSecurityKeys.generation,
        SealedMeterKeys.sealed_for == Gateway.sealing_key,
        SealedMeterKeys.problem == "",
    )
    wanting = _statement(gateways).where(
        sa.not_(sa.func.coalesce(current, sa.false())),
        sa.or_(MeterSecurityKeys.id.is_not(None), Receiver.id.not_in(keyless)),
    )
    found: dict[uuid.UUID, list[Missing]] = {}
    for need in await _read(session, wanting):
        if need.missing:
            found.setdefault(need.gateway, []).append(Missing(need.receiver, need.missing))
    for told in found.values():
        more = len(told) - MOST_TOLD
        if more > 0:
            told[MOST_TOLD:] = [Missing(told[MOST_TOLD].receiver, f"and the keys of {more} more meters")]
    return found


def _statement(gateways: Collection[uuid.UUID]) -> sa.Select[Any]:
    return (
        sa.select(
            Gateway.id.label("gateway"),
            Gateway.gateway_id,
            Gateway.sealing_key,
            Receiver.id.label("receiver"),
            Receiver.name.label("receiver_name"),
            Receiver.receiver_kwargs,
            MeterDevice.id.label("device"),
            MeterDevice.name.label("device_name"),
            MeterSecurityKeys.id.label("keys"),
            MeterSecurityKeys.generation,
            MeterSecurityKeys.stored,
            SealedMeterKeys.generation.label("sealed_generation"),
            SealedMeterKeys.sealed_for,
            SealedMeterKeys.sealed,
            SealedMeterKeys.problem,
        )
        .select_from(Receiver)
        .join(Gateway, Gateway.id == Receiver.gateway)
        .join(receiver_meters, receiver_meters.c.receiver == Receiver.id)
        .join(MeterDevice, MeterDevice.id == receiver_meters.c.device)
        .outerjoin(MeterSecurityKeys, MeterSecurityKeys.meter == MeterDevice.id)
        .outerjoin(
            SealedMeterKeys,
            sa.and_(SealedMeterKeys.gateway == Gateway.id, SealedMeterKeys.keys == MeterSecurityKeys.id),
        )
        .where(Receiver.gateway.in_(gateways), Receiver.is_active, Receiver.receiver.in_(ciphering()))
        .order_by(Receiver.id, MeterDevice.id)
    )


async def _read(session: AsyncSession, statement: sa.Select[Any]) -> list[Need]:
    return [
        Need(
            gateway=row.gateway,
            gateway_id=row.gateway_id,
            sealing_key=row.sealing_key,
            receiver=row.receiver,
            receiver_name=row.receiver_name,
            security=str(row.receiver_kwargs.get("security", "")),
            device=row.device,
            device_name=row.device_name,
            keys=row.keys,
            generation=row.generation or 0,
            given=not set(FIELDS.values()).isdisjoint(row.stored or ()),
            box=None if row.sealed_for is None else Box(row.sealed_generation, row.sealed_for, row.sealed, row.problem),
        )
        for row in await session.execute(statement)
    ]


async def forget_sealed(session: AsyncSession, gateway: Gateway) -> None:
    """Forget a gateway's sealing key and all that was sealed with it."""
    gateway.sealing_key, gateway.keys_wanted = None, False
    await session.execute(sa.delete(SealedMeterKeys).where(SealedMeterKeys.gateway == gateway.id))
