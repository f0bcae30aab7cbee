"""A hub that runs as a process and answers over HTTP: one on SQLite and one on PostgreSQL per test process.

Both are started when first asked for and serve all tests that import the fixture ``running``; so each test makes what
it needs under names of its own. What the process logged can be searched, and its memory measured.
"""

import asyncio
import atexit
import datetime as dt
import functools
import pathlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from deploy.demo.processes import Process, Stage, program
from hub.keys import open_key
from hub.settings import sqlite_url
from tests.parts.databases import BOTH, new_postgresql

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
"""Before the first of the instants that the tests' readings have."""

PASSWORD = "correct horse battery staple"  # noqa: S105 - of users that nobody else has
"""The password of every user that is made here."""


class RunningHub:
    """A client of a hub's process, with a staff token. The one on SQLite has a relay."""

    def __init__(self, process: Process, url: str, token: str, database: str) -> None:
        self.process = process
        self.url = url
        self.token = token
        self.database = database
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60)

    def ask(self, method: str, path: str, body: object = None, status: int | None = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request; check its status if one is given; return the decoded answer, None for an empty one."""
        answer = self.client.request(method, path, json=body)
        if status is not None:
            assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Create."""
        return self.ask("POST", path, body, 201)

    def wrong_fields(self, method: str, path: str, body: object) -> set[str]:
        """Send something wrong; return the fields that the 422 names."""
        return {error["field"] for error in self.ask(method, path, body, 422)["errors"]}

    def log(self) -> str:
        """What the process has logged so far."""
        return self.process.log.read_text("utf-8", "replace")

    def peak_bytes(self) -> int:
        """The most memory that the process ever held."""
        status = pathlib.Path(f"/proc/{self.process.popen.pid}/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@functools.cache
def running_hub(kind: str) -> RunningHub:
    """Start the hub on one of the databases, or return the one that runs; it ends with the test process."""
    # In memory where there is such a place: nothing here has to survive a power cut.
    memory = pathlib.Path("/dev/shm")  # noqa: S108 - mkdtemp makes a name that nobody can foresee
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"metergate-{kind}-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    stage = Stage(folder, {})
    atexit.register(stage.__exit__)
    if kind == "sqlite":
        place, url = ["--data", str(folder / "data")], sqlite_url(folder / "data")
        command = ["metergate-hub", "run", "--port", "0", "--mqtt-port", "0", *place]
    else:
        # Its server ends with this process, and the database with it.
        _, url = asyncio.run(new_postgresql())
        place = ["--database", url]
        command = ["metergate-hub", "serve", "--port", "0", "--data", str(folder), *place]
        # In place of a relay, which would say what secrets are sealed for.
        open_key(folder / "hub.key")
        rotate = [program("metergate-hub"), "keys", "rotate", "--data", str(folder), *place]
        subprocess.run(rotate, check=True, capture_output=True)
    made = subprocess.run(
        [program("metergate-hub"), "token", "create", "test", *place], check=True, capture_output=True, text=True
    )
    process = stage.start("hub", command, hello=True)
    return RunningHub(process, process.hello["rest"], made.stdout.split()[-1], url)


@pytest.fixture(params=BOTH)
def running(request: pytest.FixtureRequest) -> RunningHub:
    """Return the running hub on SQLite, then the one on PostgreSQL."""
    return running_hub(request.param)


class Things:
    """What an object needs beside itself, made once per hub; and bodies of new objects that the hub accepts."""

    def __init__(self, hub: RunningHub) -> None:
        self.hub = hub
        self.count = 0
        self.organization = str(hub.post("/v1/organizations/", name=self.name("organization"))["id"])
        owner = {"organization": self.organization}
        metering = "/v1/metering"
        gateway = hub.post("/v1/gateways", **owner, gateway_id=f"gw-{uuid.uuid4().hex[:12]}")
        self.series = self._made(f"{metering}/meter-reading-series", **owner, name="1-0:1.8.0", unit="kWh")
        self.config = self._made(f"{metering}/meter-device-configs", **owner, name="config", series=[self.series])
        self.type = self._made(
            f"{metering}/meter-device-types",
            **owner,
            name="type",
            manufacturer="Elster",
            manufacturer_model="EK280",
            config=self.config,
        )
        self.sim = self._made(f"{metering}/sim-cards", **owner, iccid=self.name("8949"), imsi="262011234567890")
        self.line = self._made(
            f"{metering}/network-interfaces", **owner, gateway=gateway["id"], serial_port="/dev/ttyS0"
        )
        self.task = self._made(f"{metering}/amr-tasks", **self.task_body())
        self.group = self._made(f"{metering}/amr-task-groups", **owner, name="group")
        self.meter_name = self.name("meter")
        self.meter = self._made(
            f"{metering}/meter-devices",
            **owner,
            name=self.meter_name,
            protocol="lis-200",
            type=self.type,
            network_interface=self.line,
        )

    def _made(self, path: str, **body: object) -> str:
        return str(self.hub.post(path, **body)["id"])

    def name(self, word: str) -> str:
        """A name that nothing has yet."""
        self.count += 1
        return f"{word[:4]}{self.count}{uuid.uuid4().hex[:6]}"

    def new_meter(self) -> dict[str, Any]:
        """Make another meter of the same type; its fields that lists can be filtered by are its own."""
        made: dict[str, Any] = self.hub.post(
            "/v1/metering/meter-devices",
            organization=self.organization,
            name=self.name("meter"),
            protocol="lis-200",
            type=self.type,
            external_system_reference=self.name("ref"),
            manufacturer_serial=self.name("nr"),
            dlms_logical_device_name=self.name("ldn"),
            dlms_system_title=self.name("st"),
        )
        return made

    def new_user(self) -> dict[str, Any]:
        """Make another user, who belongs to no organization yet."""
        made: dict[str, Any] = self.hub.post("/v1/users", username=self.name("user"), password=PASSWORD)
        return made

    @functools.cached_property
    def _user(self) -> str:
        return str(self.new_user()["id"])

    def _new_organization(self) -> str:
        return self._made("/v1/organizations", name=self.name("organization"))

    def task_body(self) -> dict[str, Any]:
        """A new task as little as it may be."""
        return {
            "organization": self.organization,
            "name": self.name("task"),
            "schedule": "hourly",
            "meter_execution_type": "generic_lis200",
            "task_call": "set_time",
        }

    def instant(self) -> str:
        """An instant that nothing has yet."""
        self.count += 1
        return f"{START + dt.timedelta(seconds=self.count):%Y-%m-%dT%H:%M:%SZ}"

    def body(self, owner: str) -> dict[str, Any]:
        """Return the least body that the hub accepts of a new object."""
        mine = {"organization": self.organization}
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "Organization": lambda: {"name": self.name("organization")},
            # Always the same user: to hash a password takes longer than all else that is asked.
            "OrganizationMember": lambda: {"organization": self._new_organization(), "user": self._user},
            "AmrTaskGroup": lambda: {**mine, "name": self.name("group")},
            "AmrTask": self.task_body,
            "MeterDeviceConfig": lambda: {**mine, "name": self.name("config"), "series": []},
            "MeterDeviceType": lambda: {
                **mine,
                "name": self.name("type"),
                "manufacturer": "Elster",
                "manufacturer_model": "EK280",
            },
            "MeterDevice": lambda: {**mine, "name": self.name("meter"), "protocol": "lis-200"},
            "MeterReadingsSeries": lambda: {**mine, "name": self.name("series"), "unit": "kWh"},
            "MeterReadings": lambda: {
                **mine,
                "meter_device": self.meter,
                "series": self.series,
                "timestamp": self.instant(),
                "value": "12.50",
            },
            "MeterSecurityKeyCollection": lambda: {"meter": self.new_meter()["id"]},
            "MeterSystemEvent": lambda: {
                **mine,
                "meter_device": self.meter,
                "timestamp": self.instant(),
                "title": "door",
                "content": "open",
            },
            "NetworkInterface": lambda: dict(mine),
            "SimCard": lambda: {**mine, "iccid": self.name("8949"), "imsi": self.name("26")},
            "StagedMeterReading": lambda: {
                "meter_device_name": self.name("late"),
                "series_name": "1-0:1.8.0",
                "timestamp": self.instant(),
                "value": "1",
            },
        }
        return made[owner]()


@functools.cache
def _things(hub: RunningHub) -> Things:
    return Things(hub)


@pytest.fixture
def things(running: RunningHub) -> Things:
    """Return what the tests of this process share on the running hub."""
    return _things(running)
