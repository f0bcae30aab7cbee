"""A recorded conversation once more, offline: the same core, the same calls, no line and no waiting.

Rules: a ``ReplayLink`` says what was heard and insists on what was said, byte for byte (a code that was masked is
said masked). It answers silence where there was silence, and stops the command where somebody stopped it. An
``InstantLoop`` skips every wait, so that minutes of a conversation take a moment. What the gateway's clock showed
comes from the recording, too, so that what a command prints is the same to the last digit.
"""

import asyncio
import datetime as dt
import selectors
from collections.abc import Callable, Sequence
from typing import Any

from agent.capture import Heard, Looked, Lost, Record, Said, Silent, Stopped
from agent.links import LinkError
from agent.trace import readable


class ReplayLink:
    """A ``agent.links.Link`` made of records; calls ``stop`` where the command was told to stop.

    Raises from ``read`` and ``write``:
        LinkError: where the recorded line failed, where the recording ends, or when something else is said than then.
    """

    def __init__(self, endpoint: str, records: Sequence[Record], stop: Callable[[], object]) -> None:
        self._endpoint, self._stop = endpoint, stop
        self._passed = [record for record in records if isinstance(record, Said | Heard | Silent | Lost | Stopped)]
        self._at = 0

    @property
    def arrived(self) -> float:
        """Now: in a recording nothing takes time."""
        return asyncio.get_running_loop().time()

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - as in Link
        """What came then, or nothing where nothing came."""
        await self._stop_where_it_was_stopped()
        match self._next():
            case Heard(_, _, data):
                self._at += 1
                return bytes.fromhex(data)
            case Silent():
                self._at += 1
            case Lost(_, why):
                self._at += 1
                raise LinkError(self._endpoint, why)
            case Said():
                pass
            case None:
                raise LinkError(self._endpoint, "the recording ends here")
        await asyncio.sleep(timeout)
        return b""

    async def write(self, data: bytes) -> None:
        """Take what is said, if it is what was said then."""
        while isinstance(record := self._next(), Heard | Silent | Stopped):
            if isinstance(record, Stopped):
                await self._stop_where_it_was_stopped()
            else:
                self._at += 1  # what was read and dropped then
        if isinstance(record, Lost):
            self._at += 1
            raise LinkError(self._endpoint, record.why)
        if record is None:
            raise LinkError(self._endpoint, f"the recording ends here, and {readable(data)} would be said")
        said = bytes.fromhex(record.data)
        if said != data:
            raise LinkError(
                self._endpoint,
                f"the conversation goes another way than at {record.at:.3f} s of the recording: "
                f"{readable(data)} is said now, {readable(said)} was said then",
            )
        self._at += 1

    async def set_rate(self, baud: int) -> None:
        """A recording has no rate."""

    async def renew(self) -> None:
        """A recording has one connection."""

    async def aclose(self) -> None:
        """Nothing to close."""

    async def _stop_where_it_was_stopped(self) -> None:
        """Be the Ctrl-C of then."""
        if isinstance(self._next(), Stopped):
            self._at += 1
            self._stop()
            await asyncio.sleep(0)

    def _next(self) -> Said | Heard | Silent | Lost | Stopped | None:
        return self._passed[self._at] if self._at < len(self._passed) else None


class RecordedClock:
    """Shows what the gateway's clock showed then, look by look; the last one again when there are no more."""

    def __init__(self, began: dt.datetime, records: Sequence[Record]) -> None:
        self._shows = [record.shows for record in records if isinstance(record, Looked)]
        self._last = began

    def now(self) -> dt.datetime:
        """Aware UTC."""
        if self._shows:
            self._last = self._shows.pop(0)
        return self._last


class _SkippingSelector(selectors.DefaultSelector):
    """Does not wait: counts the seconds that it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.skipped += max(0.0, timeout)
        return ready


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop in which every wait is over at once, and its clock has moved on by it."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Seconds, those that were skipped included."""
        return super().time() + self._skipping.skipped


def instantly(work: Any) -> Any:  # noqa: ANN401 - whatever the coroutine returns
    """Run a coroutine to its end in an ``InstantLoop``."""
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        return runner.run(work)
