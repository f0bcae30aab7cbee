"""A session that is cancelled at any instant leaves its line in a known state: break, lock, opening rate."""

import asyncio
import pathlib

import pytest

from agent.conversation import Times
from agent.links import Link, open_link
from agent.session import open_session
from agent.settings import MeterPassword
from agent.simulator.bus import serve_pty, virtual_bus
from tests.parts.wires import BREAK, NOW, DictMemory, device_on, heard, line_at

OPENING = 2400
TIMES = Times(identification=0.6, tries=2, telegram=1.0, character=0.25, quiet=0.1, block=0.5)


class WatchedLink:
    """A link that remembers the rate at which it stands."""

    def __init__(self, link: Link) -> None:
        self.link, self.rate, self.said = link, OPENING, b""

    @property
    def arrived(self) -> float:
        return self.link.arrived

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - as in Link
        return await self.link.read(timeout)

    async def write(self, data: bytes) -> None:
        self.said += data
        await self.link.write(data)

    async def set_rate(self, baud: int) -> None:
        self.rate = baud
        await self.link.set_rate(baud)

    async def renew(self) -> None:
        await self.link.renew()

    async def aclose(self) -> None:
        await self.link.aclose()


async def _cancelled_after(seconds: float, log: pathlib.Path) -> bool:
    """Cancel a session that opens a lock and reads an archive; whether it was still at work."""
    memory = DictMemory()
    bus = virtual_bus(
        "1:4711:EK280",
        seed=7,
        now=lambda: NOW,
        history_days=1,
        locked=True,
        codes={4: "4444"},
        opening_rate=OPENING,
        throttle=True,
        log=log,
    )
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=OPENING)
        link = WatchedLink(await open_link(endpoint, OPENING))

        async def work() -> None:
            async with open_session(
                link,
                line,
                device_on(line, serial="4711"),
                memory=memory,
                now=lambda: NOW,
                access=MeterPassword("4444"),
                times=TIMES,
            ) as session:
                await session.layout(3)
                async for _ in session.rows(3, 3, "", ""):
                    pass

        task = asyncio.create_task(work())
        await asyncio.sleep(seconds)
        at_work = not task.done()
        task.cancel()
        async with asyncio.timeout(8):
            await asyncio.wait([task])
        assert task.cancelled() or not at_work
        await link.aclose()
        async with asyncio.timeout(20):
            while link.said and not heard(log).endswith(BREAK):  # noqa: ASYNC110 - heard when it has passed the line
                await asyncio.sleep(0.02)
        assert bus.rate == link.rate == OPENING
        assert memory.rate is None
        assert not bus.meters[0].locks.any_open(asyncio.get_running_loop().time())
    return at_work


@pytest.mark.parametrize("start", [0.0, 1.0, 2.0])
async def test_a_session_that_is_cancelled_at_any_instant_leaves_its_line_in_a_known_state(
    start: float, tmp_path: pathlib.Path
) -> None:
    """Twelve instants each, all at once: through handshake, lock, columns and blocks."""
    instants = [start + number / 12 for number in range(12)]
    at_work = await asyncio.gather(
        *(_cancelled_after(instant, tmp_path / f"{number}.log") for number, instant in enumerate(instants))
    )
    assert all(at_work) or start
