"""The fenced blocks of a page, to be executed: documentation that fails when it is no longer true."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: its language, the file name after it (if any), its text, and the line it starts on."""

    language: str
    name: str
    text: str
    line: int


def blocks_of(page: pathlib.Path) -> list[Block]:
    """Return every fenced block of a page, in order."""
    found: list[Block] = []
    info, start, lines = "", 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            lines.append(line)
        elif start:
            language, _, name = info.partition(" ")
            found.append(Block(language, name, "\n".join(lines) + "\n", start))
            start = 0
        else:
            info, start, lines = fence["info"].strip(), number + 1, []
    assert not start, f"{page}: the block that starts on line {start} does not end"
    return found


def python_script(page: pathlib.Path) -> str:
    """Join the nameless python blocks of a page into one script whose line numbers are the page's."""
    script: list[str] = []
    for block in blocks_of(page):
        if block.language == "python" and not block.name:
            script.extend([""] * (block.line - 1 - len(script)))
            script.extend(block.text.splitlines())
    return "\n".join(script) + "\n"
