"""Publishes commands: those of REST within milliseconds, those of batches in their turn; a task of every relay.

Rules:
- A command is published by who claimed it: marked as sent in a transaction that skips what another relay has locked.
  What that relay could not publish it gives back; what it took with it when it died is published again after
  ``dispatch.SEND_AGAIN``, and an agent that has it already does nothing.
- A notice brings it here at once; what no notice tells (a time that is over, an agent that does not answer, a notice
  that was lost) is found by looking, at intervals: short ones where notices are not known to arrive, and while
  commands of batches wait for their turn.
"""

import prometheus_client
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import dispatch
from hub.clocks import Clock
from hub.database import reading, writing
from hub.notices import Notice, look_seconds, notices_of, wait
from hub.sending import Sending
from protocol.topics import Channel

_log = structlog.get_logger(__name__)
_delay = prometheus_client.Histogram(
    "metergate_command_publish_seconds",
    "From a command's writing to the broker's word that it was published, first time, no batch's",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15),
)


class CommandPublisher:
    """One relay's.

    Args:
        engine: The database.
        clock: The hub's clock.
        sending: What it is published by.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock, sending: Sending) -> None:
        self._engine = engine
        self._clock = clock
        self._sending = sending
        self._notices = notices_of(engine)
        self._wake = self._notices.heard(Notice.COMMANDS)
        self._waiting = False

    async def step(self) -> None:
        """Wait until there may be something, and publish it."""
        if await wait(self._wake, look_seconds(self._engine, self._clock, soon=self._waiting)):
            # Somebody waits for it: first it goes, then it is looked what else there is to do.
            await self._publish()
        now = self._clock.now()
        async with reading(self._engine) as session:
            work = await dispatch.look(session, now)
        self._waiting = work.waiting
        if work.overdue:
            async with writing(self._engine) as session:
                await dispatch.end_overdue(session, now)
        if work.to_send:
            await self._publish()

    async def _publish(self) -> None:
        """Claim and publish what is to be published now."""
        if self._sending.connection is None:
            return
        async with writing(self._engine) as session:
            outgoing = await dispatch.claim_outgoing(session, self._clock.now())
        if len(outgoing) == dispatch.AT_ONCE:
            self._wake.set()
        await self.send(outgoing)

    async def send(self, outgoing: list[dispatch.Outgoing]) -> None:
        """Publish what was claimed; what cannot be is given back."""
        failed = []
        for one in outgoing:
            # The broker counts real seconds.
            expiry = max(1, int(one.expiry_seconds / self._clock.rate))
            if await self._sending.send(one.gateway, Channel.COMMAND, one.command, expiry=expiry):
                _log.info("command_sent", gateway=one.gateway, command=str(one.command.cancels or one.command.id))
                if one.written is not None:
                    _delay.observe(max(0.0, (self._clock.now() - one.written).total_seconds() / self._clock.rate))
            else:
                failed.append(one)
        if failed:
            async with writing(self._engine) as session:
                await dispatch.give_back(session, failed, self._clock.now())
