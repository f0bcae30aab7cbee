"""What an operator may set about a hub process, and the defaults.

Settings come from the command line and are handed down as one value; importing this module reads nothing.
"""

import dataclasses
from pathlib import Path

DEFAULT_DATA = Path("metergate-data")
DEFAULT_PORT = 8080
DEFAULT_MQTT_PORT = 1883


class StartError(RuntimeError):
    """A process cannot do its work; the text says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """One hub process: where its data lies, what it talks to, and the bounds of what it takes in.

    ``database`` is an SQLAlchemy URL (``postgresql://`` and ``sqlite://`` are given their async drivers); ``broker`` is
    ``mqtt://[USER:PASSWORD@]HOST:PORT``, None for the embedded broker. Port 0 takes any free port. ``data`` holds the
    SQLite file, the hub's key and the broker's files.
    """

    database: str
    listen_database: str | None = None
    """The same database as LISTEN reaches it, past a pooler that delivers no notifications; None: ``database``."""
    database_connections: int = 20
    """The most connections to PostgreSQL that a process works with at once; two more listen to other processes."""
    data: Path | None = None
    broker: str | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    mqtt_port: int = DEFAULT_MQTT_PORT
    hub_key_file: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where a relay that has no REST beside it says how it is; port 0 takes a free one, None has it say nothing."""
    queue_bytes: int = 16 * 1024 * 1024
    """What a relay holds of unprocessed messages; beyond it messages are dropped without a receipt."""
    quarantine_rows: int = 10_000
    """Unreadable payloads that are kept; when there are as many, nothing unreadable is receipted any more."""
    staged_rows: int = 10_000_000
    """Staged readings above which the hub reports itself as degraded."""
    future_seconds: int = 86_400
    """A reading's timestamp may lie this far ahead of the hub's clock; beyond it is staged."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that webhooks may be on beside the public internet's, and without TLS."""
    command_wait_seconds: int = 60
    """The longest that ``GET /v1/commands/{id}?wait=`` waits."""
    stream_seconds: float = 3600
    """The longest that a stream of events is held open; its reader comes again with the number of the last one."""
    streams: int = 500
    """Streams of events that one process holds open at once."""
    streams_each: int = 20
    """The same for one token or user."""
    body_bytes: int = 8 * 1024 * 1024
    """The largest request body."""


def sqlite_url(data: Path) -> str:
    """Return the database URL of a hub that keeps everything in one directory."""
    return f"sqlite+aiosqlite:///{(data / 'hub.db').resolve()}"
