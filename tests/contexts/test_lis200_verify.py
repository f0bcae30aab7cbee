"""``verify: twice``: only what came the same twice in a row is handed on."""

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from zoneinfo import ZoneInfo

import pytest

from contexts.catalogue import CallError, check_call, find_call
from contexts.lis200_verify import TRIES, Disagreement
from contexts.meters import Answer, Held, Layout, Moment
from protocol.iec62056 import MeterRefusal

NOW = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
LAYOUT = Layout(("1:1F8", "3:A20", "1:400", "2:300"), ("GONr", "AONr", "Zeit", "Vn"), ("", "", "", "m3"))
GOOD = [["7001", "1", "2024-06-01,08:00:00", "1.5"], ["7002", "2", "2024-06-01,09:00:00", "2.5"]]
BAD = [GOOD[0], [*GOOD[1][:-1], "9.5"]]
REFUSED = 103


class Unsteady:
    """A meter that answers something else each time."""

    def __init__(self, *answers: Sequence[list[str]] | int) -> None:
        self._answers = list(answers)
        self.zone, self.model = ZoneInfo("UTC"), "EK280"
        self.mappings: Mapping[tuple[int, str], str] = {}
        self.asked = 0

    def _next(self) -> Sequence[list[str]]:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, int):
            raise MeterRefusal(answer)
        return answer

    async def read(self, address: str) -> list[str]:
        del address
        return list(self._next()[0])

    async def write(self, address: str, value: str) -> None:
        raise AssertionError((address, value))

    async def layout(self, archive: int) -> Layout:
        assert archive == 3
        return LAYOUT

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        del archive, position, start, end
        for row in self._next():
            yield [row]

    def held(self, archive: int) -> Held | None:
        return None if archive else Held(NOW, NOW, 0)

    async def now(self) -> dt.datetime:
        return NOW

    async def enough(self) -> None:
        """Nobody waits for it."""

    def under_way(self, characters: int) -> dt.timedelta:
        return dt.timedelta(seconds=characters / 960)


async def archive(meter: Unsteady, **more: str) -> Answer:
    kwargs = {"start_date": "2024-06-01T00:00:00Z", "archive_number": 3, "control_position": 3, **more}
    call = find_call("generic_lis200", "read_archive_by_date")
    return await call.run(meter, Moment(NOW, NOW), check_call("generic_lis200", "read_archive_by_date", kwargs))


async def single(meter: Unsteady, **more: str) -> Answer:
    call = find_call("generic_lis200", "read_single_value")
    kwargs = check_call("generic_lis200", "read_single_value", {"address": "2:300", **more})
    return await call.run(meter, Moment(NOW, NOW), kwargs)


async def test_once_is_once() -> None:
    meter = Unsteady(GOOD)
    assert len((await archive(meter)).values) == 2
    assert meter.asked == 1


@pytest.mark.parametrize("before", [(), (BAD,), (BAD, GOOD, BAD), (GOOD[:1],), (REFUSED,)])
async def test_rows_are_read_until_two_reads_in_a_row_agree(before: tuple[Sequence[list[str]] | int, ...]) -> None:
    meter = Unsteady(*before, GOOD, GOOD)
    answer = await archive(meter, verify="twice")
    assert [str(value.value) for value in answer.values] == ["1.5", "2.5"]
    assert meter.asked == len(before) + 2


async def test_an_empty_range_is_empty_twice() -> None:
    meter = Unsteady(REFUSED)
    assert not (await archive(meter, verify="twice")).values
    assert meter.asked == 2


async def test_what_never_agrees_is_not_handed_on() -> None:
    rows = Unsteady(GOOD, BAD, GOOD, BAD, GOOD, BAD)
    with pytest.raises(Disagreement):
        await archive(rows, verify="twice")
    assert rows.asked == TRIES
    with pytest.raises(Disagreement, match="2:300"):
        await single(Unsteady([["1*m3"]], [["2*m3"]], [["3*m3"]], [["4*m3"]], [["5*m3"]]), verify="twice")


async def test_a_value_is_read_until_two_reads_agree() -> None:
    meter = Unsteady([["9.5*m3"]], [["1.5*m3"]], [["1.5*m3"]])
    assert [str(value.value) for value in (await single(meter, verify="twice")).values] == ["1.5"]
    assert meter.asked == 3
    with pytest.raises(MeterRefusal):
        await single(Unsteady(18), verify="twice")


def test_thrice_is_no_way_to_verify() -> None:
    with pytest.raises(CallError, match="verify"):
        check_call("generic_lis200", "read_single_value", {"address": "2:300", "verify": "thrice"})
