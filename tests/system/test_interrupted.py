"""An agent dies in the middle of a session: a write is told and not repeated, and the line is found at once."""

import pathlib
import time

from deploy.demo.expected import instant
from tests.parts.site import RATE, Site, site

METER = "Heating plant"
SECONDS = 3.0
"""Less than an agent waits for a meter that does not hear it: it calls twice at least, and the last call is waited for
longest."""


def one_meter(opened: Site, *extra: str) -> None:
    """A gateway with a meter on a line that takes its time; nothing is scheduled."""
    endpoint = opened.start_line("one", ":4011220", extra=("--throttle", *extra))
    opened.create_basics()
    opened.create_gateway("gw-1", endpoint)
    opened.create_meter(METER, "4011220", "gw-1")
    opened.start_agent("gw-1")
    opened.wait_settled()


def invoke(opened: Site, call: str, **kwargs: object) -> str:
    """Ask for a call; return the path of the command."""
    answer = opened.hub.post(
        "/v1/metering/amr-tasks/invoke",
        meter_device=opened.devices[METER],
        meter_execution_type="generic_lis200",
        task_call=call,
        task_kwargs=kwargs,
        run_offset_seconds=0,
        ttl_seconds=86_400,
    )
    return f"/v1/commands/{answer['command']}"


def kill_while_running(opened: Site, path: str, after: float) -> None:
    """SIGKILL the agent so many seconds after it has said that it works on a command, and start it again."""
    opened.wait_for("its beginning", lambda: opened.hub.get(path)["state"] == "running")
    time.sleep(after)
    assert opened.hub.get(path)["state"] == "running"
    opened.kill_agent("gw-1")
    opened.start_agent("gw-1")


def test_an_interrupted_write_is_told_of_and_not_repeated(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path) as opened:
        # At 300 baud the session takes seconds.
        one_meter(opened, "--offer", "300", "--drift", "40")
        path = invoke(opened, "set_time")
        kill_while_running(opened, path, 0.3)
        opened.wait_for("its end", lambda: opened.hub.get(path)["state"] == "interrupted")
        ended = opened.hub.get(path)
        assert "restarted while it ran" in ended["cause"]
        opened.wait_settled()
        asked = opened.truth_path("one").read_text().count('"single"')
        time.sleep(6)
        # Nobody calls the meter again for it, and a second word of the hub's changes nothing.
        assert opened.truth_path("one").read_text().count('"single"') == asked
        assert opened.hub.get(path)["state"] == "interrupted"
        assert opened.hub.get(path)["cause"] == ended["cause"]


def test_a_line_is_found_again_at_once_after_a_kill_at_its_full_rate(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path) as opened:
        one_meter(opened, "--offer", "9600", "--history", "20")
        long = invoke(opened, "read_archive_by_offset_seconds", offset_seconds=20 * 86_400, archive_number=3,
                      control_position=3)  # fmt: skip
        kill_while_running(opened, long, 1.5)
        read = invoke(opened, "read_single_value", address="2:300")
        opened.wait_for(
            "its end", lambda: opened.hub.get(read)["state"] not in {"pending", "sent", "accepted", "running"}
        )
        assert opened.hub.get(read)["state"] == "done", opened.hub.get(read)
        (run,) = [run for run in opened.hub.all("/v1/runs/") if f"/v1/commands/{run['command']}" == read]
        took = (instant(run["ended"]) - instant(run["started"])).total_seconds() / RATE
        assert took < SECONDS
        assert opened.hub.get(long)["state"] == "interrupted"
