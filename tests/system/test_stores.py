"""The agent's store is deleted, copied to a second agent, and put back from an hour ago, while the hub runs."""

import pathlib
import shutil
import time

from tests.parts.databases import database_url
from tests.parts.site import copy_store, site
from tests.system.test_kills import polling_site

__all__ = ["database_url"]


def test_store_deleted(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        stored = opened.wait_readings(0)
        opened.kill_agent("gw-1")
        for path in opened.agent_folder("gw-1").glob("*.db*"):
            path.unlink()
        opened.start_agent("gw-1")
        opened.wait_readings(stored)
        opened.finish(begun)


def test_store_put_back_from_an_hour_ago(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        folder = opened.agent_folder("gw-1")
        opened.end_agent("gw-1")
        copy_store(folder, tmp_path / "copy")
        opened.start_agent("gw-1")
        time.sleep(16)
        stored = opened.count()
        opened.kill_agent("gw-1")
        for path in folder.glob("*.db*"):
            path.unlink()
        for path in (tmp_path / "copy").glob("*.db*"):
            shutil.copy(path, folder / path.name)
        opened.start_agent("gw-1")
        opened.wait_readings(stored)
        opened.finish(begun, ("Heating plant", "2:300"))


def test_store_copied_to_a_second_agent(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        endpoint = opened.start_line("two", ":4011221")
        opened.create_gateway("gw-2", endpoint)
        opened.create_meter("Bakery", "4011221", "gw-2", "archive", "volume")
        opened.end_agent("gw-1")
        opened.agent_folder("gw-2").mkdir()
        for path in opened.agent_folder("gw-1").glob("*.db*"):
            shutil.copy(path, opened.agent_folder("gw-2") / path.name)
        opened.start_agent("gw-1")
        opened.start_agent("gw-2")
        opened.wait_settled()
        begun = opened.clock.now()
        time.sleep(5)
        opened.finish(begun, ("Heating plant", "2:300"), ("Bakery", "2:300"))
