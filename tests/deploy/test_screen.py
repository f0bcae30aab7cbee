"""What people see of the demo: plain in a file, alive on a terminal."""

import datetime as dt
import io

import pytest

from deploy.demo.screen import BOLD, Screen, counted, listed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def now() -> dt.datetime:
    return dt.datetime(2026, 3, 2, 6, 30, 5, tzinfo=dt.UTC)


def test_a_file_has_plain_lines_and_nothing_that_was_only_awaited() -> None:
    out = io.StringIO()
    screen = Screen(now, out)
    screen.chapter("Polling", "Every quarter of an hour. " * 8)
    screen.wait("next due at 06:45")
    screen.say("gateways  poll", style=BOLD)
    heading, *prose, said = out.getvalue().splitlines()[1:]
    assert heading.startswith("-- Polling ---")
    assert all(len(line) <= 100 for line in prose)
    assert said == "06:30:05  gateways  poll"
    assert "\x1b" not in out.getvalue()
    assert "06:45" not in out.getvalue()


def test_on_a_terminal_what_is_awaited_gives_way_to_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    screen = Screen(now, out)
    screen.wait("next due at 06:45")
    screen.say("due 06:30")
    screen.clear()
    assert out.getvalue() == "\r\x1b[K06:30:05  next due at 06:45\r\x1b[K06:30:05  due 06:30\n"


def test_words() -> None:
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [counted(number, "tick") for number in (0, 1, 2)] == ["0 ticks", "1 tick", "2 ticks"]
