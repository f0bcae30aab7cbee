"""What a meter answers: objects, attributes, ranges, locks, refusals, setting its clock."""

import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from agent.simulator.bus import serve_tcp, virtual_bus
from agent.simulator.meters import read_meter
from protocol.iec62056 import Data, Identification, MeterRefusal, OptionSelect, Request
from protocol.iec62056.lis200 import Address
from tests.agent.simulator.plain_reader import Reader, SetClock, reading


@contextlib.asynccontextmanager
async def session(
    clock: SetClock,
    model: str = "EK280",
    *,
    locked: bool = False,
    codes: dict[int, str] | None = None,
    language: str | None = None,
    truth: Path | None = None,
) -> AsyncIterator[Reader]:
    bus = virtual_bus(f"1:4711:{model}", now=clock.now, locked=locked, codes=codes, language=language, truth=truth)
    async with serve_tcp(bus) as endpoint, reading(endpoint) as reader:
        await reader.open("1")
        yield reader


async def refusal(asked: Awaitable[object]) -> int:
    with pytest.raises(MeterRefusal) as refused:
        await asked
    return refused.value.code


async def test_objects(clock: SetClock) -> None:
    async with session(clock) as reader:
        assert await reader.value("1:400.0") == "2025-03-12,10:30:10"
        assert await reader.value("1:0400") == "2025-03-12,10:30:10"
        assert await reader.value("1:181") == "EK280"
        assert await reader.value("1:40F") == "60*min"
        assert await reader.value("4:150") == "60*min"
        assert (await reader.value("6:310_1.0")).endswith("*{C")
        assert (await reader.value("7:310.0")).endswith("* bar")
        assert (await reader.value("2:310.0")).endswith("*m3|h")
        assert await reader.value("2:300.3") == "m3"
        assert await reader.value("3:A32") == "161"


@pytest.mark.parametrize(("model", "echoed"), [("EK280", "7-1:180.2"), ("TC220", "1:180"), ("DL220", "01:0180.0")])
async def test_addresses_are_echoed_as_the_model_does(model: str, echoed: str, clock: SetClock) -> None:
    async with session(clock, model) as reader:
        assert await reader.read("01:0180.0") == f"{echoed}(4711)"


async def test_refusals_of_addresses(clock: SetClock) -> None:
    async with session(clock) as reader:
        assert await refusal(reader.value("1:FFF")) == 2
        assert await refusal(reader.value("9:300")) == 3
        assert await refusal(reader.value("2:300.F")) == 4
        assert await refusal(reader.value("2:300.8")) == 5
        assert await refusal(reader.value("nonsense")) == 1
        assert await refusal(reader.rows("9:V.0")) == 100
        assert await refusal(reader.rows("3:V.0", "99;;;10")) == 101
        assert await refusal(reader.rows("3:V.0", "4;1;2;10")) == 101
        assert await refusal(reader.rows("3:V.0", "3;yesterday;;10")) == 13
        assert await refusal(reader.rows("3:V.0", ";;;1000")) == 13
        assert await refusal(reader.rows("3:V.0", "3;2024-01-01,06:00:00;2024-01-02,06:00:00;10")) == 103


async def test_an_archive_describes_itself(clock: SetClock) -> None:
    async with session(clock, language="german") as reader:
        names, units, sources = [(await reader.rows(f"3:V.{attribute}", ";;;"))[0] for attribute in "234"]
    assert "".join(f"({name})" for name in names) == (
        "(GONr)(AONr)(Zeit)(Vn)(VnG)(Vb)(VbG)(p.MP )(T.MP)(K.MP)(Z.MP)(St.2)(St.4)(St.7)(St.6)(StSy)(Er)(Check)"
    )
    assert "".join(f"({unit})" for unit in units) == "()()()(m3)(m3)(m3)(m3)( bar)({C)()()()()()()()()()"
    assert sources[:4] == ("0001:01F8", "0003:0A20", "0001:0400", "0002:0300")
    assert [Address.parse(source).core for source in sources[3:9]] == [
        "2:300",
        "2:302",
        "4:300",
        "4:302",
        "7:310",
        "6:310_1",
    ]


async def test_english_names_mean_the_opposite_by_vb(clock: SetClock) -> None:
    async with session(clock, language="english") as reader:
        names, sources = (await reader.rows("3:V.2"))[0], (await reader.rows("3:V.4"))[0]
    assert dict(zip(names, sources, strict=True))["Vb"] == "0002:0300"


async def test_ranges_are_inclusive_and_may_be_open(clock: SetClock) -> None:
    async with session(clock) as reader:
        limits = "2025-03-11,12:00:00", "2025-03-11,18:00:00"
        rows = await reader.rows("3:V.0", f"3;{limits[0]};{limits[1]};2")
        hours = [row for row in rows if row[16] == "0x8104"]
        assert [row[2] for row in (hours[0], hours[-1])] == list(limits)
        assert len(hours) == 7
        aono = rows[3][1]
        assert (await reader.rows("3:V.0", f"2;{aono};{aono};10")) == [rows[3]]
        assert (await reader.rows("3:V.0", f"1;{rows[3][0]};;10"))[0] == rows[3]
        assert (await reader.rows("3:V.A.0", f"3;{limits[0]};{limits[1]}")) == [(str(len(rows)),)]
        one_block = await reader.read("3:V.0", f"3;{limits[0]};{limits[1]};")
        assert one_block == "\r\n".join("".join(f"({group})" for group in row) for row in rows)


async def test_a_temperature_corrector_has_time_in_position_two(clock: SetClock) -> None:
    async with session(clock, "TC220") as reader:
        rows = await reader.rows("3:V.0", "2;2025-03-12,08:00:00;2025-03-12,10:00:00;10")
    assert [row[1][11:] for row in rows if row[12] == "0x8104"] == ["08:00:00", "09:00:00", "10:00:00"]
    assert {row[7] for row in rows} == {"104.3250"}


async def test_a_data_logger_has_an_archive_for_each_channel(clock: SetClock) -> None:
    async with session(clock, "DL220") as reader:
        first, second = await reader.rows("2:V.0"), await reader.rows("4:V.0")
        assert (first[-1][7], second[-1][7]) == ("0x8105", "0x8106")
        assert first[-1][3] != second[-1][3]
        assert len((await reader.rows("10:V.0"))[0]) == 5
        assert await refusal(reader.rows("7:V.0")) == 100


# --- locks, LIS-200 fact sheet 2.4 -----------------------------------------------------------------------------------


async def test_writing_needs_a_lock(clock: SetClock) -> None:
    async with session(clock) as reader:
        assert await reader.value("4:170") == "0"
        assert await refusal(reader.write("1:0400.0", "2025-03-12,11:00:00")) == 19
        assert await refusal(reader.write("4:171.0", "12345678")) == 17
        await reader.write("4:171.0", "00000000")
        assert await reader.value("4:170") == "1"
        await reader.write("1:0400.0", "2025-03-12,11:00:00")
        assert await reader.value("1:400") == "2025-03-12,11:00:00"
        await reader.write("4:170.0", "0")
        assert await reader.value("4:170") == "0"
        assert await refusal(reader.write("1:0400.0", "2025-03-12,11:00:00")) == 19


async def test_p1_opens_a_lock(clock: SetClock) -> None:
    async with session(clock, "TC220") as reader:
        assert await refusal(reader.log_in(3, "1")) == 17
        assert await refusal(reader.log_in(1, "0")) == 17
        assert await refusal(reader.log_in(8, "0")) == 17
        await reader.log_in(3, "0")
        assert await reader.value("3:170") == "1"


async def test_writing_the_code_to_an_open_lock_changes_it(clock: SetClock) -> None:
    async with session(clock, codes={4: "secret"}) as reader:
        await reader.write("4:171.0", "secret")
        await reader.write("4:171.0", "changed")
        await reader.write("4:170.0", "0")
        assert await refusal(reader.write("4:171.0", "secret")) == 17
        await reader.write("4:171.0", "changed")


async def test_a_locked_meter_tells_nothing(clock: SetClock) -> None:
    async with session(clock, locked=True) as reader:
        assert await refusal(reader.value("2:300")) == 18
        assert await refusal(reader.rows("3:V.0")) == 18
        assert await reader.value("3:170.0") == "0"
        await reader.write("3:171.0", "00000000")
        assert await reader.value("1:180") == "4711"
        assert await reader.rows("3:V.0")


async def test_a_lock_stays_open_for_the_next_session_and_closes_by_itself(clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280", now=clock.now)
    meter = bus.meters[0]
    meter.write("4:171", "00000000", 1000.0)
    meter.write("4:174", "2", 1000.0)
    meter.write("4:170", "0", 1000.0)
    meter.write("4:171", "00000000", 1000.0)
    assert meter.read("4:170", "1", 1119.0).endswith("(1)")
    assert meter.read("4:170", "1", 1119.0 + 119).endswith("(1)")
    assert meter.read("4:170", "1", 1119.0 + 119 + 121).endswith("(0)")
    bus.close()


async def test_what_is_measured_cannot_be_written(clock: SetClock) -> None:
    async with session(clock) as reader:
        await reader.log_in(4, "00000000")
        assert await refusal(reader.write("2:300.0", "0")) == 9
        assert await refusal(reader.write("3:V.0", "0")) == 9
        assert await refusal(reader.write("1:400.0", "now")) == 13
        await reader.write("3:180", "0815")
        assert await reader.value("3:180") == "0815"


async def test_no_code_is_ever_told(clock: SetClock, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    async with session(clock, codes={4: "geheim"}, truth=truth) as reader:
        await reader.write("4:171.0", "geheim")
        assert await reader.value("4:171.0") == "0"
    assert "geheim" not in truth.read_text()
    assert "4:171" not in truth.read_text()


async def test_the_data_readout(clock: SetClock) -> None:
    async with serve_tcp(virtual_bus("1:4711:EK280", now=clock.now)) as endpoint, reading(endpoint) as reader:
        who = await reader.ask(Request("1"))
        assert isinstance(who, Identification)
        answer = await reader.ask(OptionSelect(who.rate_id, mode="0"))
    assert isinstance(answer, Data)
    assert answer.text.startswith("1:180(4711)\r\n")
    assert answer.text.endswith("\r\n!\r\n")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("1:4711", "ADDRESS:SERIAL:MODEL"), ("1:4711:EK999", "EK280, TC220, DL220"), ("/:1:EK280", "bus address")],
)
def test_a_wrong_meter_is_named(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read_meter(text)


async def test_all_locks_have_their_objects_and_open_with_their_own_codes(clock: SetClock) -> None:
    async with session(clock, codes={3: "3", 4: "4", 5: "5", 6: "6"}) as reader:
        for lock in (1, 2):
            assert await reader.value(f"{lock}:170") == "0"
            assert await refusal(reader.write(f"{lock}:171.0", "1")) == 17
        for lock in (3, 4, 5, 6):
            assert await refusal(reader.write(f"{lock}:171.0", "1")) == 17
            await reader.write(f"{lock}:171.0", str(lock))
            assert await reader.value(f"{lock}:170") == "1"
            await reader.write(f"{lock}:170.0", "0")
            assert await reader.value(f"{lock}:170") == "0"


async def test_a_lock_that_ranks_higher_gives_the_rights_of_the_lower_one(clock: SetClock) -> None:
    async with session(clock, locked=True, codes={3: "3", 4: "4"}) as reader:
        await reader.write("3:171.0", "3")
        assert await reader.value("4:170") == "0"
        assert (await reader.value("2:300")).endswith("*m3")
        await reader.write("1:0400.0", "2025-03-12,11:00:00")


async def test_a_meter_answers_the_objects_that_every_source_knows(clock: SetClock) -> None:
    async with session(clock) as reader:
        units = {"2:300": "m3", "2:301": "m3", "2:302": "m3", "4:300": "m3", "4:301": "m3", "4:302": "m3"}
        units |= {"2:310": "m3|h", "4:310": "m3|h", "1:210": "m3|h", "6:310_1": "{C", "7:310": " bar", "2:404": "M"}
        units |= {"5:310": "", "8:310": "", "1:180": "", "1:181": "", "2:190": "", "2:141": "", "3:A32": ""}
        units |= {"7:311": " bar", "8:311": "", "6:311_1": "{C"}
        for address, unit in units.items():
            text, _, given = (await reader.value(address)).partition("*")
            assert (bool(text), given) == (True, unit), address
