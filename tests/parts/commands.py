"""``metergate-agent`` as a technician types it: a process of its own, what it printed and how it ended."""

import asyncio
import dataclasses
import json
import os
import sys

MAIN = "from agent.entry import main; main()"


@dataclasses.dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    status: int | None
    out: str
    err: str

    @property
    def readings(self) -> list[dict[str, str]]:
        """What was printed, an object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


async def tool(*arguments: str, **environment: str) -> Said:
    """Run the command to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate()
    return Said(process.returncode, out.decode(), err.decode())
