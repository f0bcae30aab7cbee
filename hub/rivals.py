"""Rivals: several agents under one gateway id. They are told apart and reported; whom to stop is for people to say.

Three marks show a rival. Life signs of several stores take turns: a store that was followed by another one speaks
again, with a time of its own later than before, which no delayed or repeated message has, and that happens more than
once, which no store that was put back does. The same of two sessions of one store: the whole card or disk was copied.
Or life signs come that are signed with another key than the one that is pinned.

Nothing is decided between them: readings of all are stored by what they say, commands go to the store that spoke
last, and a plan to whoever hears it.
"""

import datetime as dt
from typing import NamedTuple

import structlog

from hub.models import Gateway
from hub.signs_kept import Known
from protocol.envelopes import fingerprint
from protocol.reports import Online

RETURNS = 2
"""So often a store has to come back before it is taken for a second agent's."""

REMEMBERED = dt.timedelta(minutes=15)
"""A conflict is over when the gateway has spoken for so long without a rival; agents speak every minute."""

MOST_STORES = 8
"""So many stores of one gateway are told apart."""

_EVERY = dt.timedelta(minutes=1)
_WORDS = {2: "two", 3: "three", 4: "four"}

_log = structlog.get_logger(__name__)


class _Past(NamedTuple):
    """A store that was followed by another one: what its last life sign said of the time, and when it was followed."""

    store: str
    said: str
    followed: str
    came_back: bool


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def is_late(gateway: Known, sign: Online, now: dt.datetime) -> bool:
    """Whether a sign is one of before another store followed: late, repeated, or a will of a connection back then.

    Session numbers do not tell, for a new store may count its own anew; that the store has said as much before does.
    """
    if sign.store == gateway.store_id:
        return False
    past = [_Past(*entry) for entry in gateway.past_stores or ()]
    before = next((entry for entry in past if entry.store == sign.store.hex()), None)
    if before is None or _instant(before.followed) <= now - REMEMBERED:
        return False
    return not sign.online or sign.at <= _instant(before.said)


def note_store(gateway: Known, sign: Online, now: dt.datetime) -> None:
    """Compare a fresh life sign with those before; call it before the sign is noted, and never for a retained one."""
    known = gateway.store_id
    if known is not None and sign.store != known:
        past = [_Past(*entry) for entry in gateway.past_stores or ()]
        past = [entry for entry in past if _instant(entry.followed) > now - REMEMBERED]
        before = next((entry for entry in past if entry.store == sign.store.hex()), None)
        if not past:
            gateway.rival_returns = 0
        comes_back = before is not None and sign.at > _instant(before.said)
        if comes_back:
            _note_return(
                gateway,
                now,
                sorted({sign.store.hex(), known.hex(), *(entry.store for entry in past)}),
                "several agents use one gateway id: stop all but one, or give each an id of its own",
            )
        said = gateway.said_at or now
        came_back = any(entry.store == known.hex() and entry.came_back for entry in past)
        kept = [entry for entry in past if entry.store not in {known.hex(), sign.store.hex()}]
        if before is not None:
            kept.append(before._replace(came_back=before.came_back or comes_back))
        kept.append(_Past(known.hex(), said.isoformat(), now.isoformat(), came_back))
        gateway.past_stores = [list(entry) for entry in kept[-MOST_STORES:]]
        gateway.rival_store, gateway.rival_said_at = known, gateway.said_at
    gateway.said_at = sign.at


def note_session(gateway: Known, sign: Online, now: dt.datetime) -> None:
    """Hear a fresh life sign of the gateway's store, but of an earlier session than its last one."""
    if gateway.said_at is None or sign.at <= gateway.said_at:
        return
    before = gateway.rival_said_at if gateway.rival_store == sign.store else None
    if before is not None and sign.at <= before:
        return
    if before is None or sign.at - before > REMEMBERED:
        gateway.rival_returns = 0
    gateway.rival_store, gateway.rival_said_at = sign.store, sign.at
    advice = "two agents use one gateway id and copies of one store: stop all but one"
    _note_return(gateway, now, [sign.store.hex()], advice)


def _note_return(gateway: Known, now: dt.datetime, stores: list[str], advice: str) -> None:
    """Count that one has come back whose place another had taken; often enough it is a conflict, told once."""
    gateway.rival_returns += 1
    if gateway.rival_returns >= RETURNS:
        gateway.rival_at = now
    if gateway.rival_returns == RETURNS:
        _log.warning("gateway_identity_conflict", gateway=gateway.gateway_id, stores=stores, advice=advice)


def note_key(gateway: Known, key: bytes, now: dt.datetime) -> bool:
    """Note that life signs come that are signed with another key, at most once a minute; return whether it was."""
    if gateway.rival_key == key and gateway.rival_at is not None and gateway.rival_at >= now - _EVERY:
        return False
    gateway.rival_key, gateway.rival_at = key, now
    return True


def conflict_of(gateway: Gateway) -> str:
    """Say who the rival is and what to do; empty when there is none."""
    if gateway.rival_at is None or (
        gateway.last_seen is not None and gateway.rival_at < gateway.last_seen - REMEMBERED
    ):
        return ""
    since = f"last at {gateway.rival_at.isoformat(timespec='seconds')}"
    if gateway.rival_returns >= RETURNS and gateway.rival_store is not None and gateway.rival_store == gateway.store_id:
        return (
            f"two agents use this gateway's id and one store, {gateway.rival_store.hex()[:8]}, as copies of a whole "
            f"card or disk do ({since}); stop all but one, and delete the key and the store of the others"
        )
    if gateway.rival_returns >= RETURNS and gateway.rival_store is not None and gateway.store_id is not None:
        others = {entry.store for entry in (_Past(*entry) for entry in gateway.past_stores or ()) if entry.came_back}
        stores = sorted(store[:8] for store in {gateway.store_id.hex(), gateway.rival_store.hex()} | others)
        return (
            f"{_WORDS.get(len(stores), len(stores))} agents use this gateway's id: their stores {', '.join(stores)} "
            f"take turns ({since}); stop all but one, or give each an id of its own"
        )
    if gateway.rival_key is not None:
        return (
            f"another agent uses this gateway's id with the key {fingerprint(gateway.rival_key)} ({since}), and "
            "nothing of it is taken; stop it, or forget the gateway's key if the machine was replaced"
        )
    return ""
