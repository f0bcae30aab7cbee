"""The demo's fleet: three simulated meters, two gateways, five tasks, and everything the hub must know of them."""

import dataclasses
from typing import Any

from deploy.demo.hub_client import HubClient

ZONE = "Europe/Berlin"
ARCHIVE_SPAN_SECONDS = 43_200
RUN_OFFSET_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class MeterPlace:
    """One meter of the demo: where it stands, what it is, which series it gives and how its archive is asked.

    ``pushed`` is the series that its modem pushes; empty where the archive is polled.
    """

    name: str
    address: str
    serial: str
    model: str
    gateway: str
    archive: int
    time_position: int
    single: str
    series: tuple[tuple[str, str], ...]
    pushed: str = ""


EK_SERIES = (
    ("2:300", "m3"),
    ("2:302", "m3"),
    ("4:300", "m3"),
    ("4:302", "m3"),
    ("7:310/3", "bar"),
    ("6:310_1/3", "°C"),
    ("8:310/3", "1"),
    ("5:310/3", "1"),
    ("7:310", "bar"),
    ("6:310_1", "°C"),
)
TC_SERIES = (
    ("2:300", "m3"),
    ("2:302", "m3"),
    ("4:300", "m3"),
    ("4:302", "m3"),
    ("6:310_1/3", "°C"),
    ("7:310/3", "kPa"),
    ("5:310/3", "1"),
    ("6:310_1", "°C"),
)
DL_SERIES = (("1:202", "m3"), ("1:203", "m3"), ("2:404", "M"))

METERS = (
    MeterPlace("Heating plant", "1", "4011220", "EK280", "north", 3, 3, "7:310", EK_SERIES),
    MeterPlace("Bakery", "2", "5120077", "TC220", "north", 3, 2, "6:310_1", TC_SERIES),
    MeterPlace("Glass works", "", "7300415", "DL220", "south", 2, 3, "2:404", DL_SERIES, "1:202"),
)
POLLED = tuple(place for place in METERS if not place.pushed)
PUSHING = next(place for place in METERS if place.pushed)
GATEWAYS = ("north", "south")
PUSH_DOOR = "modem"
"""The name of the receiver's endpoint: the last part of the topic."""


@dataclasses.dataclass
class Fleet:
    """Ids of what was created, by the demo's names."""

    organization: str
    gateways: dict[str, str]
    devices: dict[str, str]
    tasks: dict[str, str]
    group: str
    pushed_series: str
    interfaces: dict[str, str] = dataclasses.field(default_factory=dict)


def create_task(
    hub: HubClient, organization: str, name: str, call: str, kwargs: dict[str, Any], schedule: str = "quarterly"
) -> str:
    """Create a task, quarter-hourly unless said otherwise, and return its id."""
    task = hub.post(
        "/v1/metering/amr-tasks/",
        organization=organization,
        name=name,
        schedule=schedule,
        run_offset_seconds=RUN_OFFSET_SECONDS,
        meter_execution_type="generic_lis200",
        task_call=call,
        task_kwargs=kwargs,
        is_active=True,
    )
    return str(task["id"])


def archive_kwargs(place: MeterPlace) -> dict[str, int]:
    """Return the kwargs of the interval archive's read on this meter."""
    return {
        "offset_seconds": ARCHIVE_SPAN_SECONDS,
        "archive_number": place.archive,
        "control_position": place.time_position,
    }


def create_fleet(hub: HubClient, endpoints: dict[str, str]) -> Fleet:
    """Create organization, gateways, lines, series, configs, types, tasks, a group and the meters through REST.

    ``endpoints`` has the serial port of each gateway's line.
    """
    organization = str(hub.post("/v1/organizations/", name="Demo utility")["id"])
    gateways = {}
    interfaces = {}
    for name in GATEWAYS:
        gateway = hub.post("/v1/gateways/", organization=organization, gateway_id=name, name=f"Substation {name}")
        gateways[name] = str(gateway["id"])
        line = hub.post(
            "/v1/metering/network-interfaces",
            organization=organization,
            gateway=gateways[name],
            name=f"line {name}",
            serial_port=endpoints[name],
        )
        interfaces[name] = str(line["id"])

    units = {series: unit for place in METERS for series, unit in place.series}
    series_ids = {
        name: str(hub.post("/v1/metering/meter-reading-series", organization=organization, name=name, unit=unit)["id"])
        for name, unit in units.items()
    }
    tasks = {}
    for position in sorted({place.time_position for place in POLLED}):
        for archive in sorted({place.archive for place in POLLED if place.time_position == position}):
            place = next(p for p in POLLED if (p.time_position, p.archive) == (position, archive))
            tasks[f"archive {archive}/{position}"] = create_task(
                hub,
                organization,
                f"Intervals of archive {archive}, time in column {position}",
                "read_archive_by_offset_seconds",
                archive_kwargs(place),
            )
    tasks["volume"] = create_task(hub, organization, "Standard volume now", "read_single_value", {"address": "2:300"})
    tasks["battery"] = create_task(
        hub, organization, "Battery life", "read_single_value", {"address": PUSHING.single}, "hourly"
    )
    tasks["extra"] = create_task(hub, organization, "Temperature now", "read_single_value", {"address": "6:310_1"})
    group = hub.post(
        "/v1/metering/amr-task-groups/", organization=organization, name="Correctors", tasks=[tasks["volume"]]
    )
    devices = {}
    for place in METERS:
        config = hub.post(
            "/v1/metering/meter-device-configs",
            organization=organization,
            name=f"{place.model} in {ZONE}",
            series=[series_ids[name] for name, _ in place.series],
            timezone=ZONE,
            expectations=[{"series": place.pushed, "interval": "quarter_hour", "archive": place.archive}]
            if place.pushed
            else [],
        )
        device_type = hub.post(
            "/v1/metering/meter-device-types",
            organization=organization,
            name=place.model,
            manufacturer="Elster",
            manufacturer_model=place.model,
            config=config["id"],
        )
        device = hub.post(
            "/v1/metering/meter-devices",
            organization=organization,
            name=place.name,
            protocol="lis-200",
            iec62056_21_address=place.address or None,
            manufacturer_serial=place.serial,
            type=device_type["id"],
            network_interface=interfaces[place.gateway],
            task_groups=[] if place.pushed else [group["id"]],
            meter_tasks=[tasks["battery" if place.pushed else f"archive {place.archive}/{place.time_position}"]],
        )
        devices[place.name] = str(device["id"])
    hub.post(
        "/v1/receivers",
        organization=organization,
        gateway=gateways[PUSHING.gateway],
        name=f"{PUSHING.name}'s modem",
        receiver="amr_um",
        endpoint=f"mqtt:{PUSH_DOOR}",
        meter_devices=[devices[PUSHING.name]],
    )
    return Fleet(organization, gateways, devices, tasks, str(group["id"]), series_ids[PUSHING.pushed], interfaces)
