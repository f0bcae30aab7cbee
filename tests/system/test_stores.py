"""The agent's store is deleted, put back from an hour ago and copied to a second agent, while the hub runs.

Whatever happens to the file, every reading of the truth is in the hub exactly once, and old receipts that are played
again make no agent forget anything.
"""

import pathlib
import shutil
import time

from tests.parts.databases import ON_SQLITE, database_url
from tests.parts.site import Site, site
from tests.parts.tape import tape
from tests.system.test_kills import polling_site

__all__ = ["database_url"]

HOUR = 16.0
"""Real seconds in which the site's clock passes an hour."""


def copy_store(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the store's file as a person would, without what stands beside it."""
    target.mkdir(exist_ok=True)
    for path in target.glob("agent.db*"):
        if not path.name.endswith(".seal"):
            path.unlink()
    shutil.copy(source / "agent.db", target / "agent.db")


def delete_store(folder: pathlib.Path) -> None:
    """Delete the store's file and everything beside it, but for the key."""
    for path in folder.glob("agent.db*"):
        path.unlink()


def add_second_gateway(opened: Site) -> None:
    """A second gateway with a meter of its own, not started yet."""
    endpoint = opened.start_line("two", ":4011221")
    opened.create_gateway("gw-2", endpoint)
    opened.create_meter("Bakery", "4011221", "gw-2", "archive", "volume")


@ON_SQLITE
def test_a_store_deleted_put_back_and_copied(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened, tape(opened.broker.port, "amr/v1/+/receipt") as receipts:
        polling_site(opened)
        add_second_gateway(opened)
        opened.wait_settled("gw-1")
        begun = opened.clock.now()
        opened.wait_readings(0)
        folder = opened.agent_folder("gw-1")

        opened.end_agent("gw-1")
        copy_store(folder, tmp_path / "an-hour-ago")
        opened.start_agent("gw-1")
        time.sleep(HOUR)
        stored = opened.count()

        opened.kill_agent("gw-1")
        delete_store(folder)
        opened.start_agent("gw-1")
        assert receipts.play() > 0
        stored = opened.wait_readings(stored)

        opened.kill_agent("gw-1")
        copy_store(tmp_path / "an-hour-ago", folder)
        opened.start_agent("gw-1")
        receipts.play()
        stored = opened.wait_readings(stored)

        opened.kill_agent("gw-1")
        copy_store(folder, opened.agent_folder("gw-2"))
        opened.start_agent("gw-1")
        opened.start_agent("gw-2")
        receipts.play()
        opened.wait_settled()
        opened.since["Bakery"] = opened.clock.now()
        opened.wait_readings(stored)
        # What the copy brings of the first gateway's meter under the second one's name is no reading of it.
        own = frozenset({"not_this_gateway"})
        opened.finish(begun, ("Heating plant", "2:300"), ("Bakery", "2:300"), staged=own)
