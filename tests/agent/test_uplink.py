"""The uplink's rules without a broker: the window, packet sizes, and whom it believes."""

import asyncio
import itertools
import pathlib
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.app import Agent
from agent.clocks import Clock
from agent.sender import Sender
from agent.settings import Timing, parse_broker
from agent.store import Store
from agent.uplink import pauses_between
from agent.window import LEAST_BYTES, MOST_BYTES, Window
from mqtt.connection import Access, BrokerError, Connection, Outgoing, connect
from protocol.commands import CommandUpdate
from protocol.envelopes import SigningKey
from protocol.readings import BatchName, NewMeterReading, batch_of, name_properties
from protocol.reports import LossRecord, Receipt, Resend, decode_report
from protocol.topics import Channel, topic_for
from protocol.wire import encode, parse_decimal
from tests.parts.gateways import gateway_settings, running
from tests.parts.mosquitto import free_port, mosquitto
from tests.parts.relay import now, relay


def name(first: int) -> BatchName:
    return BatchName(bytes(16), first, first, first.to_bytes(16, "big"))


FULL = bytes(64 * 1024)


def test_the_window_opens_with_quick_receipts_and_halves_with_a_resend() -> None:
    window = Window(3.0, 60.0)
    window.sent(name(1), bytes(LEAST_BYTES), 0.0)
    assert not window.open(len(FULL))
    for number in range(1, 8):
        assert window.receipted(name(number), number + 0.1)
        window.sent(name(number + 1), bytes(window.batch_bytes), number + 1.0)
    grown = window.size
    assert grown > 10 * LEAST_BYTES
    (flight,) = window.overdue(100.0)
    assert (flight.name, flight.sends) == (name(8), 2)
    assert window.size == grown // 2
    assert not window.receipted(name(99), 100.0)


def test_slow_receipts_make_the_window_smaller_before_anything_is_sent_again() -> None:
    window = Window(3.0, 60.0)
    for number in range(1, 40):
        window.sent(name(number), FULL, float(number))
        window.receipted(name(number), number + 0.1)
    assert window.size == MOST_BYTES
    for number in range(40, 100):
        window.sent(name(number), FULL, number * 10.0)
        window.receipted(name(number), number * 10.0 + 2.5)
    assert window.size == LEAST_BYTES
    assert window.batch_bytes == LEAST_BYTES


def test_one_fresh_batch_has_room_beside_a_full_window() -> None:
    window = Window(3.0, 60.0)
    window.sent(name(1), FULL, 0.0)
    assert not window.open(len(FULL))
    assert window.open_for_fresh()
    window.sent(name(50), b"new", 0.0, fresh=True)
    assert not window.open_for_fresh()
    window.receipted(name(50), 0.5)
    assert window.open_for_fresh()
    assert not window.open(len(FULL))


def test_the_resend_time_stays_doubled_until_a_receipt_is_measured() -> None:
    window = Window(3.0, 60.0)
    window.sent(name(1), b"", 0.0)
    assert window.overdue(10.0)
    window.receipted(name(1), 10.5)
    assert window.resend_seconds == 6.0
    window.sent(name(2), b"", 20.0)
    window.receipted(name(2), 24.0)
    assert window.resend_seconds == 4.0 + 4 * 2.0


def test_the_resend_time_follows_the_receipts_and_doubles_without_them() -> None:
    window = Window(3.0, 60.0)
    for number in range(1, 30):
        window.sent(name(number), b"", number * 10.0)
        window.receipted(name(number), number * 10.0 + 4.0)
    assert 4.0 < window.resend_seconds < 6.0
    window.sent(name(50), b"", 1000.0)
    at, waits = 1000.0, []
    for _ in range(8):
        due = window.next_due()
        assert due is not None
        waits.append(due - at)
        at = due
        assert window.overdue(at)
    assert waits[1] > waits[0] * 1.5
    assert max(waits) <= 60.0 * 1.25
    window.hurry(at, 1.0)
    due = window.next_due()
    assert due is not None
    assert due <= at + 1.0


def test_batches_that_left_together_are_not_sent_again_together() -> None:
    window = Window(3.0, 60.0)
    for number in range(1, 60):
        window.sent(name(number), b"", 0.0)
    for _ in range(2):
        dues = sorted(flight.due_at for flight in window.flights.values())
        assert dues[-1] - dues[0] > 0.1 * dues[0]
        window.overdue(dues[-1])


def test_attempts_to_connect_come_further_and_further_apart_and_not_in_step() -> None:
    fleet = [list(itertools.islice(pauses_between(1.0, 30.0), 8)) for _ in range(60)]
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 30, 30, 30]):
        pauses = sorted(pauses[attempt] for pauses in fleet)
        assert longest / 2 <= pauses[0]
        assert pauses[-1] <= longest
        assert pauses[-1] - pauses[0] > 0.2 * longest


def a_sender(store: Store) -> Sender:
    """A sender that never sends: what it makes of what the hub says."""
    return Sender("gw-1", Channel.READINGS, store, SigningKey.generate(), Clock(), Timing())


def waiting(store: Store) -> list[bytes]:
    rows = store.readings.next_rows(0, 10_000)
    return list(rows.bodies) if rows else []


def test_only_a_receipt_for_this_store_delivers(tmp_path: pathlib.Path) -> None:
    """Of a store that was lost there may be receipts under way for the same sequences and the same rows."""
    store = Store(tmp_path / "agent.db", "gw-1", Clock())
    with store.transaction():
        store.readings.append([b"one", b"two"])
    sender = a_sender(store)
    own = batch_of(store.id, 1, [b"one", b"two"]).name
    other = batch_of(bytes(16), 1, [b"one", b"two"]).name
    assert not sender.receipted(Receipt("readings", [other], now()))
    assert waiting(store) == [b"one", b"two"]
    # Of its own it takes also one that it does not wait for; but that tells no time.
    assert not sender.receipted(Receipt("readings", [own], now()))
    assert waiting(store) == []
    store.close()


def test_only_who_means_this_store_is_sent_its_tail_again_under_new_numbers(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", Clock())
    with store.transaction():
        store.readings.append([b"one", b"two"])
    sender = a_sender(store)
    receipt = Receipt("readings", [batch_of(store.id, 1, [b"one", b"two"]).name], now())
    sender.receipted(receipt)
    assert sender.send_again(Resend(bytes(16), "readings", 1, now())) == 0
    assert waiting(store) == []
    assert sender.send_again(Resend(store.id, "readings", 2, now())) == 1
    assert waiting(store) == [b"two"]
    sender.receipted(receipt)
    assert waiting(store) == [b"two"]
    store.close()


@given(st.lists(st.sampled_from(["send", "receipt", "late"]), max_size=200))
def test_the_window_stays_within_its_bounds(steps: list[str]) -> None:
    window, now_, number = Window(1.0, 10.0), 0.0, 0
    for step in steps:
        now_ += 1.0
        if step == "send" and window.open(len(FULL)):
            number += 1
            window.sent(name(number), FULL[: window.batch_bytes], now_)
        elif step == "receipt" and window.flights:
            window.receipted(next(iter(window.flights)), now_)
        elif step == "late":
            window.overdue(now_)
        assert LEAST_BYTES <= window.size <= MOST_BYTES
        assert sum(len(flight.body) for flight in window.flights.values()) <= MOST_BYTES


@pytest.mark.parametrize("limit", [1200, 16384, 65_535])
async def test_a_full_batch_passes_a_broker_with_exactly_that_limit(tmp_path: pathlib.Path, limit: int) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", Clock())
    key = SigningKey.generate()
    sender = Sender("gw-1", Channel.READINGS, store, key, Clock(), Timing())
    topic = topic_for("gw-1", Channel.READINGS)
    with mosquitto(max_packet_size=limit) as broker:
        async with connect(Access(parse_broker(broker.url)), None) as connection:
            assert connection.limit == limit
            room = sender._room(connection.limit)
            batch = batch_of(store.id, 1, [b"\xc4\x40" + bytes(64)] * (room // 66))
            payload = key.seal(topic, encode(batch))
            message = Outgoing(topic, payload, user_properties=name_properties(batch.name))
            assert len(payload) + message.overhead() <= limit
            # It fits, and not much more would have.
            assert len(payload) + message.overhead() > limit - 300
            await connection.publish(message)
    store.close()


async def test_a_row_that_fits_nowhere_is_set_aside_and_reported(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", Clock())
    sender = Sender("gw-1", Channel.READINGS, store, SigningKey.generate(), Clock(), Timing())
    big = NewMeterReading("m" * 50, "s" * 50, now(), parse_decimal("1"), "u" * 100, uuid.uuid4())
    small = NewMeterReading("m", "2:300", now(), parse_decimal("1"))
    with store.transaction():
        store.readings.append([encode(big), encode(small)])
    rows = sender._next(200)
    assert rows is not None
    assert (rows.first, rows.bodies) == (2, [encode(small)])
    reported = store.reports.next_rows(0, 10_000)
    assert reported is not None
    record = decode_report(reported.bodies[0])
    assert isinstance(record, LossRecord)
    assert (record.series, record.count) == ("s" * 50, 1)
    assert store.readings.aside() == 1
    store.close()


async def test_a_backlog_leaves_oldest_first_with_fresh_rows_beside_it_and_no_row_twice(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "agent.db", "gw-1", Clock())
    with store.transaction():
        store.readings.append([b"\xc4\x60" + bytes(96)] * 3000)
    with mosquitto() as broker:
        async with relay(broker.url, "gw-1") as hub, connect(Access(parse_broker(broker.url)), None) as connection:
            hub.receipting = False
            sender = Sender("gw-1", Channel.READINGS, store, SigningKey.generate(), Clock(), Timing())
            sending = asyncio.create_task(sender.run(connection))
            await hub.until(lambda: len(hub.batches) == 2)
            newest, oldest = (batch.name for _, batch in hub.batches)
            # The last rows tell how things stand; then the backlog begins, and there is room for no more.
            assert (newest.last, oldest.first) == (3000, 1)
            with store.transaction():
                store.readings.append([b"\xc4\x03new"])
            sender.wake()
            sender.receipted(Receipt("readings", [newest], now()))
            await hub.until(lambda: len(hub.batches) == 3)
            assert hub.batches[2][1].name.last == 3001
            told = 1
            while store.readings.depth():
                names = [batch.name for _, batch in hub.batches[told:]]
                told += len(names)
                sender.receipted(Receipt("readings", names, now()))
                await asyncio.sleep(0.01)
            sent = sorted((batch.name.first, batch.name.last) for _, batch in hub.batches)
            assert [first for first, _ in sent] == [1, *(last + 1 for _, last in sent[:-1])]
            sending.cancel()
            await asyncio.wait([sending])
    store.close()


async def test_a_commands_state_goes_ahead_of_the_readings_that_were_stored_with_it(tmp_path: pathlib.Path) -> None:
    """Who waits for it does not share the hub with what nobody waits for."""
    reading = encode(NewMeterReading("m", "2:300", now(), parse_decimal("1")))
    with mosquitto() as broker:
        async with relay(broker.url, "gw-1") as hub:
            agent = Agent(gateway_settings(tmp_path, broker.url, "gw-1"), Clock())
            async with running(agent):
                await hub.until(lambda: bool(hub.online))
                update = CommandUpdate(uuid.uuid4(), uuid.uuid4(), "done", now(), 1, 1)
                with agent.store.transaction():
                    agent.store.readings.append([reading])
                    agent.store.reports.append([encode(update)], awaited=True)
                await hub.until(lambda: len(hub.batches) == 2)
                assert [channel for channel, _ in hub.batches] == [Channel.REPORT, Channel.READINGS]


async def test_a_broker_that_is_not_there_is_named() -> None:
    port = free_port()

    async def attempt() -> Connection:
        async with connect(Access(parse_broker(f"mqtt://127.0.0.1:{port}"), answer=2.0), None) as connection:
            return connection

    with pytest.raises(BrokerError, match=f"127.0.0.1:{port}"):
        await attempt()


async def test_between_attempts_to_connect_it_waits(tmp_path: pathlib.Path) -> None:
    """The broker that turns everybody away notes the instants itself: a slow machine shortens no pause."""
    loop = asyncio.get_running_loop()
    instants: list[float] = []
    enough = asyncio.Event()

    async def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        instants.append(loop.time())
        if len(instants) == 4:
            enough.set()
        # MQTT 5, 3.2.2.2: server unavailable.
        writer.write(bytes([0x20, 3, 0, 0x88, 0]))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(turn_away, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = gateway_settings(tmp_path, f"mqtt://127.0.0.1:{port}", "gw-1")
        timing = msgspec.structs.replace(settings.timing, reconnect=0.2, reconnect_max=0.4)
        agent = Agent(msgspec.structs.replace(settings, timing=timing), Clock())
        async with running(agent), asyncio.timeout(30):
            await enough.wait()
    # With jitter a pause is at least half of 0.2, 0.4 and 0.4 s.
    assert all(
        later - earlier >= pause
        for (earlier, later), pause in zip(itertools.pairwise(instants), (0.1, 0.2, 0.2), strict=False)
    )
