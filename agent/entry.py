"""The command ``metergate-agent``; ``run`` is dispatched by hand, so that the edge process imports no click.

Exit status: 0 done, 1 the work failed (with the cause on standard error), 2 wrong usage.
"""

import importlib.util
import os
import pathlib
import sys
import types
import urllib
from collections.abc import Sequence
from typing import NoReturn

from agent import footprint

DONE, FAILED, USAGE = 0, 1, 2

_NO_TERMINAL = "rich"
_NEVER_NEEDED = (_NO_TERMINAL, "greenlet", "socks", "typing_extensions")
"""What structlog (for logs that this process never writes: 6 MiB), paho and msgspec (for older Pythons) would import,
where it is installed."""
_OWN_HASHES, _OPENSSL_HASHES = frozenset({"_sha256", "_sha2"}), "_hashlib"
"""SHA-256 is in the interpreter itself, in a module of 3.11 or of later; OpenSSL's beside it cost 0.6 MiB."""
_PROXIES = "urllib.request"
"""What paho imports for proxies, which it has only with ``socks``: with http and email behind it another 2 MiB."""

_RUN_HELP = """Usage: metergate-agent run [--config FILE]

  Run this gateway: poll its meters by the plan that the hub sent, and bring
  every reading home. Works from the stored plan while hub and broker are
  away. Ends in order on SIGTERM; logs JSON lines to standard error.

Options:
  --config FILE  The settings (TOML); else METERGATE_AGENT_CONFIG, else
                 /etc/metergate/agent.toml
  --help         Show this message and exit.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] != ["run"]:
        _ask_click(arguments)
    return _run(arguments[1:])


def _ask_click(arguments: list[str]) -> NoReturn:
    # None forbids the import: structlog's part for terminals is a quarter of what these commands would load.
    sys.modules.setdefault(_NO_TERMINAL, None)  # type: ignore[arg-type]
    from agent.cli import cli  # noqa: PLC0415 - click is only imported where a person calls

    cli.main(args=arguments, prog_name="metergate-agent")


def _travel_light() -> None:
    """Keep libraries out of this process that it would load and never use."""
    own_hashes = any(importlib.util.find_spec(name) for name in _OWN_HASHES)
    for name in (*_NEVER_NEEDED, *([_OPENSSL_HASHES] if own_hashes else [])):
        # None forbids the import.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    if _PROXIES not in sys.modules:
        sys.modules[_PROXIES] = types.ModuleType(_PROXIES)
        urllib.request = sys.modules[_PROXIES]


def _run(arguments: list[str]) -> int:
    """Run the edge process."""
    path = os.environ.get("METERGATE_AGENT_CONFIG", "")
    match arguments:
        case ["--help"] | ["-h"]:
            sys.stdout.write(_RUN_HELP)
            return DONE
        case []:
            pass
        case ["--config", given]:
            path = given
        case [option] if option.startswith("--config="):
            path = option.removeprefix("--config=")
        case _:
            sys.stderr.write(f"{_RUN_HELP}\nError: not understood: {' '.join(arguments)}\n")
            return USAGE
    # Before anything is loaded: a heap that has taken a megabyte of code to pieces keeps the holes.
    footprint.keep_small()
    _travel_light()
    # Imported here, because the other commands need none of it.
    import asyncio  # noqa: PLC0415

    from agent.app import configure_logs, run_agent  # noqa: PLC0415
    from agent.clocks import system_clock  # noqa: PLC0415
    from agent.keys import KeyFileError  # noqa: PLC0415
    from agent.seal import SealError  # noqa: PLC0415
    from agent.settings import DEFAULT_PATH, SettingsError, read_settings  # noqa: PLC0415
    from agent.store import StoreError  # noqa: PLC0415
    from protocol.wire import ContractError  # noqa: PLC0415

    try:
        settings = read_settings(pathlib.Path(path) if path else DEFAULT_PATH)
        clock = system_clock()
    except (SettingsError, ContractError) as error:
        sys.stderr.write(f"metergate-agent: {error}\n")
        return USAGE
    configure_logs(settings.log_level)
    footprint.settle()
    try:
        asyncio.run(run_agent(settings, clock))
    except (StoreError, SealError, KeyFileError, OSError) as error:
        sys.stderr.write(f"metergate-agent: {error}\n")
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
