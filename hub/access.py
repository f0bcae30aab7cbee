"""Who asks, and what is open to them: the one table of all paths, and the scopes that open them.

Rules. A path that is not in ``DOORS`` is open to staff only. What a request may do is decided by its method and path
alone, before anything is looked up, so a refusal (403) tells nothing about what is there. Whose objects it may see is
decided when they are looked up: those of another organization are not there (404), in no list, and can be referred to
by no body. An ``Access`` without organization sees all.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from litestar.connection import ASGIConnection

from hub.problems import Forbidden
from hub.scopes import COMMAND, CONFIGURE, CORRECT_READINGS, PUSH_READINGS, READ, READ_READINGS, STAFF, Access

__all__ = ["DOORS", "Access", "Door", "access_of", "check_access", "door_of", "openers"]

_Scopes = frozenset[str]
_NOBODY: _Scopes = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Door:
    """Which scopes open a path: to look (GET), to add (POST to a list), to change (all else); staff may all of it.

    ``users`` are doors that are for signed-in users and nobody else, whatever the method.
    """

    look: _Scopes = _NOBODY
    add: _Scopes = _NOBODY
    change: _Scopes = _NOBODY
    users: bool = False


def _estate(*more: str) -> Door:
    """Return the door of what people set up; ``more`` are scopes that look at it."""
    return Door(look=frozenset({READ, CONFIGURE, *more}), add=frozenset({CONFIGURE}), change=frozenset({CONFIGURE}))


_LOOK_ONLY = Door(look=frozenset({READ}))
_SEE_READINGS = frozenset({READ, READ_READINGS})
_COMMANDS = Door(look=frozenset({READ, COMMAND}), add=frozenset({COMMAND}), change=frozenset({COMMAND}))
_SIFTED = Door(look=frozenset({READ}), change=frozenset({CORRECT_READINGS}))
_STAFF_ONLY = Door()

DOORS: Mapping[str, Door] = {
    "/v1/auth/jwt/change-organization": Door(users=True),
    "/v1/auth/jwt/renew": Door(users=True),
    "/v1/organizations": Door(look=frozenset({READ, CONFIGURE})),
    "/v1/organizations/memberships": _LOOK_ONLY,
    "/v1/users": _STAFF_ONLY,
    "/v1/tokens": _STAFF_ONLY,
    "/v1/retention-policies": _STAFF_ONLY,
    "/v1/audit": _LOOK_ONLY,
    "/v1/gateways": _estate(COMMAND),
    # Who may call meters over MQTT is staff's to say.
    "/v1/callers": _LOOK_ONLY,
    "/v1/receivers": _estate(),
    "/v1/commands": _COMMANDS,
    "/v1/command-batches": _COMMANDS,
    "/v1/backfills": _COMMANDS,
    "/v1/completeness": Door(look=_SEE_READINGS),
    "/v1/deadlines": _estate(),
    "/v1/runs": _LOOK_ONLY,
    "/v1/loss-records": _LOOK_ONLY,
    "/v1/quarantine": _SIFTED,
    "/v1/undecodable-pushes": _SIFTED,
    "/v1/sheets": _estate(),
    "/v1/metering/network-interfaces": _estate(),
    "/v1/metering/sim-cards": _estate(),
    "/v1/metering/meter-device-types": _estate(),
    "/v1/metering/meter-device-configs": _estate(),
    "/v1/metering/meter-devices": _estate(READ_READINGS, COMMAND),
    "/v1/metering/meter-security-keys": _estate(),
    "/v1/metering/device-periods": _estate(READ_READINGS),
    "/v1/metering/meter-reading-series": _estate(READ_READINGS),
    "/v1/metering/amr-tasks": _estate(COMMAND),
    "/v1/metering/amr-tasks/invoke": Door(add=frozenset({COMMAND})),
    "/v1/metering/amr-task-groups": _estate(COMMAND),
    "/v1/metering/meter-readings": Door(
        look=_SEE_READINGS, add=frozenset({PUSH_READINGS}), change=frozenset({CORRECT_READINGS})
    ),
    "/v1/metering/readings/export": Door(look=_SEE_READINGS),
    # Asked by a body where the ids are too many for an address: who asks only looks.
    "/v1/metering/readings/latest": Door(look=_SEE_READINGS, add=_SEE_READINGS),
    "/v1/metering/readings/received": Door(look=_SEE_READINGS),
    "/v1/metering/new-meter-readings": Door(add=frozenset({PUSH_READINGS})),
    "/v1/metering/staged-meter-readings": Door(
        look=_SEE_READINGS | {CORRECT_READINGS}, add=frozenset({PUSH_READINGS}), change=frozenset({CORRECT_READINGS})
    ),
    "/v1/metering/meter-system-events": Door(
        look=_SEE_READINGS, add=frozenset({PUSH_READINGS}), change=frozenset({CORRECT_READINGS})
    ),
}
"""All that can be asked, by the beginning of its path; the longest that fits counts."""


def door_of(path: str) -> tuple[str, Door]:
    """Return the line of ``DOORS`` for a path as it stands in the OpenAPI document; staff's alone if there is none."""
    stem = path.rstrip("/")
    while stem:
        if stem in DOORS:
            return stem, DOORS[stem]
        stem = stem.rpartition("/")[0]
    return "", _STAFF_ONLY


def openers(method: str, path: str) -> frozenset[str]:
    """Return the scopes that open a path to a method, beside staff's."""
    stem, door = door_of(path)
    if method in {"GET", "HEAD", "OPTIONS"}:
        return door.look
    if method == "POST" and path.rstrip("/") == stem:
        return door.add
    return door.change


def check_access(access: Access, method: str, path: str) -> None:
    """Let somebody through to a path, or not.

    Raises:
        Forbidden: saying what is lacking.
    """
    if door_of(path)[1].users:
        if access.user is None:
            raise Forbidden("this is for users, who sign in at /v1/auth/jwt/token/")
        return
    if STAFF in access.scopes:
        return
    wanted = openers(method, path)
    if access.scopes & wanted:
        return
    if access.user is not None:
        raise Forbidden("users may look at the data of their organization, and change nothing")
    needed = f"one of the scopes {', '.join(sorted(wanted))}" if wanted else "a token of staff"
    raise Forbidden(f"the token {access.name!r} does not open this; it takes {needed}")


def access_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Access:
    """Return who asks, as the authentication found out."""
    access: Access = connection.auth
    return access
