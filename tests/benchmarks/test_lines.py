"""The bench ``lines``, short: few rows over quick lines; and what it says of rounds that are not whole."""

import json
import pathlib

from benchmarks._lines_rounds import Round, Session, judge, sessions
from benchmarks.lines import Course, run
from benchmarks.loaded_hub import SERIES

TICK, LENGTH = 100.0, 25.0


def test_three_lines_are_read_at_once_and_everything_arrives() -> None:
    course = Course(lines=3, rounds=1, one_line_rounds=1, rows=4, rate=19200, seconds=4.0, lead=5.0)
    figures = run(course)
    assert figures.troubles == ()
    assert figures.readings == figures.expected == (1 + 3) * 4 * len(SERIES)
    assert [usage.lines for usage in (figures.one, figures.many)] == [1, 3]
    for usage in (figures.one, figures.many):
        assert len(usage.rounds) == 1
        assert 0 < usage.seconds < course.seconds
        assert 0 < usage.cpu < 1
        assert usage.peak >= usage.rss > 0


def test_a_round_is_whole_if_every_line_had_one_session_that_has_ended() -> None:
    line = [Session(75.2, 92.0, 0.1), Session(100.2, 117.0, 0.25), Session(125.1, None, 0.0)]
    other = [Session(74.9, 91.0, 0.1), Session(99.9, 118.0, 0.25)]
    assert judge([line, other], TICK, LENGTH) == Round(99.9, 118.0, 0.25)
    assert judge([line, other], TICK + LENGTH, LENGTH) == "line 0 was still busy when the next round began"
    assert judge([other, line], TICK + LENGTH, LENGTH) == "line 0 had 0 sessions instead of one"
    late = [Session(100.2, 125.3, 8.0)]
    assert judge([line, late], TICK, LENGTH) == "line 1 was still busy when the next round began"


def test_sessions_are_taken_from_the_wire_log(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "wire.log"
    chunks = [
        ("rx", b"/?1!\r\n", 1.0, 1.1, 1.1),
        ("tx", b"/Els6EK280\r\n", 1.25, 1.5, 1.75),
        ("rx", b"\x01B0\x03q", 2.0, 2.1, 2.1),
        ("rx", b"/?1!\r\n", 3.0, 3.1, 3.1),
    ]
    log.write_text(
        "".join(
            json.dumps({"t": at, "dir": way, "hex": data.hex(), "serial": None, "start": start, "end": end}) + "\n"
            for way, data, start, end, at in chunks
        )
        + '{"t": 9, "dir": "tx", "hex'
    )
    assert sessions(log) == [Session(1.0, 2.1, 0.25), Session(3.0, None, 0.0)]
    assert sessions(tmp_path / "none.log") == []
