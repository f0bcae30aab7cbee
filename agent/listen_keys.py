"""Keys for ``metergate-agent listen``: from a file, the environment or a prompt, never an argument; never shown.

Rules: no error repeats what was given, it names where that stands. A meter's own keys, by its system title, go before
those of all meters; a key that was asked for goes before the environment's, that before the file's.
"""

import os
import pathlib
import tomllib
from collections.abc import Mapping
from zoneinfo import ZoneInfo

import click

from agent.settings import SettingsError
from protocol.meter_keys import MeterKeys
from receivers.receiver import KnownMeter, Meters

_KEY_BYTES = 16
KEY_KINDS = MeterKeys.__struct_fields__
VARIABLES = {kind: f"METERGATE_{kind.upper()}_KEY" for kind in KEY_KINDS}
_ASKED = ("encryption", "authentication")


def keys_given(file: pathlib.Path | None, environment: Mapping[str, str], *, ask: bool) -> dict[str, dict[str, bytes]]:
    """The keys by system title; those of all meters under the empty one.

    Raises:
        SettingsError: naming the file and key, or the variable, never what stands there.
    """
    keys = {} if file is None else _of_file(file)
    of_all = keys.setdefault("", {})
    for kind, variable in VARIABLES.items():
        if environment.get(variable):
            of_all[kind] = key_of(environment[variable], variable)
    for kind in _ASKED if ask else ():
        text = click.prompt(f"{kind} key (32 hex digits)", default="", show_default=False, hide_input=True, err=True)
        if text:
            of_all[kind] = key_of(text, f"{kind} key")
    return {title: of_all | own for title, own in keys.items()}


def meters_with(keys: Mapping[str, Mapping[str, bytes]], zone: ZoneInfo) -> Meters:
    """Meters for a receiver: those that have keys of their own, and whoever else there may be."""
    own = [KnownMeter(title, title, zone, of_meter) for title, of_meter in keys.items() if title]
    return Meters(own, KnownMeter("", "", zone, keys.get("", {})))


def _of_file(file: pathlib.Path) -> dict[str, dict[str, bytes]]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--keys: {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # What the parser says of it may repeat a key.
        raise SettingsError(f"--keys: {file} is no TOML; expected {_EXPECTED}") from None
    keys: dict[str, dict[str, bytes]] = {"": {}}
    for name, value in document.items():
        if isinstance(value, dict):
            keys[name] = {_kind(file, f"{name}.", key): _key(file, f"{name}.{key}", value[key]) for key in value}
        else:
            keys[""][_kind(file, "", name)] = _key(file, name, value)
    return keys


_EXPECTED = 'encryption_key = "..." of all meters, and [SYSTEM TITLE] before those of one'


def _kind(file: pathlib.Path, table: str, name: str) -> str:
    kind = name.removesuffix("_key")
    if kind not in KEY_KINDS or kind == name:
        names = ", ".join(f"{one}_key" for one in KEY_KINDS)
        raise SettingsError(f"--keys: {file}: `{table}{name[:40]}` is none of {names}")
    return kind


def _key(file: pathlib.Path, name: str, value: object) -> bytes:
    return key_of(value if isinstance(value, str) else "", f"{file}: {name}")


def key_of(text: str, name: str) -> bytes:
    """Make a key of what a meter pushes out of its hex digits.

    Raises:
        SettingsError: when it is none; names what it was to be, never the text.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise SettingsError(f"`{name}` is not hex: expected {2 * _KEY_BYTES} digits") from None
    if len(key) != _KEY_BYTES:
        raise SettingsError(f"`{name}` has {len(key)} bytes: expected {2 * _KEY_BYTES} hex digits")
    return key


def environment_keys() -> Mapping[str, str]:
    """What this process's environment says."""
    return {name: os.environ[name] for name in VARIABLES.values() if name in os.environ}
