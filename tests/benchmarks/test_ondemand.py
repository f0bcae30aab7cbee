"""The bench ``ondemand`` finds the session that was asked for on a line with others, and knows what it must take."""

import pytest

from benchmarks._ondemand_site import RATE
from benchmarks._poll_wire import BITS, BREAK, Telegram
from benchmarks.loaded_hub import quantile
from benchmarks.ondemand import _limit, _session
from benchmarks.poll import REACTION


def said(*telegrams: tuple[str, str, float]) -> list[Telegram]:
    """Return telegrams of (direction, text, pause before it), each as long as the line takes for it."""
    found, at = [], 0.0
    for direction, text, pause in telegrams:
        start = at + pause
        at = start + len(text) * BITS / RATE
        found.append(Telegram(direction, text, start, at, at))
    return found


OTHER = [("rx", "/?2!\r\n", 0.0), ("tx", "/Els5 other\r\n", 0.2), ("rx", BREAK, 0.02)]
ASKED = [("rx", "/?1!\r\n", 0.1), ("tx", "/Els5EK280\r\n", 0.03), ("rx", "\x06", 0.05), ("rx", BREAK, 0.0)]


def test_the_session_is_found_between_others() -> None:
    found = _session(said(*OTHER, *ASKED, *OTHER))
    assert [one.text for one in found] == ["/?1!\r\n", "/Els5EK280\r\n", "\x06" + BREAK]
    with pytest.raises(RuntimeError, match="no whole session"):
        _session(said(*OTHER))


def test_the_limit_has_characters_and_reactions_and_nothing_that_the_reader_wastes() -> None:
    found = _session(said(*ASKED))
    characters = sum(len(one.text) for one in found)
    assert _limit(found) == pytest.approx(characters * BITS / RATE + 0.03 + REACTION)
    wall = found[-1].end - found[0].start
    assert wall - _limit(found) == pytest.approx(0.05 - REACTION), "what was waited beyond the minimum"


def test_quantiles_are_values_that_there_were() -> None:
    values = [float(one) for one in range(1, 21)]
    assert (quantile(values, 0.5), quantile(values, 0.95), quantile(values, 1.0)) == (11.0, 20.0, 20.0)
