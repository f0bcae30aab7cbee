"""Logs: whatever is logged is one JSON object on one line of standard error, and says what, whose, when and how bad."""

import json
import subprocess
import sys

PROGRAM = """
import logging, os, structlog
from hub.logs import set_up_logs
set_up_logs()
log = structlog.get_logger("hub.some")
log.debug("not_said")
log.info("plan_published", gateway="gw-1", revision=7, other=object)
try:
    raise ValueError("two\\nlines")
except ValueError as error:
    log.error("failed", exc_info=error)
logging.getLogger("some.library").warning("%d of %d", 1, 2)
logging.getLogger("aiosqlite").info("chatter")
os.close(2)
log.info("nobody_hears_it")
print("went on")
"""


def test_each_line_is_an_object_with_stable_names() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("plan_published", "info", "hub.some"),
        ("failed", "error", "hub.some"),
        ("1 of 2", "warning", "some.library"),
    ]
    assert {line["timestamp"][-1] for line in lines} == {"Z"}
    assert (lines[0]["gateway"], lines[0]["revision"], lines[0]["other"]) == ("gw-1", 7, "<class 'object'>")
    assert lines[1]["exception"].endswith("ValueError: two\nlines")
