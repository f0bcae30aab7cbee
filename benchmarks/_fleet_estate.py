"""The estate of the bench ``fleet``: what each organization has is made by REST, its gateways and meters set by set.

Each organization has a config with its series, a type, three tasks and a group of two of them that all its meters have;
beside it all meters of all organizations have one group of the first organization. A hundred thousand meters by REST
would be an hour that the bench does not measure; copied from one that REST has made, they are what REST makes.
"""

import dataclasses
import datetime as dt

from benchmarks.postgres import Postgres
from deploy.demo.hub_client import HubClient
from hub.database import create_engine
from hub.ledger import keep_some

ORGANIZATIONS = 10
SERIES = ("2:300", "2:302", "7:310/3", "6:310_1/3")


@dataclasses.dataclass(frozen=True)
class Group:
    """A task group that is edited: its id, its first task, and one that it has only every other time."""

    id: str
    task: str
    other: str


@dataclasses.dataclass(frozen=True)
class Estate:
    """What the bench edits: a group of one organization's meters, and the group of all."""

    some: Group
    all: Group


_COPIES = """
CREATE TEMPORARY TABLE template (organization integer, gateway uuid, line uuid, meter uuid);
INSERT INTO template VALUES {templates};
CREATE TEMPORARY TABLE membership (organization integer, "group" uuid);
INSERT INTO membership VALUES {memberships};
INSERT INTO gateways SELECT made.* FROM template t JOIN gateways g ON g.id = t.gateway
CROSS JOIN generate_series(0, {gateways} - 1) n
CROSS JOIN LATERAL jsonb_populate_record(g, jsonb_build_object(
    'id', md5('gateway ' || n)::uuid, 'gateway_id', 'gw-' || n, 'name', 'gw-' || n)) made
WHERE n % {organizations} = t.organization;
INSERT INTO network_interfaces SELECT made.* FROM template t JOIN network_interfaces l ON l.id = t.line
CROSS JOIN generate_series(0, {gateways} - 1) n
CROSS JOIN LATERAL jsonb_populate_record(l, jsonb_build_object(
    'id', md5('line ' || n)::uuid, 'gateway', md5('gateway ' || n)::uuid, 'name', 'line of gw-' || n)) made
WHERE n % {organizations} = t.organization;
INSERT INTO meter_devices SELECT made.* FROM template t JOIN meter_devices m ON m.id = t.meter
CROSS JOIN generate_series(0, {gateways} - 1) n
CROSS JOIN generate_series(0, {meters} - 1) p
CROSS JOIN LATERAL jsonb_populate_record(m, jsonb_build_object(
    'id', md5('meter ' || n || ' ' || p)::uuid, 'network_interface', md5('line ' || n)::uuid,
    'name', 'gw-' || n || ' meter ' || p, 'iec62056_21_address', p::text)) made
WHERE n % {organizations} = t.organization;
INSERT INTO device_groups SELECT md5('meter ' || n || ' ' || p)::uuid, b."group"
FROM membership b CROSS JOIN generate_series(0, {gateways} - 1) n CROSS JOIN generate_series(0, {meters} - 1) p
WHERE n % {organizations} = b.organization;
UPDATE network_interfaces SET gateway = NULL WHERE id IN (SELECT line FROM template);
DROP TABLE template, membership;
"""

_ANALYZE = "ANALYZE gateways, network_interfaces, meter_devices, device_groups, device_gateways, gateway_plans"

# Nobody here answers commands: nothing that is missing is fetched.
_FORGET = """
TRUNCATE gateway_plans, outbox_progress, backfills, commands, command_updates, command_events;
UPDATE gateways SET desired_revision = 0, desired_at = NULL, content_digest = NULL, published_revision = 0,
published_digest = NULL, applied_revision = 0, applied_digest = NULL, applied_session = 0, applied_sequence = 0,
session = 0, online = false, last_seen = NULL, store_id = NULL, past_stores = '[]', public_key = NULL,
backfill_paused = true;
"""

_MARK = """
INSERT INTO expectation_marks (device) SELECT id FROM meter_devices m
WHERE m.name LIKE 'gw-%' AND NOT EXISTS (SELECT FROM expectations e WHERE e.device = m.id)
"""

_COLD = """
UPDATE gateways SET applied_revision = 0, applied_digest = NULL, applied_session = 0, applied_sequence = 0,
session = 0, online = false;
"""


def make_estate(hub: HubClient, server: Postgres, gateways: int, meters: int) -> Estate:
    """Make gateways ``gw-0`` and so on, none of which was given a plan yet, with so many meters each."""
    organizations = min(ORGANIZATIONS, gateways)
    everywhere = _make_group(hub, _organization(hub, 0), "everywhere", 0)
    templates, memberships, groups = [], [], []
    for number in range(organizations):
        organization = _organization(hub, number)
        group = _make_group(hub, organization, f"hourly {number}", number)
        groups.append(group)
        memberships += [f"({number}, '{one.id}')" for one in (group, everywhere)]
        templates.append(f"({number}, {_template(hub, organization, number)})")
    server.sql(
        _COPIES.format(
            templates=", ".join(templates),
            memberships=", ".join(memberships),
            gateways=gateways,
            meters=meters,
            organizations=organizations,
        )
    )
    server.sql(_ANALYZE)
    return Estate(groups[0], everywhere)


def forget_plans(server: Postgres) -> None:
    """Have no gateway ever been heard and given a plan, as when the estate was made."""
    server.sql(_FORGET)
    server.sql("VACUUM ANALYZE gateways")
    server.sql("VACUUM ANALYZE gateway_plans")


async def expect(server: Postgres) -> None:
    """Have a clerk make what is expected of all meters, as it did when each was set up; also what an edit left over."""
    server.sql(_MARK)
    engine = create_engine(server.url())
    try:
        while await keep_some(engine, dt.datetime.now(dt.UTC)):
            pass
    finally:
        await engine.dispose()


def forget_heard(server: Postgres) -> None:
    """Have the hub know of no gateway what it runs, and whether it is there."""
    server.sql(_COLD)


def _organization(hub: HubClient, number: int) -> str:
    name = f"Utility {number}"
    found = hub.get("/v1/organizations/", name=name)["results"]
    return str((found[0] if found else hub.post("/v1/organizations/", name=name))["id"])


def _make_group(hub: HubClient, organization: str, name: str, number: int) -> Group:
    tasks = [
        hub.post(
            "/v1/metering/amr-tasks",
            organization=organization,
            name=f"{name}: {what}",
            schedule=schedule,
            run_offset_seconds=30 + number,
            meter_execution_type="generic_lis200",
            task_call=call,
            task_kwargs=kwargs,
        )["id"]
        for what, schedule, call, kwargs in (
            ("archive", "quarterly", "read_archive_since_last", {"archive_number": 3}),
            ("identity", "daily", "read_identity", {}),
        )
    ]
    group = hub.post("/v1/metering/amr-task-groups", organization=organization, name=name, tasks=tasks[:1])
    return Group(str(group["id"]), *map(str, tasks))


def _template(hub: HubClient, organization: str, number: int) -> str:
    """Make what is copied; return the ids as they stand in SQL."""
    post = hub.post
    series = [
        post("/v1/metering/meter-reading-series", organization=organization, name=name, unit="m3")["id"]
        for name in SERIES
    ]
    config = post(
        "/v1/metering/meter-device-configs",
        organization=organization,
        name="EK280",
        series=series,
        timezone="Europe/Berlin",
    )
    kind = post(
        "/v1/metering/meter-device-types",
        organization=organization,
        name="EK280",
        manufacturer="Elster",
        manufacturer_model="EK280",
        config=config["id"],
    )
    gateway = post("/v1/gateways/", organization=organization, gateway_id=f"template-{number}", name="template")
    line = post(
        "/v1/metering/network-interfaces",
        organization=organization,
        gateway=gateway["id"],
        name="template",
        serial_port="/dev/ttyS0",
    )
    meter = post(
        "/v1/metering/meter-devices",
        organization=organization,
        name=f"template {number}",
        protocol="lis-200",
        iec62056_21_address="1",
        type=kind["id"],
        network_interface=line["id"],
    )
    return ", ".join(f"'{one['id']}'" for one in (gateway, line, meter))
