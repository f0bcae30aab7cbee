"""Backup and restore on SQLite: a whole database at each instant, and nothing in place that was not found sound."""

import asyncio
import datetime as dt
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.backup import BackupError, backup, restore
from hub.database import SERVES, create_engine
from hub.settings import StartError
from hub.sole_use import sole_use
from tests.parts.databases import new_sqlite
from tests.parts.estates import make_estate

HUB = str(Path(sys.executable).parent / "metergate-hub")
NOW = dt.datetime(2026, 11, 22, 17, 0, tzinfo=dt.UTC)


async def _make(folder: Path) -> None:
    engine: AsyncEngine = create_engine(await new_sqlite(folder / "hub.db"))
    await make_estate(engine)
    await engine.dispose()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a hub's database of one estate, closed."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    asyncio.run(_make(folder))
    return folder


def asked(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the hub's command to its end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERGATE")}
    return subprocess.run(
        [HUB, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=cwd, env=environment
    )


def rows(path: Path, query: str = "SELECT name FROM organizations") -> list[str]:
    """Return the first column of what a database file answers."""
    db = sqlite3.connect(path)
    try:
        return [row[0] for row in db.execute(query)]
    finally:
        db.close()


def rename(path: Path, name: str) -> None:
    """Change something in a database file."""
    db = sqlite3.connect(path)
    db.execute("UPDATE organizations SET name = ?", (name,))
    db.commit()
    db.close()


def damage(path: Path) -> None:
    """Overwrite the middle of a file, on every page."""
    content = bytearray(path.read_bytes())
    for start in range(4096 * 2, len(content), 4096):
        content[start + 8 : start + 64] = b"\xff" * 56
    path.write_bytes(content)


def test_a_backup_is_one_instant_of_a_database_that_is_written_all_the_while(data: Path, tmp_path: Path) -> None:
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        db = sqlite3.connect(data / "hub.db", isolation_level=None, timeout=30)
        db.execute("CREATE TABLE twins (one INTEGER, other BLOB)")
        db.execute("CREATE TABLE other_twins (one INTEGER)")
        number = 0
        while not stop.is_set():
            number += 1
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO twins VALUES (?, randomblob(2000))", (number,))
            db.execute("INSERT INTO other_twins VALUES (?)", (number,))
            db.execute("COMMIT")
            if number == 50:
                written.set()
        db.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(30)
        for number in range(5):
            target = tmp_path / f"{number}.db"
            verdict = backup(data / "hub.db", target, NOW)
            one, other = rows(target, "SELECT one FROM twins"), rows(target, "SELECT one FROM other_twins")
            assert one == other
            assert len(one) >= 50
            assert (verdict.gateways, verdict.file) == (1, str(target))
    finally:
        stop.set()
        writer.join()
    # Each is a file of its own, readable by nobody else, and nothing is left beside them.
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{number}.db" for number in range(5)), "data"]
    assert target.stat().st_mode & 0o077 == 0


def test_what_is_put_back_replaces_and_keeps_what_was_there(data: Path, tmp_path: Path) -> None:
    backup(data / "hub.db", tmp_path / "yesterday.db", NOW)
    rename(data / "hub.db", "today")
    verdict = restore(tmp_path / "yesterday.db", data, NOW, verify=True)
    assert rows(data / "hub.db") == ["org of gw-1"]
    assert verdict.replaced is not None
    assert rows(Path(verdict.replaced)) == ["today"]
    # Twice in one second: both are kept.
    rename(data / "hub.db", "again")
    other = restore(tmp_path / "yesterday.db", data, NOW)
    assert other.replaced is not None
    assert rows(Path(other.replaced)) == ["again"]
    assert rows(Path(verdict.replaced)) == ["today"]


def test_a_machine_that_is_new_gets_the_backup(data: Path, tmp_path: Path) -> None:
    backup(data / "hub.db", tmp_path / "b.db", NOW)
    verdict = restore(tmp_path / "b.db", tmp_path / "new", NOW, verify=True)
    assert verdict.replaced is None
    assert rows(tmp_path / "new" / "hub.db") == ["org of gw-1"]


def test_nothing_changes_when_the_source_is_not_sound(data: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.db"
    backup(data / "hub.db", good, NOW)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(good.read_bytes())
    damage(damaged)
    cut = tmp_path / "cut.db"
    cut.write_bytes(good.read_bytes()[: 4096 * 5])
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE gateways (id)")
    db.close()
    newer = tmp_path / "newer.db"
    newer.write_bytes(good.read_bytes())
    db = sqlite3.connect(newer)
    db.execute("UPDATE alembic_version SET version_num = '9999'")
    # It serves no version before itself.
    db.execute("UPDATE hub_state SET value = '9999' WHERE key = ?", (SERVES,))
    db.commit()
    db.close()
    orphaned = tmp_path / "orphaned.db"
    orphaned.write_bytes(good.read_bytes())
    db = sqlite3.connect(orphaned)
    db.execute("DELETE FROM organizations")
    db.commit()
    db.close()
    text = tmp_path / "text.db"
    text.write_text("readings")
    before = (data / "hub.db").read_bytes()
    for source in (damaged, cut, other, newer, orphaned, text, tmp_path / "none.db", data / "hub.db"):
        with pytest.raises(BackupError, match=source.name):
            restore(source, data, NOW, verify=True)
        assert (data / "hub.db").read_bytes() == before
    # Rows and references are read only with `verify`; every page is looked at always.
    for source in (damaged, cut, other, newer, text):
        with pytest.raises(BackupError, match=source.name):
            restore(source, data, NOW)
        assert (data / "hub.db").read_bytes() == before
    # And no backup is made of what could not be put back.
    for source in (damaged, orphaned):
        with pytest.raises(BackupError, match=source.name):
            backup(source, tmp_path / "backup.db", NOW)
        assert not (tmp_path / "backup.db").exists()
    assert {path.name for path in data.iterdir()} <= {"hub.db", "hub.db-wal", "hub.db-shm", "hub.lock"}


def test_a_damaged_database_is_replaced_and_kept_with_its_log(data: Path, tmp_path: Path) -> None:
    backup(data / "hub.db", tmp_path / "b.db", NOW)
    (data / "hub.db").write_bytes(b"nothing that SQLite can read" * 400)
    (data / "hub.db-wal").write_bytes(b"its log")
    verdict = restore(tmp_path / "b.db", data, NOW, verify=True)
    assert rows(data / "hub.db") == ["org of gw-1"]
    assert verdict.replaced is not None
    assert Path(verdict.replaced).read_bytes().startswith(b"nothing")
    assert Path(verdict.replaced + "-wal").read_bytes() == b"its log"


def test_a_backup_does_not_replace_unless_asked(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.db"
    target.write_text("something else")
    with pytest.raises(BackupError, match="--replace"):
        backup(data / "hub.db", target, NOW)
    with pytest.raises(BackupError, match="itself"):
        backup(data / "hub.db", data / "hub.db", NOW, replace=True)
    with pytest.raises(BackupError, match="no database"):
        backup(tmp_path / "hub.db", target, NOW, replace=True)
    assert target.read_text() == "something else"
    backup(data / "hub.db", target, NOW, replace=True)
    assert rows(target) == ["org of gw-1"]
    named = backup(data / "hub.db", tmp_path, NOW)
    assert Path(named.file).name == "hub-20261122T170000Z.db"


def test_whoever_uses_the_database_keeps_it(data: Path, tmp_path: Path) -> None:
    backup(data / "hub.db", tmp_path / "b.db", NOW)
    with sole_use(data), pytest.raises(StartError, match="a hub runs on it"):
        restore(tmp_path / "b.db", data, NOW)


def test_the_commands_with_a_hub_that_runs(tmp_path: Path) -> None:
    run = [HUB, "run", "--data", str(tmp_path), "--port", "0", "--mqtt-port", "0"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        hub.stdout.readline()
        done = asked("backup", "b.db", "--data", str(tmp_path), "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["readings"] == 0
        refused = asked("restore", "b.db", "--data", str(tmp_path), "--verify", cwd=tmp_path)
        assert refused.returncode == 1
        assert "a hub runs on it" in refused.stderr
        second = asked("run", "--data", str(tmp_path), "--port", "0", "--mqtt-port", "0", cwd=tmp_path)
        assert second.returncode == 1
        assert "a hub runs on it" in second.stderr
        hub.terminate()
        hub.communicate(timeout=20)
    done = asked("restore", "b.db", "--data", str(tmp_path), "--verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is kept as" in done.stdout
