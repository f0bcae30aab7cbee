"""The noise bench in short: its goals hold, and it would see it if they did not."""

import dataclasses
import random

import pytest

from benchmarks import _noise_errors as errors
from benchmarks import _noise_line as lines
from benchmarks import noise
from benchmarks._noise_site import EVEN, NONE, Figure
from protocol import iec62056
from protocol.iec62056.characters import block_check, with_even_parity


def test_no_wrong_value_is_stored_in_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "possible_pairs", lambda raw, _parity, _probe: [(7, 8 * len(raw) - 9)])
    monkeypatch.setattr(noise, "RATE", 0.0005)
    figures = noise.run(4000, 3, short=True)
    assert [figure for figure in figures if not figure.good] == []
    rows = [figure for figure in figures if figure.part == "rows"]
    assert sum(figure.tried for figure in rows) >= 4000
    assert sum(figure.struck for figure in rows) > 50
    assert sum(figure.values for figure in rows) > 10_000
    assert sum(figure.moved for figure in rows) > sum(figure.ideal for figure in rows)


def test_a_wrong_value_is_a_bad_figure_only_where_it_is_judged() -> None:
    figure = Figure("rows", EVEN, "one bit flipped", "once", judged=True, wrong=1)
    assert not figure.good
    assert dataclasses.replace(figure, judged=False).good


@pytest.mark.parametrize("parity", [EVEN, NONE])
def test_no_pair_that_the_core_lets_through_is_left_out(parity: str) -> None:
    characters = b"\x021(C1s)\x03"  # C, 1 and s are one or two bits from a character that frames
    sent = characters + bytes((block_check(characters[1:]),))
    raw = with_even_parity(sent) if parity == EVEN else sent
    core = errors.Core(parity)
    assert core.hears(raw) == ("1(C1s)", True)
    probed: list[tuple[int, int]] = []
    possible = set(errors.possible_pairs(raw, parity, lambda first, second: probed.append((first, second))))
    through = {
        pair
        for pair in errors.double_flips(raw)
        if core.hears(lines.flipped(raw, *pair)) not in {None, ("1(C1s)", True)}
    }
    assert through <= possible
    assert len(possible) < len(list(errors.double_flips(raw)))
    assert bool(through) == (parity == NONE), "parity sees all of them"
    assert not possible.intersection(probed)
    assert core.hears(raw + b"1") is None, "bytes behind a telegram are doubted"


def test_every_error_of_a_question_is_heard_as_a_meter_hears_it() -> None:
    reader = iec62056.Connection(iec62056.Role.READER, parity=iec62056.Parity.EVEN, opening_rate=9600, fixed_rate=True)
    request = reader.send(iec62056.Request("1"))
    ((raw, core),) = errors.Listener(EVEN, [request]).before
    assert raw == request
    meant = errors.Listener.hears(core, request)
    assert errors.Listener.hears(core, b"\x00" + request) == meant, "noise in front is no error"
    unheard = errors.Listener.hears(core, request[:-1])
    assert unheard[0] == ()
    assert unheard[1][-1] == request[:-1], "what is left meets the next telegram"


@pytest.mark.parametrize(
    "strike",
    [lines.one_bit, lines.two_bits, lines.one_column, lines.drop, lines.insert, lines.double, lines.burst],
)
def test_every_strike_changes_a_telegram_of_any_length(strike: lines.Strike) -> None:
    rng = random.Random(1)  # noqa: S311 - reproducible on purpose
    for length in (1, 2, 3, 40):
        data = bytes(range(1, length + 1))
        assert strike(data, rng) != data
