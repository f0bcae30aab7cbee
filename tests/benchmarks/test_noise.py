"""The noise bench in short: its goals hold, and it would see it if they did not."""

import dataclasses
import random

import pytest

from benchmarks import _noise_line as lines
from benchmarks import noise
from protocol.iec62056.characters import block_check, with_even_parity


def test_no_wrong_value_is_stored_in_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "double_flips", lambda raw: [("two bits flipped", lines.flipped(raw, 7, 9))])
    monkeypatch.setattr(noise, "RATE", 0.0005)
    figures = noise.run(4000, 3, short=True)
    assert [figure for figure in figures if not figure.good] == []
    rows = [figure for figure in figures if figure.part == "rows"]
    assert sum(figure.tried for figure in rows) >= 4000
    assert sum(figure.struck for figure in rows) > 50
    assert sum(figure.values for figure in rows) > 10_000
    assert sum(figure.moved for figure in rows) > sum(figure.ideal for figure in rows)


def test_a_wrong_value_is_a_bad_figure_only_where_it_is_judged() -> None:
    figure = noise.Figure("rows", noise.EVEN, "one bit flipped", "once", judged=True, wrong=1)
    assert not figure.good
    assert dataclasses.replace(figure, judged=False).good


def test_a_core_that_is_asked_for_all_pairs_sees_them() -> None:
    characters = b"\x021(2)\x03"
    sent = with_even_parity(characters + bytes((block_check(characters[1:]),)))
    core = noise.Core(noise.EVEN)
    assert core.hears(sent) == ("1(2)", True)
    assert all(core.hears(damaged) in {None, ("1(2)", True)} for _, damaged in noise.double_flips(sent))
    assert core.hears(sent + b"1") is None, "bytes behind a telegram are doubted"


@pytest.mark.parametrize(
    "strike",
    [lines.one_bit, lines.two_bits, lines.one_column, lines.drop, lines.insert, lines.double, lines.burst],
)
def test_every_strike_changes_a_telegram_of_any_length(strike: lines.Strike) -> None:
    rng = random.Random(1)  # noqa: S311 - reproducible on purpose
    for length in (1, 2, 3, 40):
        data = bytes(range(1, length + 1))
        assert strike(data, rng) != data
