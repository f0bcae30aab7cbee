"""What a token may be made for, and what is known of who asks: words alone, which load nothing."""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Mapping

STAFF = "staff"
READ = "read"
READ_READINGS = "read-readings"
PUSH_READINGS = "push-readings"
CORRECT_READINGS = "correct-readings"
COMMAND = "command"
CONFIGURE = "configure"
SCOPES: Mapping[str, str] = {
    STAFF: "everything, of all organizations",
    READ: "look at everything of the organization",
    READ_READINGS: "look at readings, events, completeness, meters and series",
    PUSH_READINGS: "add readings and events",
    CORRECT_READINGS: "correct or delete readings, events and what could not be read",
    COMMAND: "call meters, cancel that, have gaps fetched",
    CONFIGURE: "change gateways, lines, meters, series, tasks and receivers",
}
"""What a token may be made for. Users have ``read`` in their organization."""


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Somebody whose request is answered. ``organization`` is the only one whose objects there are; None: all.

    ``name`` is the token's or the user's, for logs and records; ``user`` and ``token`` are ids, one of which is given.
    ``unnoted``: the token's use is to be written once the request is answered.
    ``signed_in`` is when a user gave the password.
    """

    name: str
    scopes: frozenset[str]
    organization: uuid.UUID | None = None
    user: uuid.UUID | None = None
    token: uuid.UUID | None = None
    unnoted: bool = False
    signed_in: dt.datetime | None = None

    def covers(self, organization: uuid.UUID | None) -> bool:
        """Whether objects of that organization are there for this one; what has none is staff's."""
        return self.organization is None or self.organization == organization
