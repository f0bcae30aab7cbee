"""``metergate-hub doctor``: looks at everything that a hub stands on, and says of each thing what to do.

Rules:
- Nothing is changed. The broker is tried with messages under one topic of the doctor's own (``hub.doctor_broker``),
  which no relay and no gateway subscribes to, and which is left empty.
- Each line is ``ok``, ``warn`` (it works, but will not always, or not everything is kept), ``fail`` (it does not work,
  or readings may be lost) or ``skipped`` (not to be seen from here). What is ``warn`` or ``fail`` says what to do.
- It looks from where it runs: run it on a hub's machine, with that hub's settings.
"""

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from hub import doctor_broker, doctor_database
from hub.clocks import Clock
from hub.database import UNREACHABLE, create_engine, reading
from hub.doctor_lines import FAIL, OK, SKIPPED, WARN, Line
from hub.keys import KeyFileError, read_seeds
from hub.secrets_box import public_half
from hub.secrets_ring import noted_half, ring_file
from hub.session_keys import session_file
from mqtt.connection import Access
from protocol.clock_settings import CLOCK_VARIABLE
from protocol.envelopes import SigningKey, fingerprint

CLEAN, FAILED, WARNED = 0, 1, 3
"""Exit statuses: nothing to do, something fails, something is to be done soon; 2 is wrong usage."""

_KEY_BYTES: Final = 32


class Report(msgspec.Struct, frozen=True):
    """What the doctor found; ``status`` is the worst of the lines."""

    status: str
    lines: tuple[Line, ...]

    @property
    def exit_status(self) -> int:
        """What the command ends with."""
        return {OK: CLEAN, WARN: WARNED, FAIL: FAILED}[self.status]

    def text(self) -> str:
        """Return the lines as people read them."""
        told = []
        for line in self.lines:
            told.append(f"{line.status:7} {line.check:24} {line.text}")
            if line.advice:
                told.append(f"{'':33}-> {line.advice}")
        counts = {status: sum(line.status == status for line in self.lines) for status in (OK, WARN, FAIL, SKIPPED)}
        told.append(", ".join(f"{count} {status}" for status, count in counts.items()))
        return "\n".join(told)


async def examine(
    database: str, broker: Access | None, data: Path | None, key_file: Path | None, clock: Clock
) -> Report:
    """Look at everything.

    Args:
        database: Its URL.
        broker: None where none was named.
        data: The data directory; None where none was named.
        key_file: The hub's key; None where this machine has none.
        clock: The hub's.
    """
    lines = [*_settings(data)]
    half = None
    engine = create_engine(database)
    try:
        lines += await doctor_database.examine(engine, clock)
        if all(
            line.status != FAIL for line in lines if line.check in {doctor_database.REACHED, doctor_database.SCHEMA}
        ):
            async with reading(engine) as session:
                half = await noted_half(session)
    except (SQLAlchemyError, *UNREACHABLE) as error:
        lines.append(doctor_database.broken_off(error))
    finally:
        await engine.dispose()
    lines += _keys(key_file, half)
    if broker is None:
        lines.append(
            Line("broker", SKIPPED, "no broker was named: give --broker URL (mqtt://127.0.0.1:1883 beside run)")
        )
    else:
        lines += await doctor_broker.examine(broker)
    return Report(_worst(lines), tuple(lines))


def _worst(lines: Iterable[Line]) -> str:
    statuses = {line.status for line in lines}
    return next((status for status in (FAIL, WARN) if status in statuses), OK)


def _settings(data: Path | None) -> Iterable[Line]:
    """Look at what the environment says, and at the data directory."""
    if os.environ.get(CLOCK_VARIABLE):
        text = f"{CLOCK_VARIABLE} is set: processes started like this one live in another time"
        yield Line("settings.clock", WARN, text, f"unset {CLOCK_VARIABLE} but for demos, tests and benchmarks")
    else:
        yield Line("settings.clock", OK, f"the system's clock: {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}")
    if data is None:
        return
    try:
        mode = stat.S_IMODE(data.stat().st_mode)
    except OSError as error:
        advice = "metergate-hub run makes it; else look at --data"
        yield Line("settings.data", FAIL, f"the data directory {data}: {error.strerror}", advice)
        return
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        advice = f"run as the hub's user, or give it the directory: chown -R USER {data}"
        yield Line("settings.data", FAIL, f"the data directory {data} cannot be written by this user", advice)
    elif mode & 0o077:
        yield Line("settings.data", WARN, f"others may look into {data} ({mode:o})", f"chmod 700 {data}")
    else:
        yield Line("settings.data", OK, f"{data}")


def _keys(key_file: Path | None, half: bytes | None) -> Iterable[Line]:
    """Look at the files of keys, and whether they open what is sealed in the database."""
    if key_file is None:
        text = "this machine was given no key: REST alone needs it only for users who sign in"
        yield Line("keys.hub", SKIPPED, text)
        return
    line, seeds = _key_file("keys.hub", key_file, "the hub's key file", "restore hub.key from your copy of it")
    yield line
    if not seeds:
        return
    keys = [SigningKey(seeds[0])]
    secrets = ring_file(key_file)
    if secrets.exists():
        line, found = _key_file("keys.secrets", secrets, "the file of keys for secrets", "restore it from your copy")
        yield line
        keys += [SigningKey(seed) for seed in found]
    if half is None:
        yield Line("keys.sealed", OK, "nothing is sealed yet")
    elif half in {public_half(key) for key in keys}:
        yield Line("keys.sealed", OK, "what is sealed in the database opens with the keys here")
    else:
        advice = f"copy {secrets.name} from the host that rotated to {secrets}"
        yield Line("keys.sealed", FAIL, "secrets in the database are sealed for a key that is not here", advice)
    sessions = session_file(key_file)
    if sessions.exists():
        advice = "remove it: users have to sign in again"
        yield _key_file("keys.sessions", sessions, "the file of keys for sessions", advice)[0]


def _key_file(check: str, file: Path, what: str, advice: str) -> tuple[Line, list[bytes]]:
    try:
        seeds = read_seeds(file, what, advice)
    except KeyFileError as error:
        return Line(check, FAIL, str(error).removesuffix(f"; {advice}"), advice), []
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        return Line(check, FAIL, f"others may read {file} ({mode:o})", f"chmod 600 {file}"), seeds
    of_hub = f", fingerprint {fingerprint(SigningKey(seeds[0]).public)}" if check == "keys.hub" else ""
    return Line(check, OK, f"{file} ({len(seeds)} keys{of_hub})"), seeds
