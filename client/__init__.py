"""A client of the hub's REST interface for Python programs: the standard library and msgspec, nothing else."""

from client.errors import Changed, HubError, NotAllowed, NotClear, NotReachable, NotThere, Refused, SettingsError
from client.hub import Hub
from client.records import (
    Backfill,
    Command,
    CommandBatch,
    Event,
    Gateway,
    Meter,
    Organization,
    Reading,
    Record,
    Run,
    Series,
    Task,
    TaskGroup,
    Token,
)

__all__ = [
    "Backfill",
    "Changed",
    "Command",
    "CommandBatch",
    "Event",
    "Gateway",
    "Hub",
    "HubError",
    "Meter",
    "NotAllowed",
    "NotClear",
    "NotReachable",
    "NotThere",
    "Organization",
    "Reading",
    "Record",
    "Refused",
    "Run",
    "Series",
    "SettingsError",
    "Task",
    "TaskGroup",
    "Token",
]
