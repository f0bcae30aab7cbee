"""What arrives damaged, unintelligible, echoed, without end or for somebody else."""

import pytest

from protocol.iec62056 import (
    TRANSITIONS,
    Ack,
    Break,
    Connection,
    DamagedTelegram,
    Data,
    Event,
    Kind,
    LocalProtocolError,
    Nak,
    OptionSelect,
    Overflow,
    Parity,
    Password,
    Pause,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    RemoteProtocolError,
    Request,
    Role,
    State,
    SwitchRate,
    WriteCommand,
)
from protocol.iec62056.characters import with_even_parity
from protocol.iec62056.telegrams import encode
from tests.protocol.iec62056.conversations import (
    EK280,
    Split,
    Wire,
    both_splits,
    fetch,
    one_byte_at_a_time,
    opened,
    telegrams,
    whole,
)

# --- damage ------------------------------------------------------------------------------------------------------


@both_splits
def test_a_wrong_parity_bit_is_damage_although_the_check_is_right(split: Split) -> None:
    wire = opened(split=split)
    wire.ask(ReadCommand("2:300"))
    wire.damage = lambda data: data.replace(b"7", b"\x37").replace(b"\xb7", b"\x37")
    [error] = telegrams(wire.answer(Data("2:300(7*m3)")))
    assert isinstance(error, DamagedTelegram)
    assert "parity" in str(error)
    wire.damage = bytes
    assert telegrams(wire.ask(Nak())) == [Nak()]
    assert telegrams(wire.answer(Data("2:300(7*m3)"))) == [Data("2:300(7*m3)")]


def test_after_damage_the_pause_comes_before_the_error() -> None:
    wire = opened()
    wire.ask(ReadCommand("2:300"))
    wire.reader.receive_data(b"\x82(\xb1\xa9\x03\x00")
    assert wire.reader.next_event() == Pause(0.02)
    with pytest.raises(DamagedTelegram):
        wire.reader.next_event()
    assert wire.reader.send(Nak()) == b"\x95"


def test_a_command_that_arrives_damaged_can_be_answered_with_nak_or_a_refusal() -> None:
    for answer in (Nak(), Refusal(13)):
        wire = opened()
        wire.damage = lambda data: data.replace(b"\xb1:\xb4", b"\xb2:\xb4")
        [error] = telegrams(wire.ask(ReadCommand("1:400")))
        assert isinstance(error, DamagedTelegram)
        assert wire.meter.state is State.UNREADABLE
        assert telegrams(wire.answer(answer)) == [answer]
        wire.damage = bytes
        assert telegrams(wire.ask(ReadCommand("1:400"))) == [ReadCommand("1:400")]


def test_a_command_that_no_meter_knows() -> None:
    wire = opened()
    wire.meter.receive_data(with_even_parity(b"\x01R2\x021:400(1)\x03\x01"))
    errors = telegrams(fetch(wire.meter))
    assert len(errors) == 1
    assert telegrams(wire.answer(Nak())) == []  # the reader said nothing, so it hears noise


def test_a_block_as_answer_to_a_write_breaks_the_rules() -> None:
    wire = opened()
    wire.ask(WriteCommand("1:400", "x"))
    wire.reader.receive_data(with_even_parity(b"\x02(1)\x03\x1a"[:-1] + bytes([0x28 ^ 0x31 ^ 0x29 ^ 3])))
    [error] = telegrams(fetch(wire.reader))
    assert isinstance(error, RemoteProtocolError)
    assert "last block" in str(error)
    assert telegrams(wire.answer(Ack())) == [Ack()]


def test_a_command_before_the_prompt_breaks_the_rules() -> None:
    meter = Connection(Role.METER, parity=Parity.NONE)
    meter.receive_data(b"/?!\r\n")
    fetch(meter)
    meter.send(EK280)
    meter.receive_data(b"\x01R1\x021:400(1)\x03" + bytes([0x73 ^ 0x2E ^ 0x30]))
    [error] = telegrams(fetch(meter))
    assert isinstance(error, RemoteProtocolError)
    assert meter.state is State.IDENTIFIED


def test_a_damaged_identification_is_asked_for_with_a_new_request() -> None:
    reader = Connection(Role.READER)
    reader.send(Request())
    damaged = bytearray(with_even_parity(b"/Els5EK280\r\n"))
    damaged[6] ^= 0x80
    reader.receive_data(bytes(damaged))
    [error] = telegrams(fetch(reader))
    assert isinstance(error, DamagedTelegram)
    with pytest.raises(LocalProtocolError):
        reader.send(Nak())
    reader.send(Request())
    reader.receive_data(with_even_parity(b"/Els5EK280\r\n"))
    assert telegrams(fetch(reader)) == [EK280]


def test_secrets_are_in_no_repr_and_no_error() -> None:
    assert "4711" not in repr([Password.for_lock(3, "4711"), WriteCommand("3:171.0", "4711")])
    connection = Connection(Role.READER)
    with pytest.raises(LocalProtocolError) as caught:
        connection.send(Password.for_lock(3, "4711"))
    assert "4711" not in str(caught.value)


# --- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [True, False])
def test_auto_learns_from_the_identification_and_from_the_request(*, even: bool) -> None:
    coded = with_even_parity if even else bytes
    reader, meter = Connection(Role.READER), Connection(Role.METER)
    assert reader.send(Request()) == with_even_parity(b"/?!\r\n")
    assert "parity not learned" in repr(reader)
    reader.receive_data(coded(b"/Els5EK280\r\n"))
    assert telegrams(fetch(reader)) == [EK280]
    assert reader.even_parity is even
    assert reader.send(OptionSelect("5")) == coded(b"\x06051\r\n")
    meter.receive_data(coded(b"/?!\r\n"))
    assert telegrams(fetch(meter)) == [Request()]
    assert meter.even_parity is even
    assert meter.send(EK280) == coded(b"/Els5EK280\r\n")


def test_auto_asks_in_turn_with_and_without_parity_until_somebody_answers() -> None:
    reader = Connection(Role.READER)
    even, plain = with_even_parity(b"/?!\r\n"), b"/?!\r\n"
    assert [reader.send(Request()) for _ in range(4)] == [even, plain, even, plain]
    reader.receive_data(b"/Els5EK280\r\n")
    fetch(reader)
    reader.send(Break())
    assert [reader.send(Request()) for _ in range(2)] == [plain, even]


def test_a_meter_learns_anew_from_each_request() -> None:
    meter = Connection(Role.METER)
    for coded in (with_even_parity, bytes, with_even_parity):
        meter.receive_data(coded(b"/?!\r\n"))
        assert telegrams(fetch(meter)) == [Request()]
        assert meter.send(EK280) == coded(b"/Els5EK280\r\n")


def test_a_meter_with_even_parity_is_deaf_to_a_request_without() -> None:
    meter = Connection(Role.METER, parity=Parity.EVEN)
    meter.receive_data(b"/?!\r\n")
    assert fetch(meter) == []
    assert meter.state is State.IDLE


def test_without_parity_bit_7_is_taken_off() -> None:
    reader = Connection(Role.READER, parity=Parity.NONE)
    assert reader.send(Request()) == b"/?!\r\n"
    reader.receive_data(with_even_parity(b"/Els5EK280\r\n"))
    assert telegrams(fetch(reader)) == [EK280]


# --- what is not for us, and what interrupts ---------------------------------------------------------------------


@both_splits
@pytest.mark.parametrize("noise", [b"\x00" * 200, b"\xff\x00+++\r\nNO CARRIER\r\n", b"/ //?\r /x!\r\n", b"/Els\x0c"])
def test_noise_before_an_answer(noise: bytes, split: Split) -> None:
    wire = Wire(split=split)
    wire.damage = lambda data: noise + data
    wire.ask(Request())
    assert telegrams(wire.answer(EK280)) == [EK280]
    wire.ask(OptionSelect("5"))
    assert telegrams(wire.answer(Prompt())) == [Prompt()]
    wire.ask(ReadCommand("2:300"))
    assert telegrams(wire.answer(Data("2:300(7)"))) == [Data("2:300(7)")]
    wire.ask(WriteCommand("4:170", "0"))
    assert telegrams(wire.answer(Ack())) == [Ack()]


def test_a_request_inside_an_unfinished_command_restarts_the_meter() -> None:
    wire = opened()
    wire.reader.send(ReadCommand("1:400"))
    wire.meter.receive_data(with_even_parity(b"\x01R1\x021:4"))
    assert telegrams(wire.ask(Request("7"))) == [Request("7")]
    assert wire.meter.state is State.REQUESTED


def test_a_break_inside_an_unfinished_command_ends_the_session() -> None:
    wire = opened()
    wire.meter.receive_data(with_even_parity(b"\x01R1\x021:4"))
    assert wire.ask(Break()) == [SwitchRate(300), Break()]


@pytest.mark.parametrize("state", list(State))
def test_a_request_restarts_and_a_break_ends_from_any_state(state: State) -> None:
    assert TRANSITIONS[state, Role.READER, Kind.REQUEST] is State.REQUESTED
    assert TRANSITIONS[state, Role.READER, Kind.BREAK] is State.IDLE
    meter = Connection(Role.METER)
    meter._state = state
    meter.receive_data(with_even_parity(b"/?!\r\n"))
    assert telegrams(fetch(meter)) == [Request()]
    meter._state = state
    meter.receive_data(b"\x81B0\x03q"[:1] + with_even_parity(b"B0\x03q"))
    assert telegrams(fetch(meter)) == [Break()]


def test_another_masters_telegrams_on_the_bus_are_not_for_an_idle_meter() -> None:
    wire = opened()
    bystander = Connection(Role.METER)
    for event in (ReadCommand("1:400"), ReadCommand("2:300"), WriteCommand("4:170", "0")):
        bystander.receive_data(wire.reader.send(event))
        assert fetch(bystander) == []
    bystander.receive_data(with_even_parity(b"/?99!\r\n"))
    assert telegrams(fetch(bystander)) == [Request("99")]


@both_splits
@pytest.mark.parametrize(
    "foreign",
    [
        encode(ReadCommand("1:400.0")),
        encode(WriteCommand("1:400.0", "2025-03-12,10:30:00")),
        encode(Break()),
        b"/?77!\r\n",
        b"\x01R\x01\x01R1",
    ],
)
def test_another_masters_commands_are_passed_over_wherever_an_answer_is_owed(foreign: bytes, split: Split) -> None:
    """Only readers say commands, so that one which a reader hears is never an answer to its own."""
    foreign = with_even_parity(foreign)
    wire = opened(split=split)
    wire.ask(ReadCommand("2:300.0"))
    for part in split(foreign):
        wire.reader.receive_data(part)
    assert wire.answer(Data("2:300.0(1.5*m3)")) == [Pause(0.02), Data("2:300.0(1.5*m3)")]
    wire.ask(WriteCommand("1:400.0", "2025-03-12,10:30:00"))
    for part in split(foreign):
        wire.reader.receive_data(part)
    assert wire.answer(Ack()) == [Pause(0.02), Ack()]


def test_an_answer_to_another_master_can_be_passed_over() -> None:
    wire = opened()
    wire.ask(ReadCommand("2:300.0"))
    wire.reader.receive_data(with_even_parity(encode(Data("5:321.0(17.25*bar)"))))
    assert wire.reader.next_event() == Pause(0.02)
    with pytest.raises(LocalProtocolError, match="fetch everything"):
        wire.reader.pass_over()
    assert fetch(wire.reader) == [Data("5:321.0(17.25*bar)")]
    wire.reader.pass_over()
    assert wire.reader.state is State.READING
    assert wire.answer(Data("2:300.0(1.5*m3)")) == [Pause(0.02), Data("2:300.0(1.5*m3)")]


def test_what_arrives_when_nothing_is_owed_is_noise() -> None:
    wire = opened()
    wire.reader.receive_data(with_even_parity(b"\x02(1)\x03\x33\x06\x15/Els5X\r\n"))
    assert fetch(wire.reader) == []
    wire.ask(ReadCommand("2:300"))
    assert telegrams(wire.answer(Data("2:300(7)"))) == [Data("2:300(7)")]


@pytest.mark.parametrize("last_byte", [0x00, 0x03, 0x04, 0x06, 0x0D, 0x15])
def test_a_block_check_may_look_like_any_control_character(last_byte: int) -> None:
    check = 0
    for character in b"()\x03":
        check ^= character
    missing = check ^ last_byte
    text = f"({chr(missing ^ 0x40)}@)" if missing < 0x20 else f"({chr(missing)})"
    wire = opened(split=one_byte_at_a_time)
    wire.ask(ReadCommand("2:300"))
    raw = wire.meter.send(Data(text))
    assert raw[-1] & 0x7F == last_byte
    for byte in raw:
        wire.reader.receive_data(bytes([byte]))
    assert telegrams(fetch(wire.reader)) == [Data(text)]


# --- echo --------------------------------------------------------------------------------------------------------


@both_splits
@pytest.mark.parametrize("echoes", [True, False])
@pytest.mark.parametrize("noise", [b"", b"\x00\xff"])
def test_a_line_with_echo(split: Split, noise: bytes, *, echoes: bool) -> None:
    reader, meter = Connection(Role.READER, echo=True), Connection(Role.METER)
    conversation: list[tuple[Event, Event]] = [
        (Request(), EK280),
        (OptionSelect("5"), Prompt()),
        (ReadCommand("2:300"), Data("2:300(7)")),
        (ReadBlocks("3:V.0", ";;;1"), Data("(1)", last=False)),
        (Ack(), Data("(2)")),
        (WriteCommand("4:170", "0"), Ack()),
    ]
    for question, answer in conversation:
        raw = reader.send(question)
        fetch(reader)
        meter.receive_data(raw)
        fetch(meter)
        heard = []
        for part in split((noise + raw if echoes else b"") + meter.send(answer)):
            reader.receive_data(part)
            heard += fetch(reader)
        assert telegrams(heard) == [answer]


def test_an_echo_with_a_wrong_bit_is_still_ours() -> None:
    reader = Connection(Role.READER, echo=True, parity=Parity.NONE)
    raw = bytearray(reader.send(Request()))
    raw[2] ^= 0x10
    reader.receive_data(bytes(raw) + b"/Els5EK280\r\n")
    assert telegrams(fetch(reader)) == [EK280]


# --- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("flood", [b"\x00", b"/", b"x", b"\x01", b"\x02", b"\x06", b"/?!\r\n", b"(1)", b"\xff\x03"])
def test_unbounded_input_never_grows_the_buffer(role: Role, flood: bytes) -> None:
    for fetched in (True, False):
        wire = opened()
        wire.ask(ReadCommand("2:300"))
        connection = wire.reader if role is Role.READER else wire.meter
        connection.receive_data(b"\x82")
        for _ in range(25):
            connection.receive_data(flood * 3_000)
            assert len(connection._receiver) <= 131_072
            if fetched:
                fetch(connection)


def test_a_block_without_end_is_an_overflow_and_the_next_is_heard() -> None:
    for split in (whole, one_byte_at_a_time):
        wire = Wire(Connection(Role.READER, max_telegram=100), Connection(Role.METER)).open()
        wire.ask(ReadCommand("2:300"))
        heard = []
        for part in split(with_even_parity(b"\x02" + b"x" * 150)):
            wire.reader.receive_data(part)
            heard += fetch(wire.reader)
        assert [type(item) for item in telegrams(heard)] == [Overflow]
        wire.ask(Nak())
        assert telegrams(wire.answer(Data("(1)"))) == [Data("(1)")]


def test_nuls_are_no_overflow_however_many() -> None:
    meter = Connection(Role.METER, max_telegram=100)
    for _ in range(10):
        meter.receive_data(bytes(10_000))
    meter.receive_data(with_even_parity(b"/?!\r\n"))
    assert telegrams(fetch(meter)) == [Request()]
