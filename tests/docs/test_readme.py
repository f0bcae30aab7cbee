"""The first look of README and what docs/contract.md does after it, typed as a reader would: it says what is shown."""

import asyncio
import os
import pathlib
import re
import signal
import socket
import sys

from tests.docs.blocks import ROOT, Block, blocks_of

PAGE = ROOT / "README.md"
PORTS = ("7001", "8080", "1883")
PATIENCE = 120.0
_DONE = "--- block {} is done ---"


def free_port() -> str:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def as_pattern(expected: str) -> re.Pattern[str]:
    """Turn shown output into a pattern: ``...`` stands for anything, also over several lines."""
    return re.compile(r"(?s:.*?)".join(re.escape(part) for part in expected.strip().split("...")))


async def type_in(blocks: list[Block], folder: pathlib.Path) -> tuple[list[str], str]:
    """Run bash blocks one after another in one shell; return what each printed, and all that went to stderr."""
    ports = {port: free_port() for port in PORTS}
    script = ["set -eo pipefail"]
    for number, block in enumerate(blocks):
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: ports[match[1]], block.text)
        script += [text, f"echo; echo '{_DONE.format(number)}'"]
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    with (folder / "err.txt").open("wb") as err:
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-c", "\n".join(script)),
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            start_new_session=True,
        )
        assert shell.stdout is not None
        printed: list[str] = []
        lines: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while len(printed) < len(blocks) and (line := await shell.stdout.readline()):
                    if line.decode().strip() == _DONE.format(len(printed)):
                        printed.append("".join(lines))
                        lines = []
                    else:
                        lines.append(line.decode())
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            await shell.communicate()
    return printed, (folder / "err.txt").read_text(encoding="utf-8") + "".join(lines)


async def test_the_first_look_shows_what_it_says(tmp_path: pathlib.Path) -> None:
    blocks = [*blocks_of(PAGE), *blocks_of(ROOT / "docs" / "contract.md")]
    typed = [block for block in blocks if block.language == "bash"]
    (tmp_path / "caller.py").write_text(next(block.text for block in blocks if block.name == "caller.py"))
    printed, rest = await type_in(typed, tmp_path)
    assert len(printed) == len(typed), f"the block on line {typed[len(printed)].line} failed:\n{rest}"
    for block, following in zip(blocks, blocks[1:] + blocks[:1], strict=True):
        if block.language == "bash" and following.language == "text":
            said = printed[typed.index(block)]
            assert as_pattern(following.text).search(said), f"line {following.line} shows something else:\n{said}"


def test_the_page_names_both_commands_and_every_room() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for word in (
        "metergate-agent",
        "metergate-hub",
        "make demo",
        "protocol/",
        "contexts/",
        "receivers/",
        "mqtt/",
        "client/",
        "agent/",
        "hub/",
        "deploy/",
    ):
        assert word in text
