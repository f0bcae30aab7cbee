"""The audit log as it is read (additive, ``/v1/audit``): who changed what. Nobody writes it but ``hub.audit``.

Whoever looks at everything of an organization sees what was changed of it, by whomever. What belongs to no
organization (users, tokens for all of them, keys) only those see who see all.
"""

import datetime as dt
import uuid
from typing import Any

import msgspec

from hub.models import AuditEntry as Row
from hub.paging import equals, is_uuid, since, until
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource


class AuditEntry(msgspec.Struct, kw_only=True):
    """One change.

    ``actor_kind`` is ``token``, ``user``, ``cli`` (a command on a machine of the hub) or ``hub`` (by itself, as a
    policy says); ``actor`` is the id of the token or user. ``via`` is the request or command. ``kind`` is the noun of
    the object. Of a change ``before`` and ``after`` have the fields that differ; a secret is told as ``changed``.
    """

    id: int
    at: dt.datetime
    organization: uuid.UUID | None
    actor_kind: str
    actor: uuid.UUID | None
    actor_name: str
    address: str | None
    via: str
    action: str
    kind: str
    object_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


RESOURCE = Resource(
    noun="audit entry",
    path="/v1/audit",
    model=Row,
    out=AuditEntry,
    operations=LOOK,
    integer_ids=True,
    filters={
        "kind": equals(Row.kind),
        "object_id": equals(Row.object_id),
        "action": equals(Row.action),
        "actor": is_uuid(Row.actor),
        "actor_name": equals(Row.actor_name),
        "actor_kind": equals(Row.actor_kind),
        "organization": is_uuid(Row.organization),
        "start_time": since(Row.at),
        "end_time": until(Row.at),
    },
    order=(Row.at.desc(), Row.id.desc()),
)

router = router_of(RESOURCE)
