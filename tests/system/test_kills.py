"""Processes are killed at the worst moments; afterwards every reading of the truth is in the hub exactly once."""

import pathlib
import signal
import time

from tests.parts.databases import ON_POSTGRESQL, ON_SQLITE, database_url
from tests.parts.gates import gate
from tests.parts.site import Site, site

__all__ = ["database_url"]


def polling_site(opened: Site, *, start_agent: bool = True) -> None:
    """One gateway with one meter, polled every quarter of an hour by archive and single value."""
    endpoint = opened.start_line("one", ":4011220")
    opened.create_basics()
    opened.create_gateway("gw-1", endpoint)
    opened.create_archive_task()
    opened.create_task("volume", "read_single_value", address="2:300")
    opened.create_meter("Heating plant", "4011220", "gw-1", "archive", "volume")
    if start_agent:
        opened.start_agent("gw-1")


@ON_POSTGRESQL
def test_readings_survive_every_kill(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        stored = opened.wait_readings(0)

        # The agent dies between storing a batch and its receipt: the hub is stopped, so no receipt can come.
        opened.signal_hub(signal.SIGSTOP)
        time.sleep(5)
        opened.kill_agent("gw-1")
        opened.signal_hub(signal.SIGCONT)
        opened.start_agent("gw-1")
        stored = opened.wait_readings(stored)

        # The broker comes back with an empty disk.
        opened.broker.kill()
        time.sleep(5)
        opened.broker.start()
        stored = opened.wait_readings(stored)

        # The agent starts with hub and broker away, and polls from the plan that it has.
        opened.signal_hub(signal.SIGKILL)
        opened.broker.kill()
        opened.kill_agent("gw-1")
        opened.start_agent("gw-1")
        served = opened.truth_path("one").stat().st_size
        opened.wait_for("a poll without hub and broker", lambda: opened.truth_path("one").stat().st_size > served)
        time.sleep(5)
        opened.broker.start()
        opened.start_hub()
        opened.wait_readings(stored)

        opened.finish(begun, ("Heating plant", "2:300"))


@ON_SQLITE
def test_hub_killed_between_commit_and_receipt(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened, gate(opened.broker.port) as between:
        opened.signal_hub(signal.SIGKILL)
        opened.hub_broker_url = between.url
        opened.start_hub()
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        opened.wait_settled()
        stored = opened.count()

        # Nothing that the relays say is heard any more: they commit, and their receipts go nowhere.
        between.shut(upstream=True)
        stored = opened.wait_readings(stored)
        opened.signal_hub(signal.SIGKILL)
        between.open()
        opened.start_hub()
        opened.wait_readings(stored)

        opened.finish(begun, ("Heating plant", "2:300"))
