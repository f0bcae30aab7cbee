"""The published interface as data: every path, field, limit and status that existing clients rely on.

One line is one row, and one row is one case of ``test_rest_conformance``. These are the facts of the interface, written
down apart from the hub's code: when the two differ, the code is wrong.
"""

from collections.abc import Iterator
from typing import NamedTuple


class PathRow(NamedTuple):
    """One method of one path, the status of its success, and what its list can be filtered by."""

    method: str
    path: str
    status: int
    filters: tuple[str, ...]

    def __str__(self) -> str:
        """Name the case."""
        return f"{self.method} {self.path.removeprefix('/v1/')}"


class FieldRow(NamedTuple):
    """One field of one object. ``least`` and ``most`` are lengths of texts; ``choices`` is all that it may be."""

    owner: str
    name: str
    kind: str
    required: bool
    read_only: bool
    write_only: bool
    nullable: bool
    unique: bool
    least: int
    most: int | None
    choices: tuple[str, ...]

    def __str__(self) -> str:
        """Name the case."""
        return f"{self.owner}.{self.name}"


_ALL = "GET+ POST GET PUT PATCH DELETE"
_KEPT = "GET+ POST GET DELETE"
_STATUS = {"GET": 200, "GET+": 200, "POST": 201, "PUT": 200, "PATCH": 200, "DELETE": 204}

_METERING = f"""
amr-task-groups/ | {_ALL} |
amr-tasks/ | {_ALL} |
meter-device-configs | {_ALL} |
meter-device-types | {_ALL} |
meter-devices | {_ALL} | name external_system_reference manufacturer_serial dlms_logical_device_name dlms_system_title
meter-reading-series | {_ALL} | name unit
meter-readings | {_KEPT} | meter_device series start_time end_time
meter-security-keys | {_KEPT} | meter meter_name meter_external_system_reference meter_manufacturer_serial \
meter_dlms_system_title meter_dlms_logical_device_name
meter-system-events | {_KEPT} | meter_device start_time end_time
network-interfaces | {_ALL} |
sim-cards | {_ALL} | iccid imsi
staged-meter-readings | {_ALL} | meter_device_name start_time end_time
"""


def _collection(path: str, methods: str, filters: tuple[str, ...]) -> Iterator[PathRow]:
    """A collection's rows: ``GET+`` and ``POST`` of the list, the rest of one object."""
    for method in methods.split():
        listed = method in {"GET+", "POST"}
        place = path if listed else f"{path.rstrip('/')}/{{id}}"
        yield PathRow(method.rstrip("+"), place, _STATUS[method], filters if method == "GET+" else ())


def _metering() -> Iterator[PathRow]:
    for line in _METERING.strip().splitlines():
        path, methods, filters = (part.strip() for part in line.split("|"))
        yield from _collection(f"/v1/metering/{path}", methods, tuple(filters.split()))


PATHS: tuple[PathRow, ...] = (
    *_collection("/v1/organizations/", _ALL, ()),
    *_collection("/v1/organizations/memberships/", _ALL, ()),
    *_metering(),
    PathRow("POST", "/v1/metering/amr-tasks/invoke", 201, ()),
    PathRow("POST", "/v1/metering/new-meter-readings", 201, ()),
)
"""Every path beside those of signing in, which are ``SIGN_IN`` and have cases of their own."""

SIGN_IN: tuple[PathRow, ...] = (
    PathRow("POST", "/v1/auth/jwt/token/", 201, ()),
    PathRow("GET", "/v1/auth/jwt/renew/", 200, ()),
    PathRow("POST", "/v1/auth/jwt/change-organization/", 201, ()),
)

COLLECTIONS = {
    "Organization": "/v1/organizations/",
    "OrganizationMember": "/v1/organizations/memberships/",
    "AmrTaskGroup": "/v1/metering/amr-task-groups/",
    "AmrTask": "/v1/metering/amr-tasks/",
    "MeterDeviceConfig": "/v1/metering/meter-device-configs",
    "MeterDeviceType": "/v1/metering/meter-device-types",
    "MeterDevice": "/v1/metering/meter-devices",
    "MeterReadingsSeries": "/v1/metering/meter-reading-series",
    "MeterReadings": "/v1/metering/meter-readings",
    "MeterSecurityKeyCollection": "/v1/metering/meter-security-keys",
    "MeterSystemEvent": "/v1/metering/meter-system-events",
    "NetworkInterface": "/v1/metering/network-interfaces",
    "SimCard": "/v1/metering/sim-cards",
    "StagedMeterReading": "/v1/metering/staged-meter-readings",
}
"""Where each object lives."""

NAMED = (
    "Organization",
    "AmrTaskGroup",
    "AmrTask",
    "MeterDeviceConfig",
    "MeterDeviceType",
    "MeterDevice",
    "MeterReadingsSeries",
)
"""Objects of which no two have the same ``name`` in one organization."""

SCHEDULES = "quarterly,hourly,daily,weekly,monthly,yearly"
CONTEXTS = "generic_lis200,generic_iec6205621,generic_corus_meter"
PROTOCOLS = "dlms-cosem,iec62056-21,i-flag,mbus,modbus,lis-200"

# name kind marks: * required, ro, wo (write only), null, unique, N..M lengths, =a,b one of these
_FIELDS = {
    "Organization": """
id uuid ro
name text * 1..64
is_active boolean
members uuids ro
created_at time ro
updated_at time ro
""",
    "OrganizationMember": """
id integer ro
organization uuid *
user uuid *
created_at time ro
updated_at time ro
""",
    "AmrTaskGroup": """
id uuid ro
name text * 1..150
organization uuid *
description text 0..500
tasks uuids unique
tasks_info text ro
created_at time ro
updated_at time ro
""",
    "AmrTask": f"""
id uuid ro
organization uuid *
name text * 1..150
description text 0..500
is_active boolean
schedule text * ={SCHEDULES}
run_offset_seconds integer
meter_execution_type text * ={CONTEXTS}
task_call text * 1..50
task_kwargs object null
created_at time ro
updated_at time ro
""",
    "MeterDeviceConfig": """
id uuid ro
organization uuid *
name text * 1..50
series uuids * unique
series_info text ro
timezone text
created_at time ro
updated_at time ro
""",
    "MeterDeviceType": """
id uuid ro
organization uuid *
name text * 1..50
description text 0..500
manufacturer text * 1..100
manufacturer_model text * 1..50
config uuid null
created_at time ro
updated_at time ro
""",
    "MeterDevice": f"""
id uuid ro
organization uuid null
name text * 1..50
external_system_reference text null 0..50
manufacturer_serial text null 0..50
protocol text * ={PROTOCOLS}
iec62056_21_address text null 0..8
dlms_logical_device_name text null 0..32
dlms_system_title text null 0..16
type uuid null
task_groups uuids unique
meter_tasks uuids unique
network_interface uuid null
network_interface_info text ro null
has_current_transformer boolean
current_transformer_ratio integer
has_voltage_transformer boolean
voltage_transformer_ratio integer
has_disconnector boolean
disconnector_status integer null =0,1,2
created_at time ro
updated_at time ro
""",
    "MeterReadingsSeries": """
id uuid ro
organization uuid *
name text * 1..50
description text 0..250
unit text * 1..10
unit_description text null 1..250
si_multiplier decimal
affected_by_ct_ratio boolean
affected_by_vt_ratio boolean
created_at time ro
updated_at time ro
""",
    "MeterReadings": """
id integer ro
organization uuid *
meter_device uuid *
series uuid *
timestamp time *
value decimal *
created_at time ro
""",
    "MeterSecurityKeyCollection": """
id uuid ro
meter uuid *
iec62056_21_password text wo null 1..8
dlms_global_unicast_encryption_key text wo null 0..64
dlms_global_broadcast_encryption_key text wo null 0..64
dlms_master_key text wo null 0..64
dlms_global_authentication_key text wo null 0..64
created_at time ro
updated_at time ro
""",
    "MeterSystemEvent": """
id integer ro
organization uuid *
meter_device uuid *
timestamp time *
title text * 1..50
content text * 1..500
created_at time ro
updated_at time ro
""",
    "NetworkInterface": """
id uuid ro
organization uuid *
static_ip_address text null 1..
host text ro null
fqdn text null 0..200
port integer null
sim uuid null
can_block boolean
is_blocked boolean ro
block_time time ro null
created_at time ro
updated_at time ro
""",
    "SimCard": """
id uuid ro
organization uuid null
iccid text * 1..20
imsi text * 1..15
ip_address text null 1..
phone_number text null 1..30
external_system_link uri null 1..200
created_at time ro
updated_at time ro
""",
    "StagedMeterReading": """
id integer ro
meter_device_name text * 1..50
series_name text * 1..50
timestamp time *
value decimal *
created_at time ro
updated_at time ro
""",
}


def _field(owner: str, line: str) -> FieldRow:
    name, kind, *marks = line.split()
    lengths = next((mark for mark in marks if ".." in mark), "0..")
    least, _, most = lengths.partition("..")
    choices = next((mark[1:] for mark in marks if mark.startswith("=")), "")
    return FieldRow(
        owner=owner,
        name=name,
        kind=kind,
        required="*" in marks,
        read_only="ro" in marks,
        write_only="wo" in marks,
        nullable="null" in marks,
        unique="unique" in marks,
        least=int(least),
        most=int(most) if most else None,
        choices=tuple(choices.split(",")) if choices else (),
    )


FIELDS: tuple[FieldRow, ...] = tuple(
    _field(owner, line) for owner, table in _FIELDS.items() for line in table.strip().splitlines()
)


def fields_of(owner: str) -> list[FieldRow]:
    """The fields of one object."""
    return [row for row in FIELDS if row.owner == owner]
