"""The profile of a relay in the bench ``ingest``: only what is in the event loop, by the step that it is done for."""

import pathlib
import subprocess
import sys

from benchmarks._ingest_profile import OTHER, STEPS, shares

PROGRAM = """
import asyncio, time
from sqlalchemy.util import greenlet_spawn

def work():
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass

async def look_up():
    await greenlet_spawn(work)

async def read_plain():
    work()
    await look_up()
    await look_up()

work()
asyncio.run(read_plain())
"""


def test_processor_time_is_counted_for_the_step_that_it_is_used_for(tmp_path: pathlib.Path) -> None:
    program, file = tmp_path / "program.py", tmp_path / "profile.json"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks._ingest_profile", str(file), str(program)]
    subprocess.run(command, check=True, timeout=60)
    found = shares(file)
    assert set(found) <= {STEPS["look_up"], STEPS["read_plain"], OTHER}
    # 0.2 s of looking up, on SQLAlchemy's own stack, and 0.1 s of opening; what was before the loop is not there.
    assert 45 < found[STEPS["look_up"]] < 85
    assert 15 < found[STEPS["read_plain"]] < 50


ON_SQLITE = """
import asyncio
from sqlalchemy import text
from hub.database import create_engine

async def tick():
    # A loop that only waits may not hear of the timer until it has something to do; a hub's always has.
    while True:
        await asyncio.sleep(0.005)

async def main():
    ticking = asyncio.create_task(tick())
    engine = create_engine(f"sqlite:///{FILE}")
    async with engine.connect() as connection:
        await connection.execute(text(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT max(i) FROM n"
        ))
    await engine.dispose()
    ticking.cancel()

asyncio.run(main())
"""


def test_what_sqlite_does_in_its_own_thread_is_told_by_statement(tmp_path: pathlib.Path) -> None:
    program, file = tmp_path / "program.py", tmp_path / "profile.json"
    program.write_text(ON_SQLITE.replace("{FILE}", str(tmp_path / "hub.db")), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks._ingest_profile", str(file), str(program)]
    subprocess.run(command, check=True, timeout=60)
    assert shares(file)["SQLite: WITH RECURSIVE n(i) AS"] > 40
