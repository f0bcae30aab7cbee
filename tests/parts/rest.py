"""The hub's REST application in the test's own process, with a staff token, on either database."""

import dataclasses
import datetime as dt
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.app import create_app
from hub.clocks import Clock
from hub.database import create_engine, writing
from hub.session_keys import SessionKeys
from hub.settings import Settings
from hub.state import Hub
from hub.tokens import create_token
from protocol.envelopes import SigningKey


class ShownClock(Clock):
    """A clock that shows what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

    def now(self) -> dt.datetime:
        """Return the shown instant."""
        return self.shown

    def advance(self, **time: float) -> None:
        """Let time pass."""
        self.shown += dt.timedelta(**time)


@dataclasses.dataclass
class Rest:
    """A client of the application, and what belongs to it."""

    hub: Hub
    client: httpx.AsyncClient
    clock: ShownClock

    def settle(self, **settings: Any) -> None:  # noqa: ANN401 - fields of Settings
        """Go on with other settings."""
        self.hub = dataclasses.replace(self.hub, settings=dataclasses.replace(self.hub.settings, **settings))
        application().state.hub = self.hub

    async def call(self, method: str, path: str, body: object = None, status: int = 200) -> Any:  # noqa: ANN401 - JSON
        """Send a request; check its status; return the decoded answer (None for an empty one)."""
        answer = await self.client.request(method, path, json=body)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def get(self, path: str, status: int = 200) -> Any:  # noqa: ANN401 - JSON
        """Read."""
        return await self.call("GET", path, status=status)

    async def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Create."""
        return await self.call("POST", path, body, 201)

    async def patch(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Change."""
        return await self.call("PATCH", path, body)

    async def wrong_fields(self, method: str, path: str, body: object) -> set[str]:
        """Send something wrong; return the fields that the 422 names."""
        problem = await self.call(method, path, body, 422)
        return {error["field"] for error in problem["errors"]}


@dataclasses.dataclass
class Fleet:
    """The ids of one organization's things: one gateway, line, series, config, type, task, group and meter."""

    organization: str
    gateway: str
    line: str
    series: str
    config: str
    type: str
    task: str
    group: str
    meter: str


async def create_fleet(rest: Rest, name: str = "utility") -> Fleet:
    """Create everything that one polled meter needs, through REST."""
    organization = (await rest.post("/v1/organizations/", name=name))["id"]

    async def new(path: str, **body: object) -> str:
        return str((await rest.post(path, organization=organization, **body))["id"])

    gateway = await new("/v1/gateways/", gateway_id=f"gw-{name}")
    line = await new("/v1/metering/network-interfaces", gateway=gateway, serial_port="/dev/ttyS0")
    series = await new("/v1/metering/meter-reading-series", name="2:300", unit="m3")
    config = await new("/v1/metering/meter-device-configs", name="EK280", series=[series], timezone="Europe/Berlin")
    kind = await new(
        "/v1/metering/meter-device-types", name="EK280", manufacturer="E", manufacturer_model="EK280", config=config
    )
    task = await new("/v1/metering/amr-tasks/", **TASK)
    group = await new("/v1/metering/amr-task-groups/", name="all", tasks=[task])
    meter = await new(
        "/v1/metering/meter-devices",
        name="Heating plant",
        protocol="lis-200",
        type=kind,
        network_interface=line,
        task_groups=[group],
    )
    return Fleet(organization, gateway, line, series, config, kind, task, group, meter)


TASK = {
    "name": "volume",
    "schedule": "quarterly",
    "run_offset_seconds": 10,
    "meter_execution_type": "generic_lis200",
    "task_call": "read_single_value",
    "task_kwargs": {"address": "2:300"},
}


@functools.cache
def application() -> Litestar:
    """Return the application; the hub behind it is put into its state."""
    return create_app(Hub(Settings("sqlite://"), create_engine("sqlite:///never-opened.db"), Clock()))


@pytest.fixture
async def rest(engine: AsyncEngine, database_url: str, tmp_path: Path) -> AsyncIterator[Rest]:
    """Return a client with a staff token on an empty database."""
    clock = ShownClock()
    keys = SessionKeys(SigningKey(bytes(32)), tmp_path / "hub.key.sessions")
    # A stream of events that nobody ends is over at once, so that walks over all paths get on.
    hub = Hub(Settings(database_url, stream_seconds=0.05), engine, clock, session_keys=keys)
    async with writing(engine) as session:
        key = await create_token(session, "test", clock.now())
    # Making the application takes longer than most tests: it is the same for all, but for its hub.
    app = application()
    app.state.hub = hub
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    headers = {"Authorization": f"Token {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://hub", headers=headers) as client:
        yield Rest(hub, client, clock)
