"""Gateways as their deliveries need them: which one a topic names, whose it is, and with what key it signs."""

import dataclasses
import uuid
from collections.abc import Iterable

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub import array_texts
from hub.models import Gateway
from protocol.envelopes import fingerprint

WRONG_KEY = "wrong_key"

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class KnownGateway:
    """A gateway as far as deliveries need it."""

    id: uuid.UUID
    gateway_id: str
    organization: uuid.UUID
    public_key: bytes | None


async def read_gateways(session: AsyncSession, gateway_ids: Iterable[str]) -> dict[str, KnownGateway]:
    """Read the gateways with these ids in topics."""
    names = sorted(gateway_ids)
    if session.get_bind().dialect.name == "postgresql":
        connection = await session.connection()
        found = await connection.execute(_PG_GATEWAYS, {"names": array_texts.of_texts(names)})
        return {row[1]: KnownGateway(*row) for row in found}
    chosen = sa.select(Gateway.id, Gateway.gateway_id, Gateway.organization, Gateway.public_key)
    return {row[1]: KnownGateway(*row) for row in await session.execute(chosen.where(Gateway.gateway_id.in_(names)))}


# As text for what ``hub.judging`` says of its own.
_PG_GATEWAYS = sa.text("""
    SELECT id, gateway_id, organization, public_key FROM gateways
    WHERE gateway_id = ANY(CAST(CAST(:names AS text) AS text[]))
""")


async def pin_key(session: AsyncSession, gateway: KnownGateway, key: bytes) -> KnownGateway:
    """Trust the first key that is seen of a gateway; return the gateway with the key that now counts."""
    result = await session.execute(
        sa.update(Gateway)
        .where(Gateway.id == gateway.id, Gateway.public_key.is_(None))
        .values(public_key=key)
        .returning(Gateway.id)
        .execution_options(synchronize_session=False)
    )
    if result.first() is None:
        return (await read_gateways(session, [gateway.gateway_id]))[gateway.gateway_id]
    _log.info("gateway_key_pinned", gateway=gateway.gateway_id, fingerprint=fingerprint(key))
    return dataclasses.replace(gateway, public_key=key)


def warn_of_wrong_key(gateway: KnownGateway, key: bytes) -> None:
    """Say that a gateway's messages are signed by another key than its pinned one."""
    _log.warning(
        "gateway_wrong_key",
        gateway=gateway.gateway_id,
        fingerprint=fingerprint(key),
        pinned=fingerprint(gateway.public_key) if gateway.public_key else "",
        advice="when the gateway's key was replaced on purpose, remove its pinned key",
    )
