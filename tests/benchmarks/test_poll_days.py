"""What the bench says of a meter's days, on a line so fast that it takes no time."""

import pathlib

from benchmarks._poll_days import Gateway, day
from benchmarks._poll_wire import chunks, simulated, telegrams


async def test_five_due_tasks_share_a_handshake_and_the_second_day_moves_little_more_than_its_rows(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "wire.log"
    with simulated(log, "pty", 19200) as endpoint:
        shown = {one.what: one for one in await day(Gateway(endpoint, 19200), log, 19200, rows=24)}
    handshakes = shown["five due tasks: handshakes"]
    assert handshakes.figure == 1
    overhead = shown["second day: bytes over those of new rows"]
    assert 1 < overhead.figure <= overhead.bound
    assert sum(piece.characters for piece in chunks(log, 0)) == sum(t.characters for t in telegrams(log, 0))
