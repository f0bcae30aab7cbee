"""docs/sheets.md: its commands, typed one after another at a running hub, print what the page shows; all is named."""

import itertools
import os
import pathlib
import subprocess
import sys

from hub.sheet_assignments import COLUMNS as ASSIGNMENTS
from hub.sheet_files import LONGEST_ROW, MOST_BYTES, MOST_COLUMNS, MOST_ROWS, SEPARATORS
from hub.sheet_keys import COLUMNS as KEYS
from hub.sheet_meters import COLUMNS as METERS
from hub.sheet_rows import OUTCOMES, CellChange, CellProblem, RowResult, SheetReport
from tests.docs.blocks import ROOT, blocks_of
from tests.parts.rest import TASK
from tests.parts.running_hub import RunningHub, running_hub

PAGE = ROOT / "docs" / "sheets.md"
TEXT = PAGE.read_text("utf-8")


def make_estate(hub: RunningHub) -> None:
    """Make what the page's first file names."""
    owner = {"organization": hub.post("/v1/organizations/", name="Stadtwerke")["id"]}
    gateway = hub.post("/v1/gateways/", **owner, gateway_id="substation-7")["id"]
    hub.post("/v1/metering/network-interfaces", **owner, gateway=gateway, name="RS-485", serial_port="/dev/ttyS0")
    hub.post("/v1/metering/meter-device-types", **owner, name="EK280", manufacturer="E", manufacturer_model="EK280")
    task = hub.post("/v1/metering/amr-tasks/", **owner, **TASK)["id"]
    hub.post("/v1/metering/amr-task-groups/", **owner, name="every hour", tasks=[task])


def test_its_commands_print_what_it_shows(tmp_path: pathlib.Path) -> None:
    hub = running_hub("sqlite")
    make_estate(hub)
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    asked = {"METERGATE_HUB_URL": hub.url, "METERGATE_HUB_TOKEN": hub.token, "PATH": path, "HOME": str(tmp_path)}
    blocks = blocks_of(PAGE)
    for block, shown in itertools.pairwise(blocks):
        if block.language != "bash":
            continue
        done = subprocess.run(
            ["bash", "-ec", block.text],
            cwd=tmp_path,
            env=asked,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"line {block.line}: {done.stderr}"
        assert shown.language == "text"
        assert done.stdout == shown.text, f"line {shown.line} shows something else\n{done.stderr}"


def test_every_column_and_every_word_stands_there() -> None:
    words = {*METERS, *ASSIGNMENTS, *KEYS, *SEPARATORS, *OUTCOMES}
    for struct in (SheetReport, RowResult, CellChange, CellProblem):
        words |= {*struct.__struct_fields__}
    assert [word for word in sorted(words) if f"`{word}`" not in TEXT] == []
    limits = f"{MOST_BYTES // 2**20} MiB, {MOST_ROWS:,} rows, {MOST_COLUMNS} columns, {LONGEST_ROW:,} characters a row"
    assert limits in TEXT
