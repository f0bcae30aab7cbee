"""A readout against a meter that is a list: every row once, however often and wherever it is interrupted."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent.readouts import Readout
from contexts.meters import Layout
from protocol.iec62056 import lis200

LAYOUT = Layout(("1:1F8", "3:A20", "1:400", "2:300"), ("GONr", "AONr", "Zeit", "Vn"), ("", "", "", "m3"))
NO_NUMBERS = Layout(("", "", "1:400", "2:300"), LAYOUT.names, LAYOUT.units)
REFUSES_NUMBERS = 101


def archive(steps: Sequence[int]) -> list[lis200.Row]:
    """Rows whose clock goes by these steps, forwards and backwards."""
    rows: list[lis200.Row] = []
    clock = 5000
    for index, step in enumerate(steps):
        clock = max(1000, min(9999, clock + step))
        # Global numbers have gaps; what stands for the time is compared as text, like a time.
        rows.append((str(95 + index * 3), str(8 + index), f"2025-{clock}", "1.5"))
    return rows


def answer(rows: Sequence[lis200.Row], argument: str) -> list[lis200.Row]:
    """What a meter answers: every row whose column lies in the range, in the archive's order."""
    asked = lis200.ArchiveRange.parse(argument)

    def inside(text: str) -> bool:
        if asked.position == 3:
            return (not asked.start or text >= asked.start) and (not asked.end or text <= asked.end)
        return (not asked.start or int(text) >= int(asked.start)) and (not asked.end or int(text) <= int(asked.end))

    return [row for row in rows if inside(row[(asked.position or 1) - 1])]


def read(
    readout: Readout, rows: Sequence[lis200.Row], breaks: Sequence[bool], *, compares_numbers: bool = True
) -> list[list[str]]:
    got: list[list[str]] = []
    turns = iter(breaks)
    while not readout.over:
        argument = readout.argument(2)
        if not compares_numbers and lis200.ArchiveRange.parse(argument).position != 3:
            assert readout.goes_on_after(REFUSES_NUMBERS, 3)
            continue
        left = answer(rows, argument)
        if not left:
            assert readout.goes_on_after(103, 3) or not got
            break
        while not readout.over:
            block, left = left[:2], left[2:]
            got += readout.take(block, last=not left)
            if readout.asks_on:
                break
            if not readout.over and next(turns, False):
                readout.interrupted()
                break
    return got


steps = st.lists(st.integers(-300, 600), max_size=25)
limits = st.one_of(st.just(""), st.integers(1000, 9999).map(lambda clock: f"2025-{clock}"))
breaks = st.lists(st.booleans(), max_size=40)


@given(steps=steps, start=limits, end=limits, breaks=breaks)
def test_every_row_comes_once_whatever_the_clock_did(
    steps: list[int], start: str, end: str, breaks: list[bool]
) -> None:
    rows = archive(steps)
    wanted = [list(row) for row in answer(rows, f"3;{start};{end};2")]
    got = read(Readout(3, 3, start, end, LAYOUT), rows, breaks)
    if not end:
        assert got == wanted
    else:
        # Asked by number, it stops at a block that is wholly behind the end: only a clock that was put forward over
        # the end and back again can hide a row there.
        assert got == wanted[: len(got)]


@given(
    steps=st.lists(st.integers(0, 600), max_size=25),
    start=limits,
    end=limits,
    breaks=breaks,
    layout=st.sampled_from((LAYOUT, NO_NUMBERS)),
)
def test_without_numbers_a_clock_that_only_went_forward_is_enough(
    steps: list[int], start: str, end: str, breaks: list[bool], layout: Layout
) -> None:
    rows = archive(steps)
    readout = Readout(3, 3, start, end, layout)
    wanted = [list(row) for row in answer(rows, f"3;{start};{end};2")]
    assert read(readout, rows, breaks, compares_numbers=False) == wanted


def test_an_overwritten_row_is_asked_around_a_bounded_number_of_times() -> None:
    readout = Readout(3, 3, "", "", LAYOUT)
    assert [readout.goes_on_after(109, 3) for _ in range(5)] == [True, True, True, False, False]


def test_a_last_block_that_could_be_cut_is_asked_behind_and_only_that() -> None:
    """What it costs is said by how often the meter is asked: once more behind a full last block, else not."""

    def asked(held: int, block: int, *, struck: frozenset[int] = frozenset(), end: str = "") -> tuple[int, list[int]]:
        rows = [(str(2 * n), str(n), f"2025-03-{n:02},06:00:00", "1") for n in range(1, held + 1)]
        readout = Readout(3, 3, "", end, LAYOUT)
        got: list[list[str]] = []
        questions = 0
        while not readout.over:
            wanted = lis200.ArchiveRange.parse(readout.argument(block))
            questions += 1
            left = [row for row in rows if wanted.position != 2 or int(row[1]) >= int(wanted.start or "0")]
            left = [row for row in left if not end or wanted.position == 2 or row[2] <= end]
            if not left:
                assert readout.goes_on_after(103, 3)
            while left and not readout.over:
                part, left = left[:block], left[block:]
                last = not left or int(part[-1][1]) in struck
                got += readout.take(part, last=last)
                if last:
                    break
        return questions, [int(row[1]) for row in got]

    assert asked(10, 4) == (1, list(range(1, 11)))
    assert asked(8, 4) == (2, list(range(1, 9)))
    assert asked(8, 4, end="2025-03-08,06:00:00") == (1, list(range(1, 9)))
    assert asked(10, 4, struck=frozenset({4})) == (2, list(range(1, 11)))
    assert asked(10, 4, struck=frozenset({4, 8})) == (3, list(range(1, 11)))
    assert asked(10, 4, struck=frozenset({4}), end="2025-03-06,06:00:00") == (2, list(range(1, 7)))
