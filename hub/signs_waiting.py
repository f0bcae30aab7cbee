"""Life signs that a relay has heard and not noted: of each gateway the newest is enough.

Rules:
- Waiting signs of one gateway that say the same of themselves (its key, store, session, and whether it is online) are
  one: only the newest that is really signed so is noted, and only that one is checked. What the broker had kept is
  older than what it was given just now. A stranger who sends forged ones costs processor, and keeps none that is true
  from being heard.
- A gateway says the same again soon: that it runs a plan, and that its report of it has its receipt; and a transaction
  for ten signs costs nearly what one for a hundred does. So after many within a second those that come wait until it
  is over, or until there are as many as one transaction takes.
- A relay that connects gets what the broker had kept, and greets; whoever is there answers within two seconds. So of
  many kept ones each waits that long for what its gateway says itself.
- They are bounded in bytes. Beyond that only the newest of each is kept, then the oldest go: gateways give another one
  within a minute.
"""

import asyncio
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from mqtt.connection import Incoming
from protocol.envelopes import Signed, read_envelope, verify_envelope
from protocol.reports import Online, decode_online
from protocol.topics import parse_topic
from protocol.wire import ContractError

SIGNS_AT_ONCE = 500
"""Life signs that are noted in one transaction; it locks the rows of their gateways."""

MANY_SIGNS = 50
"""While there were no more than so many within ``GATHER_SECONDS``, nobody waits for others."""

GATHER_SECONDS = 1.0

KEPT_SECONDS = 2.5
"""How long many that the broker had kept wait for newer ones."""

_LOOK_SECONDS = 0.05
_CHECKED_AT_ONCE = 50
"""Signatures that are checked before others have a turn: 4 ms."""

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class LifeSign:
    """A life sign that can be read. ``key`` is the one that its envelope is signed with.

    ``retained`` means that the broker kept it, so that it says nothing about when the gateway was last heard.
    ``size`` is what it takes while it waits, in bytes.
    """

    sign: Online
    key: bytes
    retained: bool = False
    size: int = 0


class _Unread(NamedTuple):
    """A life sign whose signature nobody has looked at; ``envelope`` is None where it was found good."""

    heard: LifeSign
    topic: str
    envelope: Signed | None


class _Whose(NamedTuple):
    gateway: str
    key: bytes
    store: bytes
    session: int
    online: bool


class Signs:
    """Life signs that wait to be noted, at most ``limit`` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        """How many bytes wait."""
        self._limit = limit
        self._fresh: dict[_Whose, list[_Unread]] = {}
        # Of these the broker had kept all.
        self._kept: dict[_Whose, list[_Unread]] = {}
        self._filled = asyncio.Event()
        self._began_kept = 0.0
        # When signs were taken, and how many.
        self._taken: deque[tuple[float, int]] = deque()

    def put(self, message: Incoming) -> int:
        """Take a life sign, if it is one; return of how many others the last one had to go for it."""
        unread = _read(message)
        if unread is None:
            return 0
        whose = _whose(unread.heard)
        if unread.heard.retained and whose not in self._fresh:
            if not self._kept:
                self._began_kept = time.monotonic()
            waiting = self._kept
        else:
            waiting = self._fresh
            if whose in self._kept:
                waiting[whose] = self._kept.pop(whose)
        waiting.setdefault(whose, []).append(unread)
        self.bytes += unread.heard.size
        if self.bytes > self._limit:
            self._keep_newest(waiting, whose)
        return self._keep_to_limit()

    def put_back(self, signs: Sequence[LifeSign]) -> int:
        """Take back what could not be noted, before all that came since; return as ``put`` does."""
        back = {_whose(heard): [_Unread(heard, "", None)] for heard in signs}
        for whose, unread in self._fresh.items():
            back[whose] = back.get(whose, []) + unread
        self._fresh = back
        self.bytes += sum(heard.size for heard in signs)
        return self._keep_to_limit()

    def _keep_newest(self, waiting: dict[_Whose, list[_Unread]], whose: _Whose) -> None:
        *older, newest = waiting[whose]
        self.bytes -= sum(unread.heard.size for unread in older)
        waiting[whose] = [newest]

    def _keep_to_limit(self) -> int:
        gone = 0
        while self.bytes > self._limit and len(self._kept) + len(self._fresh) > 1:
            waiting = self._kept or self._fresh
            self.bytes -= sum(unread.heard.size for unread in waiting.pop(next(iter(waiting))))
            gone += 1
        if self._kept or self._fresh:
            self._filled.set()
        return gone

    async def take(self) -> list[LifeSign]:
        """Wait for life signs; return as many as one transaction should have, oldest first, each really signed."""
        await self._filled.wait()
        while self._wait_for_more():  # noqa: ASYNC110 - what ends it is the time, mostly
            await asyncio.sleep(_LOOK_SECONDS)
        taken = []
        group = [(self._fresh, whose) for whose in itertools.islice(self._fresh, SIGNS_AT_ONCE)]
        if self._kept_are_due():
            group += [(self._kept, whose) for whose in itertools.islice(self._kept, SIGNS_AT_ONCE - len(group))]
        self._taken.append((time.monotonic(), len(group)))
        for count, (waiting, whose) in enumerate(group, 1):
            if count % _CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            # Meanwhile a kept one may have become a fresh one.
            unread = waiting.pop(whose, [])
            self.bytes -= sum(one.heard.size for one in unread)
            newest = _newest(unread)
            if newest is not None:
                taken.append(newest)
        if not self._kept and not self._fresh:
            self._filled.clear()
        return taken

    def _wait_for_more(self) -> bool:
        """Whether those that wait should do so for others a little longer."""
        if not self._fresh:
            return not self._kept_are_due()
        while self._taken and self._taken[0][0] < time.monotonic() - GATHER_SECONDS:
            self._taken.popleft()
        return sum(count for _, count in self._taken) > MANY_SIGNS and len(self._fresh) < SIGNS_AT_ONCE

    def _kept_are_due(self) -> bool:
        return len(self._kept) <= MANY_SIGNS or time.monotonic() >= self._began_kept + KEPT_SECONDS


def _whose(heard: LifeSign) -> _Whose:
    sign = heard.sign
    return _Whose(sign.gateway, heard.key, sign.store, sign.session, sign.online)


def _newest(unread: Sequence[_Unread]) -> LifeSign | None:
    """Return the newest that its key has signed: that of the highest sequence, of equal ones the last that came."""
    in_order = sorted(unread, key=lambda one: (not one.heard.retained, one.heard.sign.sequence))
    for one in reversed(in_order):
        if one.envelope is None:
            return one.heard
        try:
            verify_envelope(one.topic, one.envelope)
        except ContractError as error:
            _log.warning("life_sign_dropped", topic=one.topic, cause=str(error))
        else:
            return one.heard
    return None


def _read(message: Incoming) -> _Unread | None:
    """Open a life sign; None, and a word in the log, when it is none."""
    if not message.payload:
        return None
    try:
        topic = parse_topic(message.topic)
        envelope = read_envelope(message.payload)
        sign = decode_online(envelope.body)
    except ContractError as error:
        _log.warning("life_sign_dropped", topic=message.topic, cause=str(error))
        return None
    if sign.gateway != topic.gateway:
        _log.warning("life_sign_dropped", topic=message.topic, cause=f"it is {sign.gateway}'s")
        return None
    heard = LifeSign(sign, envelope.key, message.retained, len(message.payload))
    return _Unread(heard, message.topic, envelope)
