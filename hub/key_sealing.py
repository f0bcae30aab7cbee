"""Seals the keys of meters that push for the gateways that receive them; a task of the relay, which has what opens.

Rules:
- ``Gateway.keys_wanted`` says that something waits: edits raise it with the plan (``hub.plans``), and a life sign with
  another sealing key. What was sealed is kept and the revision raised in one transaction.
- Several relays may do it at once: what was sealed of keys that have changed meanwhile is not kept.
- Keys that cannot be sealed cost nobody else; they are tried again when this process starts, and every ``RETRY``.
- No key is in a log or an error.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import plans
from hub.clocks import Clock
from hub.commits import commits_of, look_seconds
from hub.database import reading, writing
from hub.keys import KeyFileError
from hub.models import Gateway, MeterSecurityKeys, SealedMeterKeys
from hub.once import upsert
from hub.sealed_keys import FIELDS, Box, Need, read_needs
from hub.secrets_box import SealError
from hub.security_keys import purpose_of
from protocol.meter_keys import KEY_SIZES, MeterKeys, seal_keys
from protocol.seals import UnsealableError

PAUSE = 0.5
"""Real seconds between two looks at least."""
RETRY = 600.0
"""Real seconds until what could not be sealed is tried again."""
AT_ONCE = 50
"""Gateways in one look."""

UNREADABLE = (
    "this hub has no key that opens them: put its line back into the file of keys for secrets, or give them again"
)
NO_SEALING_KEY = "what the gateway says as its sealing key is none"

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Secret:
    """A row of security keys as it is in the database."""

    generation: int
    sealed: bytes = dataclasses.field(repr=False)


class Sealer:
    """Seals what waits.

    Args:
        engine: The database.
        clock: The relay's.
        unseal: Opens what the database has sealed (``hub.secrets_ring``).
    """

    def __init__(self, engine: AsyncEngine, clock: Clock, unseal: Callable[[bytes, str], bytes]) -> None:
        self._engine, self._clock, self._unseal = engine, clock, unseal
        self._retry_at = 0.0
        self._later: dict[uuid.UUID, float] = {}

    async def keep_on(self) -> None:
        """Seal what waits, for ever."""
        commits = commits_of(self._engine)
        while True:
            seen = commits.count
            await self.turn()
            await commits.after(seen, at_most=look_seconds(self._engine), pause=PAUSE)

    async def turn(self) -> None:
        """Look once, and seal what waits."""
        now = self._clock.monotonic()
        if now >= self._retry_at:
            self._retry_at = now + RETRY
            self._later.clear()
            await self._take_up_failed()
        async with reading(self._engine) as session:
            wanting = sa.select(Gateway.id).where(Gateway.keys_wanted, Gateway.id.not_in(self._later))
            found = (await session.scalars(wanting.order_by(Gateway.gateway_id).limit(AT_ONCE))).all()
        for gateway in found:
            try:
                await self._seal(gateway)
            except plans.PlanTooLargeError as error:
                self._later[gateway] = now
                _log.error("meter_keys_not_sealed", gateway=error.gateway, cause=str(error))

    async def _take_up_failed(self) -> None:
        """Have what no key opened tried again: the lost line may be back."""
        failed = SealedMeterKeys.problem == UNREADABLE
        of_failed = sa.select(SealedMeterKeys.gateway).where(failed)
        async with reading(self._engine) as session:
            if await session.scalar(of_failed.limit(1)) is None:
                return
        async with writing(self._engine) as session:
            await session.execute(
                sa.update(Gateway)
                .where(Gateway.id.in_(of_failed))
                .values(keys_wanted=True)
                .execution_options(synchronize_session=False)
            )
            await session.execute(sa.delete(SealedMeterKeys).where(failed))

    async def _seal(self, gateway: uuid.UUID) -> None:
        async with reading(self._engine) as session:
            needs = {need.keys: need for need in await read_needs(session, [gateway]) if need.waits}
            rows = await session.execute(
                sa.select(MeterSecurityKeys.id, MeterSecurityKeys.generation, MeterSecurityKeys.sealed).where(
                    MeterSecurityKeys.id.in_([key for key in needs if key is not None])
                )
            )
            secrets = {row.id: _Secret(row.generation, row.sealed) for row in rows}
        waiting = [(need, secrets[key]) for key, need in needs.items() if key in secrets]
        # Not in the transaction that keeps them, and in a thread: a thousand meters take a part of a second.
        boxes = await asyncio.to_thread(lambda: {need.keys: self._box(need, secret) for need, secret in waiting})
        async with writing(self._engine) as session:
            await plans.one_at_a_time(session)
            kept = await self._keep(session, gateway, boxes)
            await plans.raise_changed(session, [gateway], self._clock.now())
        if kept:
            good = [need for need in kept if not boxes[need.keys].problem]
            _log.info("meter_keys_sealed", gateway=kept[0].gateway_id, meters=len(good))
        for need in kept:
            if problem := boxes[need.keys].problem:
                _log.warning("meter_keys_unusable", gateway=need.gateway_id, meter=need.device_name, cause=problem)

    async def _keep(
        self, session: AsyncSession, gateway: uuid.UUID, boxes: Mapping[uuid.UUID | None, Box]
    ) -> Sequence[Need]:
        """Keep what was sealed and still fits, and forget what the gateway needs no more; return what it was for."""
        row = await session.get(Gateway, gateway, with_for_update={"key_share": True})
        if row is None:
            return []
        needs = {need.keys: need for need in await read_needs(session, [gateway])}
        kept = []
        for key, need in needs.items():
            box = boxes.get(key)
            fits = box is not None and (box.generation, box.sealed_for) == (need.generation, need.sealing_key)
            if box is not None and fits and need.waits:
                await _store(session, need, box, self._clock)
                kept.append(need)
        needed = [key for key in needs if key is not None]
        await session.execute(
            sa.delete(SealedMeterKeys).where(SealedMeterKeys.gateway == gateway, SealedMeterKeys.keys.not_in(needed))
        )
        row.keys_wanted = any(need.waits for need in needs.values() if need not in kept)
        await session.flush()
        return kept

    def _box(self, need: Need, secret: _Secret) -> Box:
        sealed_for = need.sealing_key or b""

        def failed(problem: str) -> Box:
            return Box(secret.generation, sealed_for, b"", problem)

        try:
            values = msgspec.json.decode(self._unseal(secret.sealed, purpose_of(need.device)), type=dict[str, str])
        except (SealError, KeyFileError):
            return failed(UNREADABLE)
        raw = {}
        for kind, field in FIELDS.items():
            key = _bytes_of(values.get(field, ""))
            if key is None:
                return failed(f"{field} is not {' or '.join(str(2 * size) for size in KEY_SIZES)} hex digits")
            raw[kind] = key
        try:
            sealed = seal_keys(sealed_for, MeterKeys(**raw), need.gateway_id, need.device)
        except UnsealableError:
            return failed(NO_SEALING_KEY)
        return Box(secret.generation, sealed_for, sealed, "")


async def _store(session: AsyncSession, need: Need, box: Box, clock: Clock) -> None:
    values = {name: getattr(box, name) for name in ("generation", "sealed_for", "sealed", "problem")}
    values["sealed_at"] = clock.now()
    statement = upsert(session, SealedMeterKeys).values(gateway=need.gateway, keys=need.keys, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=["gateway", "keys"], set_=values))


def _bytes_of(text: str) -> bytes | None:
    """Return a key of its hex digits, empty where there is none; None for what is no key."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if not key or len(key) in KEY_SIZES else None
