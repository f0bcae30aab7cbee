"""A client of the published interface, as it was written before this hub: every path in its table, in its order of use.

It knows the published paths, methods, statuses, fields and types, and nothing that is additive. Each request goes out
with and without the slash at the end.
"""

import dataclasses
import datetime as dt
import decimal
import re
import uuid
from typing import Any

from tests.parts.databases import database_url, engine
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

ANY = {
    "uuid": lambda value: bool(uuid.UUID(value)),
    "int": lambda value: type(value) is int,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "time": lambda value: dt.datetime.fromisoformat(value).utcoffset() is not None and "T" in value,
    "decimal": lambda value: isinstance(value, str) and decimal.Decimal(value).is_finite(),
    "uuids": lambda value: all(uuid.UUID(one) for one in value) and isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
"""Published types; with ``?`` the value may be null."""

ORGANIZATION = "id:uuid name:str is_active:bool members:uuids created_at:time updated_at:time"
GROUP = "id:uuid name:str organization:uuid description:str tasks:uuids tasks_info:str created_at:time updated_at:time"
TASK = (
    "id:uuid organization:uuid name:str description:str is_active:bool schedule:str run_offset_seconds:int "
    "meter_execution_type:str task_call:str task_kwargs:object? created_at:time updated_at:time"
)
CONFIG = "id:uuid organization:uuid name:str series:uuids series_info:str timezone:str created_at:time updated_at:time"
TYPE = (
    "id:uuid organization:uuid name:str description:str manufacturer:str manufacturer_model:str config:uuid? "
    "created_at:time updated_at:time"
)
DEVICE = (
    "id:uuid organization:uuid? name:str external_system_reference:str? manufacturer_serial:str? protocol:str "
    "iec62056_21_address:str? dlms_logical_device_name:str? dlms_system_title:str? type:uuid? task_groups:uuids "
    "meter_tasks:uuids network_interface:uuid? network_interface_info:str? has_current_transformer:bool "
    "current_transformer_ratio:int has_voltage_transformer:bool voltage_transformer_ratio:int has_disconnector:bool "
    "disconnector_status:int? created_at:time updated_at:time"
)
SERIES = (
    "id:uuid organization:uuid name:str description:str unit:str unit_description:str? si_multiplier:decimal "
    "affected_by_ct_ratio:bool affected_by_vt_ratio:bool created_at:time updated_at:time"
)
READING = "id:int organization:uuid meter_device:uuid series:uuid timestamp:time value:decimal created_at:time"
EVENT = (
    "id:int organization:uuid meter_device:uuid timestamp:time title:str content:str created_at:time updated_at:time"
)
INTERFACE = (
    "id:uuid organization:uuid static_ip_address:str? host:str? fqdn:str? port:int? sim:uuid? can_block:bool "
    "is_blocked:bool block_time:time? created_at:time updated_at:time"
)
STAGED = "id:int meter_device_name:str series_name:str timestamp:time value:decimal created_at:time updated_at:time"
PUSHED = "meter:str series:str timestamp:time value:decimal"
INVOKED = "meter_device:uuid meter_execution_type:str task_call:str task_kwargs:object run_offset_seconds:int"


@dataclasses.dataclass
class Client:
    """The published interface as a client uses it; ``used`` is what was asked of it."""

    rest: Rest
    used: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    slash: bool = False

    async def ask(self, method: str, path: str, status: int, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request, every other time with a slash at the end."""
        bare, _, query = path.partition("?")
        self.used.add((method, re.sub(r"/([0-9]+|[0-9a-f-]{36})$", "/{id}", bare.rstrip("/"))))
        self.slash = not self.slash
        place = bare.rstrip("/") + ("/" if self.slash else "") + (f"?{query}" if query else "")
        return await self.rest.call(method, place, body, status)

    async def make(self, path: str, shape: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Create, read back, find in the list, page."""
        made = await self.ask("POST", path, 201, body)
        check(made, shape)
        for name, value in body.items():
            assert name in made, f"{path} {name}"
            if not (name == "timestamp" or "decimal" in dict(pair.split(":") for pair in shape.split())[name]):
                assert made[name] == value, f"{path} {name}"
        check(await self.ask("GET", f"{path}/{made['id']}", 200), shape)
        page = await self.ask("GET", f"{path}?limit=1&offset=0", 200)
        assert set(page) == {"count", "next", "previous", "results"}
        assert type(page["count"]) is int
        check(page["results"][0], shape)
        assert made["id"] in {row["id"] for row in (await self.ask("GET", path, 200))["results"]}
        return made

    async def edit(self, path: str, shape: str, made: dict[str, Any], **patch: object) -> None:
        """Put back what was read, with and without read-only fields; change one field."""
        place = f"{path}/{made['id']}"
        assert (await self.ask("PUT", place, 200, made)) == made
        names = {pair.split(":")[0] for pair in shape.split()}
        check(await self.ask("PUT", place, 200, {name: made[name] for name in names}), shape)
        changed = await self.ask("PATCH", place, 200, patch)
        check(changed, shape)
        assert {name: changed[name] for name in patch} == patch

    async def drop(self, path: str, made: dict[str, Any]) -> None:
        """Delete; then there is nothing."""
        place = f"{path}/{made['id']}"
        assert await self.ask("DELETE", place, 204) is None
        await self.ask("GET", place, 404)
        await self.ask("DELETE", place, 404)


def check(answer: dict[str, Any], shape: str) -> None:
    """Check that the answer has the published fields, in their types."""
    for pair in shape.split():
        name, kind = pair.split(":")
        value = answer[name]
        assert (kind.endswith("?") and value is None) or (value is not None and ANY[kind.rstrip("?")](value)), pair


async def test_a_client_of_the_published_interface_works_unchanged(rest: Rest) -> None:  # noqa: PLR0915 - one story
    client = Client(rest)
    metering = "/v1/metering"
    organization = await client.make("/v1/organizations", ORGANIZATION, name="Stadtwerke", is_active=True)
    await client.edit("/v1/organizations", ORGANIZATION, organization, name="Stadtwerke Nord")
    owner = {"organization": organization["id"]}

    series = await client.make(
        f"{metering}/meter-reading-series",
        SERIES,
        **owner,
        name="2:300",
        description="",
        unit="m3",
        unit_description=None,
        si_multiplier="1.0",
        affected_by_ct_ratio=False,
        affected_by_vt_ratio=False,
    )
    await client.edit(f"{metering}/meter-reading-series", SERIES, series, description="volume at base conditions")
    for query in ("name=2:300", "unit=m3", "name=2:300&unit=m3"):
        assert (await client.ask("GET", f"{metering}/meter-reading-series?{query}", 200))["count"] == 1
    config = await client.make(
        f"{metering}/meter-device-configs", CONFIG, **owner, name="EK280", series=[series["id"]], timezone="UTC"
    )
    await client.edit(f"{metering}/meter-device-configs", CONFIG, config, timezone="Europe/Berlin")
    kind = await client.make(
        f"{metering}/meter-device-types",
        TYPE,
        **owner,
        name="EK280",
        description="corrector",
        manufacturer="Elster",
        manufacturer_model="EK280",
        config=config["id"],
    )
    await client.edit(f"{metering}/meter-device-types", TYPE, kind, description="volume corrector")
    line = await client.make(
        f"{metering}/network-interfaces",
        INTERFACE,
        **owner,
        static_ip_address="192.0.2.7",
        fqdn=None,
        port=4001,
        sim=None,
        can_block=False,
    )
    assert line["host"] == "192.0.2.7"
    await client.edit(f"{metering}/network-interfaces", INTERFACE, line, fqdn="meter.example")
    assert (await client.ask("GET", f"{metering}/network-interfaces/{line['id']}", 200))["host"] == "meter.example"
    task = await client.make(
        f"{metering}/amr-tasks",
        TASK,
        **owner,
        name="hourly volumes",
        description="",
        is_active=True,
        schedule="hourly",
        run_offset_seconds=3600,
        meter_execution_type="generic_lis200",
        task_call="read_archive_by_offset_seconds",
        task_kwargs={"offset_seconds": 7200, "archive_number": 3, "control_position": 3},
    )
    await client.edit(f"{metering}/amr-tasks", TASK, task, schedule="daily")
    group = await client.make(
        f"{metering}/amr-task-groups", GROUP, **owner, name="all", description="", tasks=[task["id"]]
    )
    await client.edit(f"{metering}/amr-task-groups", GROUP, group, description="for all meters")
    meter = await client.make(
        f"{metering}/meter-devices",
        DEVICE,
        **owner,
        name="Heating plant",
        external_system_reference="E-1",
        manufacturer_serial="4711",
        protocol="lis-200",
        iec62056_21_address=None,
        dlms_logical_device_name="LDN",
        dlms_system_title="0011223344556677",
        type=kind["id"],
        task_groups=[group["id"]],
        meter_tasks=[],
        network_interface=line["id"],
        has_current_transformer=False,
        current_transformer_ratio=1,
        has_voltage_transformer=False,
        voltage_transformer_ratio=1,
        has_disconnector=True,
        disconnector_status=2,
    )
    await client.edit(f"{metering}/meter-devices", DEVICE, meter, meter_tasks=[task["id"]], disconnector_status=None)
    for query in (
        "name=Heating plant",
        "external_system_reference=E-1",
        "manufacturer_serial=4711",
        "dlms_logical_device_name=LDN",
        "dlms_system_title=0011223344556677",
    ):
        assert (await client.ask("GET", f"{metering}/meter-devices?{query}", 200))["count"] == 1
        assert (await client.ask("GET", f"{metering}/meter-devices?{query}%25", 200))["count"] == 0

    at = {"timestamp": "2026-03-02T07:00:00+01:00"}
    of_meter = {**owner, "meter_device": meter["id"]}
    reading = await client.make(
        f"{metering}/meter-readings", READING, **of_meter, **at, series=series["id"], value="12.50"
    )
    assert reading["value"] == "12.50"
    event = await client.make(f"{metering}/meter-system-events", EVENT, **of_meter, **at, title="door", content="open")
    for path, query in (("meter-readings", f"&series={series['id']}"), ("meter-system-events", "")):
        span = "start_time=2026-03-02T06:00:00Z&end_time=2026-03-02T07:00:00%2B01:00"
        found = await client.ask("GET", f"{metering}/{path}?meter_device={meter['id']}&{span}{query}", 200)
        assert found["count"] == 1
        later = await client.ask("GET", f"{metering}/{path}?start_time=2026-03-02T06:00:01Z", 200)
        assert later == {"count": 0, "next": None, "previous": None, "results": []}
    staged = await client.make(
        f"{metering}/staged-meter-readings", STAGED, **at, meter_device_name="Late", series_name="2:300", value="1"
    )
    await client.edit(f"{metering}/staged-meter-readings", STAGED, staged, meter_device_name="Later")
    found = await client.ask("GET", f"{metering}/staged-meter-readings?meter_device_name=Later", 200)
    assert found["count"] == 1
    new = {"meter": "Heating plant", "series": "2:300", "timestamp": "2026-03-02T08:00:00Z", "value": "13.0"}
    check(await client.ask("POST", f"{metering}/new-meter-readings", 201, new), PUSHED)
    for one in await client.ask("POST", f"{metering}/new-meter-readings", 201, [new, {**new, "meter": "Nobody"}]):
        check(one, PUSHED)
    call = {
        "meter_device": meter["id"],
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "2:300"},
        "run_offset_seconds": 0,
    }
    await client.ask("POST", f"{metering}/amr-tasks/invoke", 409, call)
    gateway = await rest.post("/v1/gateways", organization=organization["id"], gateway_id="gw-1")
    await rest.patch(f"{metering}/network-interfaces/{line['id']}", gateway=gateway["id"])
    check(await client.ask("POST", f"{metering}/amr-tasks/invoke", 201, call), INVOKED)

    for path, made in (
        (f"{metering}/staged-meter-readings", staged),
        (f"{metering}/meter-system-events", event),
        (f"{metering}/meter-readings", reading),
    ):
        await client.drop(path, made)
    for row in (await client.ask("GET", f"{metering}/meter-readings", 200))["results"]:
        await client.drop(f"{metering}/meter-readings", row)
    for path, made in (
        (f"{metering}/meter-devices", meter),
        (f"{metering}/amr-task-groups", group),
        (f"{metering}/amr-tasks", task),
        (f"{metering}/network-interfaces", line),
        (f"{metering}/meter-device-types", kind),
        (f"{metering}/meter-device-configs", config),
        (f"{metering}/meter-reading-series", series),
    ):
        await client.drop(path, made)
    empty = await client.make("/v1/organizations", ORGANIZATION, name="Nobody's")
    await client.drop("/v1/organizations", empty)
    assert client.used == in_scope()


def in_scope() -> set[tuple[str, str]]:
    """Return the published table's methods and paths, but for logins, memberships, SIM cards and security keys."""
    every = {"GET", "POST"}, {"GET", "PUT", "PATCH", "DELETE"}
    kept = {"GET", "POST"}, {"GET", "DELETE"}
    found = {("POST", "/v1/metering/amr-tasks/invoke"), ("POST", "/v1/metering/new-meter-readings")}
    for name, (all_of_it, one) in {
        "organizations": every,
        "metering/amr-task-groups": every,
        "metering/amr-tasks": every,
        "metering/meter-device-configs": every,
        "metering/meter-device-types": every,
        "metering/meter-devices": every,
        "metering/meter-reading-series": every,
        "metering/meter-readings": kept,
        "metering/meter-system-events": kept,
        "metering/network-interfaces": every,
        "metering/staged-meter-readings": every,
    }.items():
        found |= {(method, f"/v1/{name}") for method in all_of_it}
        found |= {(method, f"/v1/{name}/{{id}}") for method in one}
    return found
