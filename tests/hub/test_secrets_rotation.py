"""A rotation of the key for secrets may be killed anywhere: every secret can be opened before, meanwhile and after."""

import json
import pathlib
import signal
import subprocess
import time

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.demo.processes import program
from hub.audit import Author
from hub.database import reading, writing
from hub.keys import KeyFileError, open_key
from hub.models import HubState, MeterSecurityKeys, Organization
from hub.secrets_box import PUBLIC_HALF, SealError, public_half, read_public_half, seal
from hub.secrets_ring import Ring, keys_of, note_ring, ring_file
from hub.secrets_rotation import rotate
from hub.security_keys import purpose_of
from protocol.envelopes import SigningKey
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import NOW, make_estate, new_meter

__all__ = ["database_url", "engine"]


OPERATOR = Author("cli", "operator@host", "metergate-hub keys rotate")


def secret_of(row: MeterSecurityKeys) -> bytes:
    """The secret that the tests store for a meter."""
    return f"secret of {row.meter}".encode()


async def store_secrets(engine: AsyncEngine, ring: Ring, count: int) -> None:
    """Do what a relay does when it starts, and store a secret for each of many meters."""
    estate = await make_estate(engine)
    async with writing(engine) as session:
        await note_ring(session, ring)
        half = await read_public_half(session)
        meters = [new_meter(f"S{number}", estate.organization, estate.type, estate.line) for number in range(count)]
        session.add_all(meters)
        await session.flush()
        for meter in meters:
            row = MeterSecurityKeys(meter=meter.id, stored=[], created_at=NOW, updated_at=NOW)
            row.sealed = seal(half, secret_of(row), purpose_of(meter.id))
            session.add(row)


async def check_secrets(engine: AsyncEngine, ring: Ring, count: int) -> None:
    """Open all of them with a ring."""
    async with reading(engine) as session:
        rows = (await session.scalars(select(MeterSecurityKeys))).all()
    assert len(rows) == count
    for row in rows:
        assert ring.unseal(row.sealed, purpose_of(row.meter)) == secret_of(row)


def make_ring(folder: pathlib.Path) -> Ring:
    """The keys of a hub in this folder; what happens to the file is seen by a new ring, as by a new process."""
    return Ring(open_key(folder / "hub.key"), ring_file(folder / "hub.key"))


async def test_everything_is_sealed_anew(engine: AsyncEngine, tmp_path: pathlib.Path) -> None:
    old = make_ring(tmp_path)
    await store_secrets(engine, old, 120)
    done = await rotate(engine, make_ring(tmp_path), OPERATOR, NOW)
    assert (done.sealed_anew, done.unreadable) == (120, 0)
    (only,) = keys_of(ring_file(tmp_path / "hub.key"))
    assert ring_file(tmp_path / "hub.key").stat().st_mode & 0o777 == 0o600
    # A relay that has run all the time reads the file again when it has to.
    await check_secrets(engine, old, 120)
    async with reading(engine) as session:
        assert await read_public_half(session) == public_half(only)
        row = (await session.scalars(select(MeterSecurityKeys).limit(1))).one()
    with pytest.raises(SealError):
        Ring(old.hub_key, tmp_path / "none").unseal(row.sealed, purpose_of(row.meter))
    again = await rotate(engine, make_ring(tmp_path), OPERATOR, NOW)
    assert again.sealed_anew == 120
    assert again.key != done.key
    await check_secrets(engine, make_ring(tmp_path), 120)


async def test_a_relay_with_an_older_file_does_not_put_the_old_key_back(
    engine: AsyncEngine, tmp_path: pathlib.Path
) -> None:
    old = make_ring(tmp_path)
    await store_secrets(engine, old, 3)
    await rotate(engine, make_ring(tmp_path), OPERATOR, NOW)
    stale = Ring(old.hub_key, tmp_path / "elsewhere")
    async with writing(engine) as session:
        await note_ring(session, stale)
    async with reading(engine) as session:
        assert await read_public_half(session) == public_half(make_ring(tmp_path).newest)


async def test_what_no_key_opens_is_counted_and_stays(engine: AsyncEngine, tmp_path: pathlib.Path) -> None:
    ring = make_ring(tmp_path)
    await store_secrets(engine, ring, 3)
    lost = SigningKey(bytes(32))
    async with writing(engine) as session:
        row = (await session.scalars(select(MeterSecurityKeys).limit(1))).one()
        row.sealed = seal(public_half(lost), secret_of(row), purpose_of(row.meter))
    done = await rotate(engine, ring, OPERATOR, NOW)
    assert (done.sealed_anew, done.unreadable) == (2, 1)
    # The lost line comes back: nothing else is needed.
    file = ring_file(tmp_path / "hub.key")
    file.write_text(file.read_text() + lost.seed.hex() + "\n")
    done = await rotate(engine, make_ring(tmp_path), OPERATOR, NOW)
    assert (done.sealed_anew, done.unreadable) == (3, 0)
    await check_secrets(engine, make_ring(tmp_path), 3)


def test_a_damaged_file_is_said_without_its_content(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "hub.key.secrets"
    file.write_text("00" * 32 + "\nabcdefghijk\n")
    with pytest.raises(KeyFileError) as raised:
        keys_of(file)
    assert "abcdef" not in str(raised.value)
    assert str(file) in str(raised.value)


@ON_SQLITE
@pytest.mark.parametrize("moment", ["the file has a new key", "it is noted", "some are sealed anew"])
async def test_killed_at_any_moment_it_goes_on_when_run_again(
    engine: AsyncEngine, database_url: str, tmp_path: pathlib.Path, moment: str
) -> None:
    count = 350
    await store_secrets(engine, make_ring(tmp_path), count)
    file = ring_file(tmp_path / "hub.key")
    place = ["--data", str(tmp_path)]
    if database_url.startswith("postgresql"):
        place += ["--database", database_url]
    command = [program("metergate-hub"), "keys", "rotate", "--json", *place]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - nothing else runs here
    try:
        while process.poll() is None:
            if file.exists() and (
                moment == "the file has a new key"
                or (await _is_noted(engine, file) and (moment == "it is noted" or await _has_begun(engine, file)))
            ):
                break
            time.sleep(0.001)  # noqa: ASYNC251 - nothing else runs here
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    await check_secrets(engine, make_ring(tmp_path), count)
    # Who stores a secret now stores it for a key that is in the file.
    async with writing(engine) as session:
        assert await read_public_half(session) in {public_half(key) for key in make_ring(tmp_path).keys}
    again = subprocess.run(command, check=True, capture_output=True)  # noqa: ASYNC221 - nothing else runs here
    done = json.loads(again.stdout)
    assert done["unreadable"] == 0
    assert len(keys_of(file)) == 1
    await check_secrets(engine, make_ring(tmp_path), count)


async def _is_noted(engine: AsyncEngine, file: pathlib.Path) -> bool:
    async with reading(engine) as session:
        noted = await session.scalar(select(HubState.value).where(HubState.key == PUBLIC_HALF))
    return noted == public_half(keys_of(file)[0]).hex()


async def _has_begun(engine: AsyncEngine, file: pathlib.Path) -> bool:
    newest = Ring(keys_of(file)[0], file.with_name("none"))
    async with reading(engine) as session:
        row = (await session.scalars(select(MeterSecurityKeys).order_by(MeterSecurityKeys.id).limit(1))).one()
        assert await session.scalar(select(func.count()).select_from(Organization)) == 1
    try:
        newest.unseal(row.sealed, purpose_of(row.meter))
    except SealError:
        return False
    return True
