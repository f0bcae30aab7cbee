"""The REST application: all resources, put together. Making it reads no environment and opens nothing."""

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from sqlalchemy.exc import DBAPIError

from hub import (
    amr_task_groups,
    amr_tasks,
    audit_log,
    backfills,
    callers,
    command_batches,
    command_streams,
    commands,
    completeness,
    completeness_gaps,
    deadlines,
    device_periods,
    events,
    exports,
    gateway_plans,
    gateways,
    granted_tokens,
    health,
    latest_readings,
    loss_records,
    memberships,
    meter_device_configs,
    meter_device_types,
    meter_devices,
    network_interfaces,
    new_readings,
    organizations,
    quarantined,
    reading_series,
    readings,
    received_readings,
    receivers,
    retention,
    runs,
    security_keys,
    sheets,
    signing_in,
    sim_cards,
    staged_readings,
    undecodable_pushes,
    users,
)
from hub.auth import Authentication
from hub.bodies import StrictBody
from hub.database import UNREACHABLE
from hub.headers import add_headers
from hub.openapi import DescribedJson
from hub.openapi_page import OfflinePage
from hub.problems import ProblemError, answer_bug, answer_database, answer_http, answer_problem, answer_unreachable
from hub.resource_routes import router_of
from hub.resources import Resource
from hub.state import Hub

OPEN_PATHS = ["^/health", "^/metrics$", "^/schema", "^/v1/auth/jwt/token/?$"]
"""What may be asked without a token."""

RESOURCES = (
    signing_in,
    organizations,
    memberships,
    users,
    granted_tokens,
    gateways,
    gateway_plans,
    network_interfaces,
    sim_cards,
    meter_device_types,
    meter_device_configs,
    meter_devices,
    security_keys,
    device_periods,
    reading_series,
    amr_task_groups,
    readings,
    exports,
    latest_readings,
    received_readings,
    new_readings,
    staged_readings,
    events,
    callers,
    receivers,
    commands,
    command_streams,
    command_batches,
    backfills,
    completeness,
    completeness_gaps,
    deadlines,
    runs,
    loss_records,
    quarantined,
    retention,
    audit_log,
    undecodable_pushes,
    sheets,
    health,
)

_DECLARED = tuple(
    one for module in (amr_tasks, *RESOURCES) for one in vars(module).values() if isinstance(one, Resource)
)


def create_app(hub: Hub) -> Litestar:
    """Make the application of one process."""
    return Litestar(
        route_handlers=[
            # Invoking stands among the tasks in the published paths, but is an operation of commands.
            router_of(amr_tasks.RESOURCE, commands.invoke),
            *(resource.router for resource in RESOURCES),
        ],
        dto=StrictBody,
        return_dto=None,
        middleware=[DefineMiddleware(Authentication, exclude=OPEN_PATHS)],
        exception_handlers={
            ProblemError: answer_problem,
            HTTPException: answer_http,
            DBAPIError: answer_database,
            **dict.fromkeys(UNREACHABLE, answer_unreachable),
            Exception: answer_bug,
        },
        openapi_config=OpenAPIConfig(
            title="Metergate hub",
            version="1.3.0",
            path="/schema",
            render_plugins=[
                DescribedJson(_DECLARED, OPEN_PATHS, path=["/", "/openapi.json"]),
                OfflinePage(_DECLARED, OPEN_PATHS, path="/swagger"),
            ],
            components=Components(
                security_schemes={
                    # Two forms of one header: "Token <key>" of staff and machines, "JWT <token>" of users.
                    "token": SecurityScheme(type="apiKey", name="Authorization", security_scheme_in="header"),
                    "jwt": SecurityScheme(type="apiKey", name="Authorization", security_scheme_in="header"),
                }
            ),
            security=[{"token": []}, {"jwt": []}],
        ),
        state=State({"hub": hub}),
        before_send=[add_headers],
        request_max_body_size=hub.settings.body_bytes,
        logging_config=None,
    )
