"""docs/scaling.md: its arithmetic prints what the page shows, and what it says of settings is so."""

import contextlib
import io

from hub.database import CONNECTIONS, LEAST_CONNECTIONS
from protocol.topics import relay_filters
from protocol.wire import MAX_BATCH_BYTES, MAX_MESSAGE_BYTES
from tests.docs.blocks import ROOT, blocks_of, python_script

PAGE = ROOT / "docs" / "scaling.md"
TEXT = PAGE.read_text("utf-8")


def test_the_arithmetic_prints_what_the_page_shows() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(python_script(PAGE), str(PAGE), "exec"), {})  # noqa: S102 - the page's own code
    (shown,) = [block.text for block in blocks_of(PAGE) if block.language == "text"]
    assert printed.getvalue() == shown


def test_what_it_says_of_settings_is_so() -> None:
    assert f"at most {CONNECTIONS} connections" in TEXT
    assert f"{LEAST_CONNECTIONS} at least" in TEXT
    assert f"A batch is at most {MAX_BATCH_BYTES // 1024} KiB, any message {MAX_MESSAGE_BYTES // 1024} KiB" in TEXT
    shared = [name.split("/")[1] for name in relay_filters() if name.startswith("$share/")]
    assert all(f"`$share/{name}/...`" in TEXT for name in shared)
    assert len(shared) == 2, "what is shared stands in the page one by one"
