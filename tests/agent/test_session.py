"""Sessions over real pseudo-terminals and sockets against the simulator, with everything that goes wrong on lines."""

import asyncio
import datetime as dt
import json
import pathlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from agent.conversation import NoAnswer, SessionError, Times
from agent.links import LinkError, open_link
from agent.session import Learned, Session, SilentMeter, WrongMeter, open_session
from agent.settings import MeterPassword
from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from agent.simulator.faults import Silent
from protocol.iec62056 import MeterRefusal, Parity
from protocol.plans import Device, Line
from tests.parts.wires import BREAK, NOW, QUICK, DictMemory, device_on, heard, line_at

Rows = list[list[str]]


def bus_of(*specs: str, **settings: Any) -> VirtualBus:  # noqa: ANN401 - what virtual_bus takes
    return virtual_bus(
        *(specs or ("1:4711:EK280",)), **{"seed": 7, "now": lambda: NOW, "language": "german", **settings}
    )


@asynccontextmanager
async def session_with(endpoint: str, **settings: Any) -> AsyncIterator[Session]:  # noqa: ANN401 - what open_session takes
    line: Line = settings.pop("line", None) or line_at(endpoint)
    device: Device = settings.pop("device", None) or device_on(line)
    link = await open_link(endpoint, line.rate)
    try:
        arguments = {"memory": DictMemory(), "now": lambda: NOW, "times": QUICK, **settings}
        async with open_session(link, line, device, **arguments) as session:
            yield session
    finally:
        await link.aclose()


async def all_rows(session: Session, archive: int = 3, position: int = 3, start: str = "") -> Rows:
    return [row async for block in session.rows(archive, position, start, "") for row in block]


def held_by_meter(bus: VirtualBus, archive: int = 3) -> Rows:
    return [list(row.groups) for row in bus.meters[0].archives.rows(archive)]


@pytest.mark.parametrize("serve", [serve_pty, serve_tcp])
async def test_a_meter_is_read_over_either_wire(
    serve: Callable[[VirtualBus], AbstractAsyncContextManager[str]],
) -> None:
    bus = bus_of("1:4711:EK280", "0002:4712:TC220")
    async with serve(bus) as endpoint:
        async with session_with(endpoint) as session:
            assert await session.serial_number() == "4711"
            layout = await session.layout(3)
            assert layout.sources[:5] == ("1:1F8", "3:A20", "1:400", "2:300", "2:302")
            assert layout.names[2] == "Zeit"
            assert await all_rows(session) == held_by_meter(bus)
            assert session.line_bytes > 8000
        line = line_at(endpoint)
        async with session_with(endpoint, line=line, device=device_on(line, "2")) as session:
            assert await session.serial_number() == "4712"
            assert session.zone.key == "Europe/Berlin"


@pytest.mark.parametrize(
    ("faults", "settings"),
    [
        (["corrupt_bcc=0.3"], {}),
        (["parity_error=0.3"], {}),
        (["drop_bytes=0.0004"], {}),
        (["insert_bytes=0.0004"], {}),
        (["double_bytes=0.0004"], {}),
        (["flip_pairs=0.3"], {}),
        (["nul_noise=1"], {}),
        (["ff_noise=0.5"], {}),
        (["line_noise=1"], {}),
        (["split_answers=0.2"], {}),
        (["one_byte_at_a_time"], {}),
        (["no_crlf"], {}),
        (["trailing_blanks"], {}),
        (["slow_maker"], {"fixed_rate": True, "rate": 19200}),
        (["echo"], {"echo": True}),
        (["parity_none"], {}),
        (["corrupt_bcc=0.2", "nul_noise", "parity_none"], {}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_rows_come_whole_and_once_over_a_bad_line(faults: list[str], settings: dict[str, Any]) -> None:
    bus = bus_of(faults=faults, seed=3, opening_rate=settings.get("rate", 300), history_days=1)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, **settings)
        async with session_with(endpoint, line=line, times=Times(0.6, 5, 1.5, 0.25, 0.05, repeats=6)) as session:
            assert (await session.read("2:300"))[0].endswith("*m3")
            await session.layout(3)
            assert await all_rows(session) == held_by_meter(bus)


async def test_late_answers_are_waited_for() -> None:
    bus = bus_of(faults=["late_answers=1"])
    async with serve_tcp(bus) as endpoint, session_with(endpoint, times=Times(tries=2)) as session:
        assert await session.serial_number() == "4711"


async def test_a_silent_meter_is_named_with_its_line_and_called_a_bounded_number_of_times(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "log"
    async with serve_pty(bus_of(log=log)) as endpoint:
        line = line_at(endpoint)
        with pytest.raises(SilentMeter, match=f"meter-9.*address 9.*{endpoint}.*check cable"):
            async with session_with(endpoint, line=line, device=device_on(line, "9")):
                raise AssertionError("nobody is there")
        await asyncio.sleep(0.1)  # the simulator still has the last break to hear
    assert heard(log).count(b"/?9!\r\n") == QUICK.tries
    assert heard(log).endswith(BREAK)


async def test_a_wrong_password_is_told_with_the_meters_reason_and_never_shown() -> None:
    async with serve_pty(bus_of(locked=True, codes={3: "1", 4: "4444"})) as endpoint:
        with pytest.raises(SessionError, match=r"lock 4 .*#0017: wrong access code \(password\)") as raised:
            async with session_with(endpoint, access=MeterPassword("24680")):
                raise AssertionError("the lock stayed closed")
        assert "24680" not in str(raised.value)


async def test_a_lock_is_opened_only_if_closed_and_closed_again_only_if_we_opened_it() -> None:
    bus = bus_of(locked=True, codes={3: "3333", 4: "4444"})
    async with serve_pty(bus) as endpoint:
        async with session_with(endpoint, access=MeterPassword("4444")) as session:
            await session.read("2:300")
        with pytest.raises(MeterRefusal, match="#0018"):
            async with session_with(endpoint) as session:
                await session.read("2:300")
        async with session_with(endpoint) as session:
            await session.write("4:171", "4444")
        # Open already: another code must neither be tried (it would become the new one) nor close it afterwards.
        async with session_with(endpoint, access=MeterPassword("other")) as session:
            await session.read("2:300")
        async with session_with(endpoint) as session:
            assert await session.read("4:170") == ["1"]
            await session.write("4:170", "0")
        async with session_with(endpoint, access=MeterPassword("4444")) as session:
            await session.read("2:300")


async def test_another_meter_than_planned_is_not_read() -> None:
    bus = bus_of(faults=["wrong_serial"])
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint)
        with pytest.raises(WrongMeter, match="serial number 4710, the plan expects 4711"):
            async with session_with(endpoint, line=line, device=device_on(line, serial="4711")):
                raise AssertionError("another meter was used")


async def test_the_serial_number_of_the_plan_may_have_leading_zeros() -> None:
    async with serve_pty(bus_of()) as endpoint:
        line = line_at(endpoint)
        async with session_with(endpoint, line=line, device=device_on(line, serial="0004711")) as session:
            assert await session.read("1:180") == ["4711"]


async def test_a_refusal_leaves_the_session_usable() -> None:
    async with serve_pty(bus_of()) as endpoint, session_with(endpoint) as session:
        with pytest.raises(MeterRefusal, match="#0002: object not available"):
            await session.read("9:999")
        with pytest.raises(MeterRefusal, match="#0100: archive number"):
            await all_rows(session, archive=55)
        assert await session.read("1:180") == ["4711"]


async def test_a_cancelled_session_says_goodbye_and_returns_to_the_opening_rate(tmp_path: pathlib.Path) -> None:
    log, memory = tmp_path / "log", DictMemory()
    bus = bus_of(log=log, throttle=True, opening_rate=4800)
    async with serve_pty(bus) as endpoint:
        opened = asyncio.Event()

        async def read_all() -> None:
            line = line_at(endpoint, rate=4800)
            async with session_with(endpoint, line=line, memory=memory, times=Times(quiet=0.3)) as session:
                opened.set()
                await all_rows(session)

        task = asyncio.create_task(read_all())
        await opened.wait()
        await asyncio.sleep(0.4)
        assert memory.rate == 19200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while bus.rate != 4800:  # noqa: ASYNC110 - the simulator hears the break when it has passed the line
                await asyncio.sleep(0.01)
    assert heard(log).endswith(BREAK)
    assert memory.rates == [4800, 19200, None]


async def test_after_a_crash_the_first_act_is_a_break_at_the_remembered_rate(tmp_path: pathlib.Path) -> None:
    log, memory = tmp_path / "log", DictMemory()
    memory.rate = 19200
    async with serve_pty(bus_of(log=log)) as endpoint, session_with(endpoint, memory=memory) as session:
        await session.read("1:180")
        assert memory.rates == [300, 19200]
    assert heard(log).startswith(BREAK + b"/?1!\r\n")
    assert memory.rate is None


async def test_reaction_times_are_kept_and_nothing_waits_much_longer(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    async with serve_pty(
        bus_of(log=log, throttle=True, opening_rate=9600, fixed_rate=True, history_days=1)
    ) as endpoint:
        line = line_at(endpoint, rate=9600, fixed_rate=True)
        async with session_with(endpoint, line=line) as session:
            for _ in range(5):
                await session.read("2:300")
        await asyncio.sleep(0.1)
    chunks = [json.loads(text) for text in log.read_text().splitlines()]
    ends = [max(chunk["t"], chunk["end"]) for chunk in chunks]
    gaps = [
        chunk["start"] - end
        for chunk, before, end in zip(chunks[1:], chunks, ends, strict=False)
        if (before["dir"], chunk["dir"]) == ("tx", "rx")
    ]
    assert len(gaps) == 7
    assert min(gaps) >= 0.0195
    # The machine that runs this may be busy; the median shows what we wait.
    assert sorted(gaps)[len(gaps) // 2] < 0.03


@pytest.mark.parametrize(("rate", "longest"), [(300, 1), (2400, 5), (9600, 19)])
async def test_no_block_lasts_longer_than_three_seconds(rate: int, longest: int) -> None:
    async with serve_tcp(bus_of(history_days=1)) as endpoint:
        line = line_at(endpoint, rate=rate, fixed_rate=True)
        async with session_with(endpoint, line=line) as session:
            await session.layout(3)
            sizes = [len(block) async for block in session.rows(3, 3, "", "")]
    assert 1 <= max(sizes) <= longest


async def test_a_readout_that_lends_its_line_brings_every_row_once() -> None:
    bus = bus_of(history_days=1)
    lent = 0

    async def lend(session: Session) -> bool:
        nonlocal lent
        lent += 1
        if lent % 3 == 1:
            await session.end()
            await session.begin()
        elif lent % 3 == 2:
            await session.read("1:180")
        return lent % 3 != 0

    async with serve_tcp(bus) as endpoint:
        line = line_at(endpoint, rate=4800, fixed_rate=True)
        async with session_with(endpoint, line=line, between_blocks=lend) as session:
            assert await all_rows(session) == held_by_meter(bus)
    assert lent >= 3


async def test_lending_survives_a_clock_that_was_put_back() -> None:
    shown = NOW
    bus = bus_of(history_days=0.2, now=lambda: shown)
    bus.meters[0].set_clock(dt.datetime(2025, 3, 12, 7, 40))  # noqa: DTZ001 - as a meter shows it
    shown = NOW + dt.timedelta(hours=6)
    bus.meters[0].advance()

    async def lend(session: Session) -> bool:
        await session.read("1:180")
        return True

    async with serve_tcp(bus) as endpoint:
        line = line_at(endpoint, rate=1200, fixed_rate=True)
        async with session_with(endpoint, line=line, between_blocks=lend) as session:
            await session.layout(3)
            rows = await all_rows(session)
    assert rows == held_by_meter(bus)
    stamps = [row[2] for row in rows]
    assert stamps != sorted(stamps)


async def test_columns_are_read_once_and_anew_when_the_meter_was_changed() -> None:
    memory = DictMemory()
    bus = bus_of(history_days=1)
    async with serve_tcp(bus) as endpoint:
        line = line_at(endpoint)
        device = device_on(line)
        async with session_with(endpoint, line=line, device=device, memory=memory) as session:
            layout = await session.layout(3)
        memory.keep_layout(device.id, 3, type(layout)(layout.sources[:-1], layout.names[:-1], layout.units[:-1]))
        async with session_with(endpoint, line=line, device=device, memory=memory) as session:
            await session.layout(3)
            with pytest.raises(Exception, match="18 columns instead of 17; its columns will be read anew"):
                await all_rows(session)
        async with session_with(endpoint, line=line, device=device, memory=memory) as session:
            assert await session.layout(3) == layout
            assert await all_rows(session) == held_by_meter(bus)


async def test_an_unanswered_write_is_never_repeated(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    bus = bus_of(log=log)
    async with serve_pty(bus) as endpoint, session_with(endpoint) as session:
        bus._conversations[0]._faults = [Silent(None, "")]
        with pytest.raises(NoAnswer, match="whether it took the write to 4:171 is not known"):
            await session.write("4:171", "1")
    assert heard(log).count(b"4:171(1)") == 1


async def test_a_learned_path_without_parity_costs_no_second_call(tmp_path: pathlib.Path) -> None:
    log, learned = tmp_path / "log", Learned()
    async with serve_pty(bus_of(log=log, faults=["parity_none"])) as endpoint:
        async with session_with(endpoint, learned=learned):
            pass
        assert learned.parity is Parity.NONE
        calls = heard(log).count(b"/?1!")
        async with session_with(endpoint, learned=learned):
            pass
        assert heard(log).count(b"/?1!") == calls + 1


async def test_a_line_that_goes_down_in_the_middle_is_a_link_error() -> None:
    async with serve_tcp(bus_of(faults=["close_early=1"])) as endpoint:
        with pytest.raises(LinkError, match="closed the connection"):
            async with session_with(endpoint):
                raise AssertionError("the line went down")


async def test_an_unknown_zone_is_refused_before_anything_is_said() -> None:
    async with serve_pty(bus_of()) as endpoint:
        line = line_at(endpoint)
        device = Device(device_on(line).id, "m", line.id, "Mars/Olympus", "1")
        with pytest.raises(SessionError, match="Mars/Olympus"):
            async with session_with(endpoint, line=line, device=device):
                raise AssertionError("there is no such zone")
