"""The agent's settings file: what this gateway is called, where its broker is, and what must not leave the gateway.

TOML, decoded into frozen structs that refuse unknown keys; an error names the file and the key. Relative paths count
from the file's folder. Everything else (lines, meters, tasks) comes from the hub as the plan.
"""

import pathlib
import re
import tomllib
import urllib.parse
from typing import Annotated

import msgspec

from agent.background import DEFAULT_SHARE
from agent.budget import DEFAULT_BYTES, LEAST_BYTES
from mqtt.addresses import DEFAULT_PORTS, BrokerAddress
from protocol.topics import check_gateway_id
from protocol.wire import ContractError

DEFAULT_PATH = pathlib.Path("/etc/metergate/agent.toml")
CUSTOMER_LOCK = 4
SUPPLIER_LOCK = 3
LOCKS = (SUPPLIER_LOCK, CUSTOMER_LOCK, 5, 6)
"""Locks that a code opens over the line; 5 (data collector) and 6 (further user) on EK280 and DL230. Fact sheet 2.4."""
_FINGERPRINT = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){7}")
_BRACKETS = frozenset("()")

OutboxBytes = Annotated[int, msgspec.Meta(ge=LEAST_BYTES)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class SettingsError(ValueError):
    """The settings cannot be used; the text names the file, the key, and what is expected."""


class MeterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Secrets of one meter, by its name in the plan. ``lock`` is 4 (customer), 3 (supplier), 5 or 6."""

    password: str | None = None
    password_file: str | None = None
    lock: int = CUSTOMER_LOCK


class LineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is different here from the plan, by the line's name: the endpoint (``/dev/...``, ``socket://host:port``)."""

    endpoint: str


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Waiting times of the uplink, in real seconds.

    ``resend`` is the shortest: a hub that a thousand gateways return to needs most of a minute, and what a lost
    connection or a relay's restart costs is sent again at once anyway. Where receipts take longer it follows them.
    """

    resend: Seconds = 60.0
    resend_max: Seconds = 90.0
    reconnect: Seconds = 1.0
    reconnect_max: Seconds = 60.0
    keepalive: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 20
    answer: Seconds = 10.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as written."""

    gateway: str
    broker: str
    data: str
    store: str | None = None
    broker_password_file: str | None = None
    ca_file: str | None = None
    hub_key: str | None = None
    outbox_bytes: OutboxBytes = DEFAULT_BYTES
    background_share: Share = DEFAULT_SHARE
    log_level: str = "info"
    metrics_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    meters: dict[str, MeterSettings] = {}
    lines: dict[str, LineSettings] = {}
    timing: Timing = Timing()


class MeterPassword(msgspec.Struct, frozen=True):
    """A meter's password and the lock that it opens. Its repr does not show the password."""

    password: str
    lock: int = CUSTOMER_LOCK

    def __repr__(self) -> str:
        """Keep the password out of logs and errors."""
        return f"MeterPassword(lock={self.lock})"


class AgentSettings(msgspec.Struct, frozen=True):
    """The settings, checked and resolved."""

    gateway: str
    broker: BrokerAddress
    data: pathlib.Path
    store: pathlib.Path
    key_file: pathlib.Path
    timing: Timing
    outbox_bytes: int = DEFAULT_BYTES
    background_share: float = DEFAULT_SHARE
    log_level: str = "info"
    metrics_port: int | None = None
    broker_password: str | None = None
    ca_file: pathlib.Path | None = None
    hub_key: str | None = None
    passwords: dict[str, MeterPassword] = {}
    endpoints: dict[str, str] = {}

    def __repr__(self) -> str:
        """Keep passwords out of logs and errors."""
        return f"AgentSettings(gateway={self.gateway!r}, broker={self.broker!r}, data={str(self.data)!r})"


LOG_LEVELS = ("debug", "info", "warning", "error")


def read_settings(path: pathlib.Path) -> AgentSettings:
    """Read and check the file.

    Raises:
        SettingsError: naming the file and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"the settings file {path} cannot be read: {error.strerror}; name another with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error
    try:
        return _resolved(msgspec.convert(document, Settings), path.parent)
    except msgspec.ValidationError as error:
        # msgspec ends its sentence with the path of the key: `$.timing.resend`.
        raise SettingsError(f"the settings file {path}: {str(error).replace('$.', '')}") from error
    except (SettingsError, ContractError) as error:
        raise SettingsError(f"the settings file {path}: {error}") from error


def parse_broker(url: str, key: str = "broker") -> BrokerAddress:
    """Take ``mqtt://[user@]host[:port]`` (or ``mqtts://``) apart.

    Raises:
        SettingsError: naming the key.
    """
    parts = urllib.parse.urlsplit(url)
    expected = "expected mqtt://[user@]host[:port] or mqtts://[user@]host[:port]"
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path not in {"", "/"}:
        raise SettingsError(f"`{key}` is not the URL of a broker; {expected}")
    if parts.password is not None:
        raise SettingsError(f"`{key}` contains a password; put it into a file and name that as broker_password_file")
    try:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError:
        raise SettingsError(f"`{key}` has no valid port; {expected}") from None
    user = urllib.parse.unquote(parts.username) if parts.username else None
    return BrokerAddress(parts.hostname, port, parts.scheme == "mqtts", user)


def _resolved(settings: Settings, folder: pathlib.Path) -> AgentSettings:
    try:
        check_gateway_id(settings.gateway)
    except ContractError as error:
        raise SettingsError(f"`gateway`: {error}") from error
    if settings.log_level not in LOG_LEVELS:
        raise SettingsError(f"`log_level` is {settings.log_level!r}; expected one of {', '.join(LOG_LEVELS)}")
    if settings.hub_key is not None and not _FINGERPRINT.fullmatch(settings.hub_key):
        raise SettingsError(
            f"`hub_key` is {settings.hub_key[:60]!r}; expected the fingerprint that the hub's log says at its start "
            "(hub_key_opened), eight groups of four hex digits: d157-981b-..."
        )
    for name, line in settings.lines.items():
        if not line.endpoint.startswith(("/", "socket://")):
            raise SettingsError(
                f'`lines."{name}".endpoint` is {line.endpoint!r}; expected /dev/... or socket://host:port'
            )
    data = folder / settings.data
    return AgentSettings(
        gateway=settings.gateway,
        broker=parse_broker(settings.broker),
        data=data,
        store=folder / settings.store if settings.store else data / "agent.db",
        key_file=data / "agent.key",
        timing=settings.timing,
        log_level=settings.log_level,
        metrics_port=settings.metrics_port,
        broker_password=_secret(folder, settings.broker_password_file, "broker_password_file"),
        ca_file=folder / settings.ca_file if settings.ca_file else None,
        hub_key=settings.hub_key,
        outbox_bytes=settings.outbox_bytes,
        background_share=settings.background_share,
        passwords={
            name: password
            for name, meter in settings.meters.items()
            if (password := _meter_password(folder, name, meter)) is not None
        },
        endpoints={name: line.endpoint for name, line in settings.lines.items()},
    )


def _meter_password(folder: pathlib.Path, name: str, meter: MeterSettings) -> MeterPassword | None:
    key = f'meters."{name}"'
    if meter.lock not in LOCKS:
        raise SettingsError(
            f"`{key}.lock` is {meter.lock}; expected {CUSTOMER_LOCK} (customer), {SUPPLIER_LOCK} (supplier), "
            "5 (data collector) or 6 (further user)"
        )
    if meter.password is not None and meter.password_file is not None:
        raise SettingsError(f"`{key}` has both password and password_file; keep one of them")
    password = meter.password
    if password is None:
        password = _secret(folder, meter.password_file, f"{key}.password_file")
    return None if password is None else meter_password(password, meter.lock, f"{key}.password")


def _secret(folder: pathlib.Path, name: str | None, key: str) -> str | None:
    return None if name is None else read_secret(folder / name, key)


def read_secret(path: pathlib.Path, key: str) -> str:
    """Read a password file: one text, blanks and line ends around it left out.

    Raises:
        SettingsError: naming the key and the file, never what is in it.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"`{key}`: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"`{key}`: {path} holds no text") from None
    if not text:
        raise SettingsError(f"`{key}`: {path} is empty")
    return text


def meter_password(text: str, lock: int, key: str) -> MeterPassword:
    """Make the code of a lock out of a text.

    Raises:
        SettingsError: when no telegram can carry it; names the key, never the text.
    """
    if not text.isascii() or not text.isprintable() or set(text) & _BRACKETS:
        raise SettingsError(f"`{key}` is no code of a lock: expected printable ASCII without brackets")
    return MeterPassword(text, lock)
