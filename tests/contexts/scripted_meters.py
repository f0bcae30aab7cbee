"""A scripted LIS-200 meter behind the seam of the contexts, and the calls that tests make to it."""

import datetime as dt
from collections.abc import AsyncIterator, Mapping
from zoneinfo import ZoneInfo

from contexts.catalogue import check_call, find_call
from contexts.meters import Answer, Held, Layout, Meter, Moment
from protocol.iec62056 import MeterRefusal

BERLIN = ZoneInfo("Europe/Berlin")
LAYOUT = Layout(
    ("1:1F8", "3:A20", "1:400", "2:300", "7:310", "2:100", "3:A22", ""),
    ("GONr", "AONr", "Zeit", "Vn", "p.MP", "StSy", "Er", "Check"),
    ("", "", "", "m3", " bar", "", "", ""),
)
NUMBER, TIME = 2, 3
NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def row(number: int, stamp: str, volume: str = "", *, event: str = "0x8104", check: str = "CRC Ok") -> list[str]:
    return [str(number + 7000), str(number), stamp, volume or str(number), "1.01", "0", event, check]


class ScriptedMeter:
    """The other side of ``contexts.meters.Meter``: an archive that is compared and delivered as fact sheet 3 says."""

    def __init__(self, zone: ZoneInfo = BERLIN, rows: list[list[str]] | None = None, layout: Layout = LAYOUT) -> None:
        self.zone = zone
        self.model = "EK280"
        self.mappings: Mapping[tuple[int, str], str] = {}
        self.archive = rows or []
        self.columns = layout
        self.held_rows: Held | None = None
        self.objects: dict[str, list[str]] = {}
        self.gateway = utc("2024-06-01T12:00:00")
        self.asked: list[tuple[int, str, str]] = []
        self.written: list[tuple[str, str]] = []
        self.garbled = 0
        self.empty_refusal = 103
        self.compares_numbers = True
        self.log_columns = layout
        self.refused: dict[str, int] = {}
        self.fails_at: dict[str, Exception] = {}
        self.seconds_per_exchange = 0.0
        self.seconds_per_character = 0.0
        self.reads_take: list[float] = []
        self.archives: list[int] = []
        self.enough_after: list[int] = []

    async def read(self, address: str) -> list[str]:
        if address in self.refused or address not in self.objects:
            raise MeterRefusal(self.refused.get(address, 2))
        if address in self.fails_at:
            raise self.fails_at[address]
        took = self.reads_take.pop(0) if self.reads_take else self.seconds_per_exchange
        self.gateway += dt.timedelta(seconds=took)
        return self.objects[address]

    async def write(self, address: str, value: str) -> None:
        if address in self.refused:
            raise MeterRefusal(self.refused[address])
        self.written.append((address, value))
        self.objects["1:400.0"] = [value]

    async def layout(self, archive: int) -> Layout:
        return self.columns if archive == 3 else self.log_columns

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        self.asked.append((position, start, end))
        self.archives.append(archive)
        if position == NUMBER and not self.compares_numbers:
            raise MeterRefusal(101)
        found = [texts for texts in self.archive if self._within(texts[position - 1], start, end, position)]
        if not found:
            raise MeterRefusal(self.empty_refusal)
        if self.garbled:
            self.garbled -= 1
            found[0] = [*found[0][:-1], "CRC 0k"]
        for first in range(0, len(found), 3):
            yield found[first : first + 3]

    @staticmethod
    def _within(text: str, start: str, end: str, position: int) -> bool:
        def key(limit: str) -> tuple[int, str]:
            return (int(limit), "") if position == NUMBER else (0, limit)

        return (not start or key(start) <= key(text)) and (not end or key(text) <= key(end))

    def held(self, archive: int) -> Held | None:
        assert archive in {3, 4, 10}
        return self.held_rows

    async def now(self) -> dt.datetime:
        return self.gateway

    async def enough(self) -> None:
        self.enough_after.append(len(self.asked))

    def under_way(self, characters: int) -> dt.timedelta:
        return dt.timedelta(seconds=characters * self.seconds_per_character)


async def call(meter: Meter, name: str, moment: Moment | None = None, **kwargs: object) -> Answer:
    at = utc("2024-06-01T12:00:00")
    found = find_call("generic_lis200", name)
    return await found.run(meter, moment or Moment(at, at), check_call("generic_lis200", name, kwargs))


async def by_date(meter: Meter, start: str, end: str | None = None) -> Answer:
    return await call(
        meter, "read_archive_by_date", start_date=start, end_date=end, archive_number=3, control_position=3
    )


async def by_offset(meter: ScriptedMeter, reference: str, seconds: int, since: str | None = None) -> Answer:
    at = utc(reference)
    moment = Moment(at + dt.timedelta(seconds=40), at, utc(since) if since else None)
    answer = await call(
        meter,
        "read_archive_by_offset_seconds",
        moment,
        offset_seconds=seconds,
        archive_number=3,
        control_position=3,
    )
    if answer.archive is not None and answer.held is not None:
        meter.held_rows = answer.held
    return answer


def stamps(answer: Answer) -> list[dt.datetime]:
    return [value.timestamp for value in answer.values if value.series == "2:300" and value.timestamp is not None]


def volumes(answer: Answer) -> list[str]:
    return [str(value.value) for value in answer.values if value.series == "2:300"]
