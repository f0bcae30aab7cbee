"""Life signs of gateways: what they say about themselves, and what the hub owes them for it.

An agent that is ahead of this database shows that the database was put back from a backup: the desired revision is
lifted above the agent's, and rows that the agent knows as receipted and this database does not have are asked for
again. Nobody has to announce a restore. A life sign of an older session than the last one changes nothing; several
relays hear every life sign, and what they do about it may be done twice.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import dispatch, outbox_progress, plans, rivals
from hub.database import writing
from hub.known_gateways import WRONG_KEY
from hub.signs_kept import Known, read_again, read_known, write_known
from hub.signs_waiting import LifeSign
from protocol.envelopes import fingerprint
from protocol.reports import LineFigures, Online, Resend

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What the hub owes a gateway that came online."""

    gateway: uuid.UUID
    gateway_id: str
    plan: bool = False
    resends: tuple[Resend, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Owed:
    """What the hub owes gateways for their life signs; it is committed and may be sent."""

    heard: list[Heard]
    commands: list[dispatch.Outgoing]


async def note_life_signs(engine: AsyncEngine, signs: Sequence[LifeSign], now: dt.datetime) -> Owed:
    """Note what gateways say, in one transaction for all; return what they should be answered.

    A fleet that returns gives a thousand life signs in a moment: what costs a round trip is done once for all of them.
    """
    async with writing(engine) as session:
        known = await read_known(session, {one.sign.gateway for one in signs})
        news: dict[uuid.UUID, Online] = {}
        for one in signs:
            gateway = known.get(one.sign.gateway)
            if gateway is None:
                _log.warning("unknown_gateway", gateway=one.sign.gateway, advice="create it; its agent keeps all")
            elif _is_its_own(gateway, one, now) and _take(gateway, one, now):
                news[gateway.id] = one.sign
        await write_known(session, known.values(), now)
        online = {key: sign for key, sign in news.items() if sign.online}
        if not online:
            return Owed([], [])
        commanded = await dispatch.with_open_commands(session, online)
        for served, stores in commanded.items():
            if stores - {online[served].store}:
                await dispatch.interrupt_of_other_stores(session, served, online[served].store, now)
        by_id = {gateway.id: gateway for gateway in known.values()}
        fresh = [key for key in online if by_id[key].content_digest is None]
        await plans.raise_changed(session, fresh, now)
        await read_again(session, [by_id[key] for key in fresh])
        resends = await outbox_progress.missing(session, online, now)
        wanting = await _wanting_plans(session, by_id, online, now)
        heard = [Heard(key, sign.gateway, key in wanting, resends.get(key, ())) for key, sign in online.items()]
        commands = await dispatch.claim_outgoing(session, now, gateways=list(commanded)) if commanded else []
        return Owed(heard, commands)


def _is_its_own(gateway: Known, one: LifeSign, now: dt.datetime) -> bool:
    """Whether the sign is signed with the gateway's key, which the first one pins; another key is reported."""
    if gateway.public_key is None:
        gateway.public_key = one.key
        gateway.spoke = True
        _log.info("gateway_key_pinned", gateway=gateway.gateway_id, fingerprint=fingerprint(one.key))
    if gateway.public_key == one.key:
        return True
    _log.warning("gateway_wrong_key", gateway=gateway.gateway_id, fingerprint=fingerprint(one.key), cause=WRONG_KEY)
    if one.sign.online and not one.retained and rivals.note_key(gateway, one.key, now):
        gateway.spoke = True
    return False


def _take(gateway: Known, one: LifeSign, now: dt.datetime) -> bool:
    """Note the sign in the gateway's row; False when it is older than what is known."""
    sign = one.sign
    if rivals.is_late(gateway, sign, now):
        return False
    if not _is_newer(gateway, sign, retained=one.retained):
        if sign.online and not one.retained and sign.store == gateway.store_id and sign.session < gateway.session:
            rivals.note_session(gateway, sign, now)
            gateway.spoke = True
        return False
    if gateway.online != sign.online or gateway.session != sign.session:
        _log.info(
            "gateway_online" if sign.online else "gateway_offline",
            gateway=sign.gateway,
            session=sign.session,
            revision=sign.plan_revision,
            depth=sign.depth,
        )
    if sign.online and not one.retained:
        rivals.note_store(gateway, sign, now)
    _note(gateway, sign, now, retained=one.retained)
    gateway.spoke = True
    return True


def _is_newer(gateway: Known, sign: Online, *, retained: bool) -> bool:
    if sign.session == gateway.session and sign.store == gateway.store_id and sign.online and not gateway.online:
        # Each connection has a session of its own: after its will or goodbye only late messages of it can come.
        return False
    if sign.session >= gateway.session:
        return True
    # A new store may count its sessions anew; neither a will of the old one, nor what a broker kept of it, counts.
    return sign.online and not retained and sign.store != gateway.store_id


def _note(gateway: Known, sign: Online, now: dt.datetime, *, retained: bool) -> None:
    gateway.online = sign.online
    gateway.session = sign.session
    gateway.last_seen = max(gateway.last_seen or sign.at, min(sign.at, now)) if retained else now
    if not sign.online:
        # A will was written when the connection began: all else in it is old.
        return
    if gateway.store_id != sign.store:
        gateway.store_id = sign.store
        if sign.session < gateway.applied_session:
            # The new store counts its sessions anew. (Otherwise its PlanApplied may have come before this sign.)
            gateway.applied_session = gateway.applied_sequence = 0
    gateway.software = sign.software
    if sign.sealing_key and sign.sealing_key != gateway.sealing_key:
        # A sign without one does not take it back: the gateway's plan needs none just now.
        gateway.sealing_key, gateway.keys_wanted = sign.sealing_key, True
        _log.info("gateway_sealing_key", gateway=sign.gateway, fingerprint=fingerprint(sign.sealing_key))
    gateway.readings_through = sign.readings_through
    gateway.reports_through = sign.reports_through
    gateway.depth = sign.depth
    gateway.oldest = sign.oldest
    gateway.clock_believed = sign.clock_believed
    gateway.status = sign.status
    gateway.lines = [msgspec.to_builtins(_named(line)) for line in sign.lines]
    if (sign.session, sign.sequence) >= (gateway.applied_session, gateway.applied_sequence):
        gateway.applied_session, gateway.applied_sequence = sign.session, sign.sequence
        gateway.applied_revision = sign.plan_revision
        gateway.applied_digest = sign.plan_digest or None


def _named(line: LineFigures) -> dict[str, object]:
    return {name: getattr(line, name) for name in line.__struct_fields__}


async def _wanting_plans(
    session: AsyncSession, rows: Mapping[uuid.UUID, Known], online: Mapping[uuid.UUID, Online], now: dt.datetime
) -> set[uuid.UUID]:
    """Return the gateways that should get their plans (again).

    Revisions are lifted above those that this database did not give.
    """
    unsure = [key for key, sign in online.items() if _runs_desired(rows[key], sign) and not _is_noted(rows[key], sign)]
    desired = await plans.read_desired(session, unsure) if unsure else {}
    wanting = set()
    for key, sign in online.items():
        gateway = rows[key]
        if _runs_desired(gateway, sign):
            if _is_noted(gateway, sign):
                continue
            if key in desired and desired[key].digest == sign.plan_digest:
                # Not noted: the relay that sent it could not write that down. Sent once more, it is.
                if gateway.published_revision != gateway.desired_revision:
                    wanting.add(key)
                continue
        wanting.add(key)
        if sign.plan_revision >= gateway.desired_revision and sign.plan_revision > 0:
            _log.warning(
                "gateway_ahead",
                gateway=sign.gateway,
                revision=sign.plan_revision,
                desired=gateway.desired_revision,
                advice="the database was put back from a backup; the plan is published anew above the gateway's",
            )
            await plans.lift_above(session, gateway.id, sign.plan_revision, now)
    return wanting


def _runs_desired(gateway: Known, sign: Online) -> bool:
    return sign.plan_revision == gateway.desired_revision


def _is_noted(gateway: Known, sign: Online) -> bool:
    """Whether it is noted that what the gateway runs was published."""
    return gateway.published_revision == sign.plan_revision and gateway.published_digest == sign.plan_digest
