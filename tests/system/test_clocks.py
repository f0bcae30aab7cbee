"""Gateways whose clocks are wrong: they do no harm, say why they wait, and go on when the clock is right again."""

import datetime as dt
import pathlib
import time

from deploy.demo.expected import instant
from tests.parts.site import Site, site

RATE = 60.0
"""A quarter of an hour passes in 15 seconds, and five minutes (what the hub's time may differ by) in five."""
QUICK_RATE = 120.0
"""Where nobody compares with the hub's time."""
WRONG = {"gw-1970": "1970-01-01T00:10:00+00:00", "gw-tuesday": "2026-02-24T09:58:00+00:00",
         "gw-2099": "2099-07-01T12:00:00+00:00"}  # fmt: skip
QUARTER = dt.timedelta(minutes=15)


def show(opened: Site, gateway: str, shown: str, standing: str) -> None:
    """Set a gateway's clock, as somebody does who moves it while the agent runs."""
    path = opened.folder / f"clock-{gateway}"
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{shown}@{time.time()!r},{opened.clock.rate!r},{standing}", encoding="utf-8")
    fresh.replace(path)


def right(opened: Site) -> str:
    """What the clocks of the hub and the meters show."""
    return opened.clock.now().isoformat()


def start_agent(opened: Site, gateway: str) -> None:
    """Start an agent on a clock of its own."""
    opened.stage.environment["METERGATE_CLOCK_FILE"] = str(opened.folder / f"clock-{gateway}")
    opened.start_agent(gateway)
    del opened.stage.environment["METERGATE_CLOCK_FILE"]


def add_gateway(opened: Site, gateway: str, serial: str) -> None:
    """A gateway with one meter, polled every quarter of an hour."""
    opened.create_gateway(gateway, opened.start_line(gateway, f":{serial}"))
    opened.create_meter(f"meter of {gateway}", serial, gateway, "archive", "volume")


def ask(opened: Site, gateway: str, call: str, **kwargs: object) -> str:
    """Ask for a call on the gateway's meter; return the command."""
    answer = opened.hub.post(
        "/v1/metering/amr-tasks/invoke",
        meter_device=opened.devices[f"meter of {gateway}"],
        meter_execution_type="generic_lis200",
        task_call=call,
        task_kwargs=kwargs,
        run_offset_seconds=0,
        ttl_seconds=86_400,
    )
    return str(answer["command"])


def ended(opened: Site, command: str) -> dict[str, object]:
    """Return a command when it has ended."""
    return dict(opened.hub.get(f"/v1/commands/{command}", wait=30))


def scheduled(opened: Site, gateway: str) -> list[dict[str, object]]:
    """Return what the hub knows of the gateway's scheduled runs."""
    runs = opened.hub.all("/v1/runs/", gateway=opened.gateways[gateway])
    return [run for run in runs if run["tick"] is not None]


def test_a_gateway_with_a_wrong_clock_waits_says_why_and_goes_on(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path, rate=RATE) as opened:
        opened.create_basics()
        opened.create_archive_task()
        opened.create_task("volume", "read_single_value", address="2:300")
        for number, (gateway, shown) in enumerate(WRONG.items()):
            add_gateway(opened, gateway, str(4011220 + number))
            show(opened, gateway, shown, "judged")
            start_agent(opened, gateway)
        for gateway in WRONG:
            opened.wait_for("the plan", lambda gateway=gateway: opened.gateway(gateway)["in_step"])  # type: ignore[misc]
        quarter_over = time.monotonic() + QUARTER.total_seconds() / RATE
        reads = [ask(opened, gateway, "read_single_value", address="4:302") for gateway in WRONG]
        writes = [ask(opened, gateway, "set_time") for gateway in WRONG]
        for gateway, read, write in zip(WRONG, reads, writes, strict=True):
            state = opened.gateway(gateway)
            assert not state["clock_believed"]
            assert "the clock was never confirmed" in state["status"]
            # Whoever asks for a value gets it, with the time that the gateway had; a meter's clock is not touched.
            answer = ended(opened, read)
            assert answer["state"] == "done", answer
            refused = ended(opened, write)
            assert refused["state"] in {"failed", "refused"}, refused
            assert "clock" in str(refused["cause"]), refused
        told = opened.stage.run(
            ["metergate-agent", "outbox", "--config", str(opened.agent_folder("gw-2099") / "agent.toml")]
        )
        assert "status: the clock was never confirmed" in told
        time.sleep(max(0.0, quarter_over - time.monotonic()))
        assert not any(scheduled(opened, gateway) for gateway in WRONG)
        healed = opened.clock.now()
        show(opened, "gw-1970", right(opened), "judged")
        show(opened, "gw-tuesday", right(opened), "synchronised")
        show(opened, "gw-2099", right(opened), "judged")
        for gateway in WRONG:
            opened.wait_for("belief", lambda gateway=gateway: opened.gateway(gateway)["clock_believed"])  # type: ignore[misc]
        for gateway in WRONG:
            opened.wait_for(
                "the schedule",
                lambda gateway=gateway: {run["outcome"] for run in scheduled(opened, gateway)} == {"done"},  # type: ignore[misc]
            )
            assert all(
                instant(str(run["tick"])) >= healed - dt.timedelta(minutes=1) for run in scheduled(opened, gateway)
            )
        assert ended(opened, ask(opened, "gw-2099", "set_time"))["state"] == "done"
        # What was read by the wrong clocks is where it was, with the time that it was read at.
        staged = opened.hub.all("/v1/metering/staged-meter-readings")
        years = {str(row["timestamp"])[:4] for row in staged}
        readings = opened.hub.all("/v1/metering/meter-readings", series=opened.series["4:302"])
        stamps = {str(row["timestamp"])[:10] for row in readings}
        assert years | {stamp[:4] for stamp in stamps} >= {"1970", "2099"}
        assert "2026-02-24" in stamps | {str(row["timestamp"])[:10] for row in staged}


def test_ten_years_ahead_and_back_while_it_runs(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path, rate=QUICK_RATE) as opened:
        opened.create_basics()
        opened.create_archive_task()
        opened.create_task("volume", "read_single_value", address="2:300")
        add_gateway(opened, "gw-1", "4011220")
        show(opened, "gw-1", right(opened), "synchronised")
        start_agent(opened, "gw-1")
        opened.wait_for("two runs", lambda: len(scheduled(opened, "gw-1")) >= 2)
        ahead = (opened.clock.now() + dt.timedelta(days=3653)).isoformat()
        show(opened, "gw-1", ahead, "synchronised")
        opened.wait_for("runs ahead", lambda: any(str(run["tick"]) > "2036" for run in scheduled(opened, "gw-1")))
        time.sleep(2)
        there = scheduled(opened, "gw-1")
        show(opened, "gw-1", right(opened), "synchronised")
        back = opened.clock.now()
        opened.wait_for(
            "runs of the right time",
            lambda: sum(back < instant(str(run["tick"])) < back + 8 * QUARTER and run["outcome"] == "done"
                        for run in scheduled(opened, "gw-1")) >= 2,
            60 + QUARTER.total_seconds() / QUICK_RATE,
        )  # fmt: skip
        runs = scheduled(opened, "gw-1")
        begun = [(run["task"], run["tick"]) for run in runs if run["outcome"] != "missed"]
        assert len(begun) == len(set(begun))
        # Ten years are two runs, one of each task, and a few rows.
        assert sum(str(run["tick"]) > "2036" and run["outcome"] != "missed" for run in there) <= 4
        missed = [run for run in runs if run["outcome"] == "missed"]
        assert len(missed) <= 6, missed
        assert sum(int(str(run["count"])) for run in missed) > 2 * 3650 * 96
        assert all(run["cause"] for run in missed)
