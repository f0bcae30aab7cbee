"""An agent's store is opened by the versions before and after: its layout is the one that all of them have written.

``tests/golden/store-1.sql`` is what agents in the field have on their disks. When this fails, the layout was changed:
then the form (``_VERSION`` of ``agent.store``) goes up, older files are brought to it, and operators are told in
docs/upgrading.md that there is no way back.
"""

import pathlib
import sqlite3

import pytest

from agent.clocks import Clock
from agent.store import Store, StoreError

LAYOUT = (pathlib.Path(__file__).parents[1] / "golden" / "store-1.sql").read_text("utf-8")
WAITING = 3


def laid_out(path: pathlib.Path) -> tuple[list[tuple[str, str]], int]:
    """Return the tables and indexes of a file, and its form."""
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
        (form,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return [(name, " ".join(sql.split())) for name, sql in found], form


def of_before(path: pathlib.Path) -> None:
    """Make the file that an agent of before has left: rows that wait, one that was receipted, an open run."""
    with sqlite3.connect(path) as db:
        db.executescript(LAYOUT)
        rows = [(f"row {number}".encode(), 1.0, None if number else 2.0) for number in range(WAITING + 1)]
        db.executemany("INSERT INTO readings (body, stored_at, receipted_at) VALUES (?, ?, ?)", rows)
        meta = {"store": b"\x01" * 16, "gateway": "gw-1", "generation": 4, "session": 7, "state": 9}
        db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", meta.items())
        db.execute("INSERT INTO runs (id, device, state) VALUES (?, ?, 'open')", (b"\x02" * 16, b"\x03" * 16))
    db.close()


def test_a_new_store_is_laid_out_as_all_before_were(tmp_path: pathlib.Path) -> None:
    Store(tmp_path / "agent.db", "gw-1", Clock()).close()
    of_before(tmp_path / "before.db")
    assert laid_out(tmp_path / "agent.db") == laid_out(tmp_path / "before.db")


def test_a_store_of_before_is_gone_on_with_and_stays_readable_for_those_before(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.db"
    of_before(path)
    layout = laid_out(path)
    store = Store(path, "gw-1", Clock())
    rows = store.readings.next_rows(0, 1000)
    assert rows is not None
    assert rows.bodies[-WAITING:] == [b"row 1", b"row 2", b"row 3"]
    assert store.session > 7
    assert store.last_state() == 9
    with store.transaction():
        store.readings.append([b"of today"])
    store.close()
    assert laid_out(path) == layout


def test_a_store_of_a_later_form_is_refused_and_left_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.db"
    of_before(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StoreError, match="written by a newer version"):
        Store(path, "gw-1", Clock())
    assert laid_out(path)[1] == 2
