"""docs/technician.md, typed as a technician would: it prints what the page shows."""

import os
import pathlib

from tests.docs.blocks import ROOT, Block, blocks_of
from tests.docs.test_readme import as_pattern, type_in

PAGE = ROOT / "docs" / "technician.md"


async def test_the_page_shows_what_the_commands_print(tmp_path: pathlib.Path) -> None:
    blocks = [
        Block(block.language, block.name, block.text.replace("/tmp/metergate-", f"{tmp_path}/"), block.line)  # noqa: S108 - the page's own paths
        for block in blocks_of(PAGE)
    ]
    typed = [block for block in blocks if block.language == "bash"]
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        printed, rest = await type_in(typed, tmp_path)
    finally:
        del os.environ["PYTHONPATH"]
    assert len(printed) == len(typed), f"the block on line {typed[len(printed)].line} failed:\n{rest}"
    for block, following in zip(blocks, blocks[1:] + blocks[:1], strict=True):
        if block.language == "bash" and following.language == "text":
            said = printed[typed.index(block)]
            assert as_pattern(following.text).search(said), f"line {following.line} shows something else:\n{said}"
    assert "00000000" not in (tmp_path / "cellar.jsonl").read_text()
    assert "3030303030" not in (tmp_path / "cellar.jsonl").read_text()
