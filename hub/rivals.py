"""Rivals: two agents under one gateway id. They are told apart and reported; whom to stop is for people to say.

Two marks show a rival. Life signs of two stores take turns: a store that was followed by another one speaks again, with
a time of its own later than before, which no delayed or repeated message has, and it does so more than once, which no
store that was put back does. Or life signs come that are signed with another key than the gateway's pinned one.

Nothing is decided between the two: readings of both are stored by what they say, commands go to the store that spoke
last, and a plan to whoever hears it.
"""

import datetime as dt
import uuid

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Gateway
from protocol.envelopes import fingerprint
from protocol.reports import Online

RETURNS = 2
"""So often a store has to come back before it is taken for a second agent's."""

REMEMBERED = dt.timedelta(minutes=15)
"""A conflict is over when the gateway has spoken for so long without a rival; agents speak every minute."""

_EVERY = dt.timedelta(minutes=1)

_log = structlog.get_logger(__name__)


def note_store(gateway: Gateway, sign: Online, now: dt.datetime) -> None:
    """Compare a fresh life sign with the one before; call it before the sign is noted, and never for a retained one."""
    if gateway.store_id is not None and sign.store != gateway.store_id:
        if sign.store != gateway.rival_store:
            gateway.rival_returns = 0
        elif gateway.rival_said_at is not None and sign.at > gateway.rival_said_at:
            gateway.rival_returns += 1
            if gateway.rival_returns >= RETURNS:
                gateway.rival_at = now
            if gateway.rival_returns == RETURNS:
                _log.warning(
                    "gateway_identity_conflict",
                    gateway=gateway.gateway_id,
                    stores=sorted((sign.store.hex(), gateway.store_id.hex())),
                    advice="two agents use one gateway id: stop one, or give it an id of its own",
                )
        gateway.rival_store, gateway.rival_said_at = gateway.store_id, gateway.said_at
    gateway.said_at = sign.at


async def note_key(session: AsyncSession, gateway: uuid.UUID, key: bytes, now: dt.datetime) -> None:
    """Note that life signs come that are signed with another key; at most once a minute."""
    await session.execute(
        sa.update(Gateway)
        .where(
            Gateway.id == gateway,
            sa.or_(Gateway.rival_key.is_(None), Gateway.rival_key != key, Gateway.rival_at < now - _EVERY),
        )
        .values(rival_key=key, rival_at=now)
        .execution_options(synchronize_session=False)
    )


def conflict_of(gateway: Gateway) -> str:
    """Say who the rival is and what to do; empty when there is none."""
    if gateway.rival_at is None or (
        gateway.last_seen is not None and gateway.rival_at < gateway.last_seen - REMEMBERED
    ):
        return ""
    since = f"last at {gateway.rival_at.isoformat(timespec='seconds')}"
    if gateway.rival_returns >= RETURNS and gateway.rival_store is not None and gateway.store_id is not None:
        stores = " and ".join(sorted((gateway.store_id.hex()[:8], gateway.rival_store.hex()[:8])))
        return (
            f"two agents use this gateway's id: their stores {stores} take turns ({since}); "
            "stop one, or give it an id of its own"
        )
    if gateway.rival_key is not None:
        return (
            f"another agent uses this gateway's id with the key {fingerprint(gateway.rival_key)} ({since}), and "
            "nothing of it is taken; stop it, or forget the gateway's key if the machine was replaced"
        )
    return ""
