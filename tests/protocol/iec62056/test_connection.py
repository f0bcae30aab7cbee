"""Whole sessions with both roles, and what each side says when the other breaks the rules."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.iec62056 import (
    NEED_DATA,
    RATES,
    TRANSITIONS,
    WAKE_UP,
    Ack,
    Break,
    Connection,
    DamagedTelegram,
    Data,
    Event,
    Identification,
    Kind,
    LocalProtocolError,
    Mode,
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
    TooManyRepeats,
    WakeUp,
    WriteCommand,
)
from protocol.iec62056.characters import strip_parity, with_even_parity
from protocol.iec62056.events import RATES_B
from tests.protocol.iec62056.conversations import (
    EK280,
    Split,
    Wire,
    fetch,
    one_byte_at_a_time,
    opened,
    telegrams,
    whole,
)

SLOW = Identification("ELS", "5", "EK260")
BLOCKS = ["(1)(a)\r\n(2)(b)", "(3)(c)\r\n(4)(d)", "(5)(e)"]

both_splits = pytest.mark.parametrize("split", [whole, one_byte_at_a_time])
both_parities = pytest.mark.parametrize("parity", [Parity.AUTO, Parity.EVEN, Parity.NONE])


# --- a session from wake-up to break -----------------------------------------------------------------------------


@both_splits
@both_parities
def test_a_whole_session(parity: Parity, split: Split) -> None:
    wire = Wire(Connection(Role.READER, parity=parity), Connection(Role.METER, parity=parity), split)
    assert wire.ask(WAKE_UP) == []
    assert wire.ask(Request("0012")) == [Pause(0.2), Request("0012")]
    assert wire.answer(EK280) == [Pause(0.02), EK280]
    assert wire.ask(OptionSelect("5")) == [SwitchRate(9600), Pause(0.02), OptionSelect("5")]
    assert wire.reader.rate == wire.meter.rate == 9600
    assert wire.answer(Prompt()) == [Pause(0.02), Prompt()]
    assert wire.ask(Password.for_lock(3, "1234")) == [Pause(0.02), Password("3:1234")]
    assert wire.answer(Ack()) == [Pause(0.02), Ack()]
    assert wire.ask(WriteCommand("4:171.0", "0")) == [Pause(0.02), WriteCommand("4:171.0", "0")]
    assert wire.answer(Refusal(17)) == [Pause(0.02), Refusal(17)]
    assert wire.ask(ReadCommand("1:400.0")) == [Pause(0.02), ReadCommand("1:400.0")]
    assert wire.answer(Data("1:400.2(2018-11-01,10:56:06)")) == [Pause(0.02), Data("1:400.2(2018-11-01,10:56:06)")]
    assert wire.read_archive(BLOCKS) == BLOCKS
    assert wire.ask(Ack()) == []  # after the last block it is taken silently
    assert wire.ask(Break()) == [SwitchRate(300), Break()]
    assert wire.reader.state is wire.meter.state is State.IDLE
    assert wire.reader.rate == wire.meter.rate == 300


def test_effects_of_sending_come_before_anything_else() -> None:
    reader = Connection(Role.READER)
    assert reader.send(WakeUp()) == bytes(66)
    assert (reader.next_event(), reader.next_event()) == (Pause(1.6), NEED_DATA)
    reader.send(Request())
    assert reader.next_event() is NEED_DATA
    reader.receive_data(b"/Els5EK280\r\n")
    assert fetch(reader) == [Pause(0.02), EK280]
    reader.send(OptionSelect("5"))
    assert fetch(reader) == [SwitchRate(9600)]
    reader.send(Break())
    assert fetch(reader) == [SwitchRate(300)]


@pytest.mark.parametrize(("baud", "nuls"), [(300, 66), (9600, 2112), (19200, 4224)])
def test_a_wake_up_lasts_as_long_at_every_rate(baud: int, nuls: int) -> None:
    assert WAKE_UP.nuls(baud) == nuls
    assert 2.1 <= nuls * 10 / baud <= 2.3


def test_an_upper_case_maker_has_the_long_reaction_time() -> None:
    wire = Wire()
    wire.ask(Request())
    assert wire.answer(SLOW) == [Pause(0.2), SLOW]
    assert wire.reader.reaction_time == wire.meter.reaction_time == 0.2


def test_a_meter_knows_its_own_reaction_time_before_anybody_asks() -> None:
    wire = Wire(meter=Connection(Role.METER, reaction_time=EK280.reaction_time))
    assert wire.ask(Request()) == [Pause(0.02), Request()]


@pytest.mark.parametrize(("select", "rate"), [("5", 9600), ("0", 300), ("6", 300)])
def test_the_rate_changes_only_if_the_offered_one_is_repeated(select: str, rate: int) -> None:
    wire = Wire()
    wire.ask(Request())
    wire.answer(EK280)
    heard = wire.ask(OptionSelect(select))
    assert (SwitchRate(9600) in heard) == (rate == 9600)
    assert wire.reader.rate == wire.meter.rate == rate


def test_rates_of_mode_c() -> None:
    assert [RATES[str(z)] for z in range(7)] == [300, 600, 1200, 2400, 4800, 9600, 19200]
    assert Identification("Els", "7", "X").rate is None


def test_a_line_with_a_fixed_rate_never_changes_it() -> None:
    wire = Wire(
        Connection(Role.READER, opening_rate=19200, fixed_rate=True),
        Connection(Role.METER, opening_rate=19200, fixed_rate=True),
    ).open()
    assert wire.ask(Break()) == [Break()]
    assert wire.reader.rate == wire.meter.rate == 19200


def test_a_break_is_the_first_act_at_the_rate_that_was_left() -> None:
    reader = Connection(Role.READER, rate=9600)
    reader.send(Break())
    assert fetch(reader) == [SwitchRate(300)]


def test_a_readout_may_be_asked_for_again_and_ends_with_a_break() -> None:
    wire = Wire()
    wire.ask(Request())
    wire.answer(EK280)
    wire.ask(OptionSelect("5", mode="0"))
    readout = Data("2:300(7*m3)\r\n!\r\n")
    assert wire.answer(readout) == [Pause(0.02), readout]
    assert wire.ask(Nak()) == [Pause(0.02), Nak()]
    assert wire.answer(readout) == [Pause(0.02), replace(readout, repeated=True)]
    assert wire.reader.rate == wire.meter.rate == 9600
    assert wire.ask(Break()) == [SwitchRate(300), Break()]
    assert wire.meter.state is State.IDLE


@pytest.mark.parametrize(
    ("called", "own", "answers"),
    [("", "12", True), ("12", "0012", True), ("000", "0", True), ("13", "12", False), ("0", "12", False)],
)
def test_which_meter_a_request_calls(called: str, own: str, *, answers: bool) -> None:
    assert Request(called).calls(own) is answers


# --- what a driver cannot forget ---------------------------------------------------------------------------------


def test_nothing_is_sent_while_an_effect_is_not_fetched() -> None:
    reader = Connection(Role.READER)
    reader.send(WAKE_UP)
    with pytest.raises(LocalProtocolError, match="next_event"):
        reader.send(Request())
    fetch(reader)
    reader.send(Request())
    reader.receive_data(b"/Els5EK280\r\n")
    assert reader.next_event() == Pause(0.02)
    with pytest.raises(LocalProtocolError, match="next_event"):
        reader.send(OptionSelect("5"))
    assert reader.send(Break())
    assert fetch(reader) == []


def test_a_break_waits_for_the_change_of_rate_but_for_nothing_else() -> None:
    wire = Wire()
    wire.ask(Request())
    wire.answer(EK280)
    wire.reader.send(OptionSelect("5"))
    with pytest.raises(LocalProtocolError):
        wire.reader.send(Break())
    assert (wire.reader.next_effect(), wire.reader.next_effect()) == (SwitchRate(9600), None)
    assert wire.reader.send(Break())


def test_next_effect_reads_nothing() -> None:
    reader = Connection(Role.READER)
    reader.send(Request())
    reader.receive_data(b"/Els5EK280\r\n")
    assert reader.next_effect() is None
    assert reader.next_event() == Pause(0.02)
    assert reader.next_effect() is None
    assert reader.next_event() == EK280


@pytest.mark.parametrize(
    ("role", "event"),
    [
        (Role.READER, ReadCommand("1:400")),
        (Role.READER, OptionSelect("5")),
        (Role.READER, Ack()),
        (Role.READER, Nak()),
        (Role.READER, EK280),
        (Role.READER, Data("(1)")),
        (Role.METER, EK280),
        (Role.METER, Request()),
        (Role.METER, Break()),
        (Role.METER, Ack()),
    ],
    ids=repr,
)
def test_what_we_may_not_say_when_idle(role: Role, event: Event) -> None:
    connection = Connection(role)
    with pytest.raises(LocalProtocolError, match="may not send"):
        connection.send(event)
    assert connection.state is State.IDLE


def test_a_wrong_event_changes_nothing() -> None:
    wire = opened()
    with pytest.raises(LocalProtocolError):
        wire.reader.send(WriteCommand("1:400", "("))
    assert wire.reader.state is State.PROMPTED
    assert wire.reader.next_event() is NEED_DATA


# --- partial blocks ----------------------------------------------------------------------------------------------


@both_splits
def test_damaged_blocks_are_asked_for_again(split: Split) -> None:
    wire = opened(split=split)
    damages = iter([b"(1)(a)", b"(3)(c)", b"(3)(c)"])

    def damage(data: bytes, targets: list[bytes] = list(damages)) -> bytes:  # noqa: B006 - consumed on purpose
        if targets and targets[0] in strip_parity(data):
            position = strip_parity(data).index(targets.pop(0)) + 1
            return data[:position] + bytes([data[position] ^ 3]) + data[position + 1 :]
        return data

    wire.damage = damage
    assert wire.read_archive(BLOCKS) == BLOCKS
    assert wire.reader.state is wire.meter.state is State.ANSWERED


def test_repeats_of_one_block_are_bounded() -> None:
    wire = opened()
    wire.damage = lambda data: data.replace(b"(\xb1", b"(\xb2")  # passes the parity, not the block check
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    for left in (3, 2, 1):
        assert isinstance(telegrams(wire.answer(Data("(1)", last=False)))[0], DamagedTelegram)
        assert wire.reader.repeats_left == left
        assert wire.ask(Nak()) == [Pause(0.02), Nak()]
    assert isinstance(telegrams(wire.answer(Data("(1)", last=False)))[0], TooManyRepeats)
    with pytest.raises(LocalProtocolError, match="3 times"):
        wire.reader.send(Nak())
    assert wire.ask(Break()) == [SwitchRate(300), Break()]


def test_a_meter_is_not_asked_for_one_block_for_ever() -> None:
    wire = opened()
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    for _ in range(3):
        wire.answer(Data("(1)", last=False))
        assert wire.ask(Nak()) == [Pause(0.02), Nak()]
    wire.meter.send(Data("(1)", last=False))
    wire.meter.receive_data(with_even_parity(b"\x15"))
    with pytest.raises(TooManyRepeats):
        wire.meter.next_event()
    wire.meter.receive_data(b"\x06")
    assert fetch(wire.meter) == [Pause(0.02), Ack()]


def test_the_count_begins_again_with_each_block() -> None:
    wire = opened()
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    for text in ("(1)", "(2)", "(3)"):
        for _ in range(3):
            wire.answer(Data(text, last=False))
            wire.ask(Nak())
        assert wire.reader.repeats_left == 0
        wire.answer(Data(text, last=False))
        wire.ask(Ack())
        assert wire.reader.repeats_left == 3


def test_a_block_whose_acknowledgement_was_lost_is_marked_when_it_comes_again() -> None:
    wire = opened()
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    wire.answer(Data("(1)", last=False))
    wire.reader.send(Ack())  # lost on the line; the reader waits in vain and asks
    assert wire.ask(Nak()) == [Pause(0.02), Nak()]
    assert telegrams(wire.answer(Data("(1)", last=False))) == [Data("(1)", last=False, repeated=True)]
    wire.ask(Ack())
    assert telegrams(wire.answer(Data("(2)"))) == [Data("(2)")]
    wire.ask(ReadCommand("1:400"))
    assert telegrams(wire.answer(Data("(2)"))) == [Data("(2)")]  # an equal answer to another question


def test_a_block_that_is_whole_but_does_not_hold_together_may_be_asked_for_again() -> None:
    wire = opened()
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    wire.answer(Data("(1"))
    assert wire.ask(Nak()) == [Pause(0.02), Nak()]
    assert telegrams(wire.answer(Data("(1)"))) == [Data("(1)")]


def test_a_new_command_instead_of_an_acknowledgement_ends_the_readout() -> None:
    wire = opened()
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    wire.answer(Data("(1)", last=False))
    assert telegrams(wire.ask(ReadCommand("1:400"))) == [ReadCommand("1:400")]
    assert telegrams(wire.answer(Data("1:400(x)"))) == [Data("1:400(x)")]


@pytest.mark.parametrize("refusal", [Refusal(103), Refusal(18)])
def test_a_refusal_ends_an_archive_or_a_read(refusal: Refusal) -> None:
    wire = opened()
    wire.ask(ReadBlocks("3:V.0", ";;;1"))
    assert telegrams(wire.answer(refusal)) == [refusal]
    assert telegrams(wire.ask(Nak())) == [Nak()]  # damaged on the way: it comes again like any answer
    assert telegrams(wire.answer(refusal)) == [refusal]


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


# --- the rest ----------------------------------------------------------------------------------------------------


def test_reset_forgets_the_conversation_and_goes_back_to_the_opening_rate() -> None:
    wire = opened()
    wire.meter.receive_data(b"\x81R")
    wire.meter.reset()
    assert fetch(wire.meter) == [SwitchRate(300)]
    assert (wire.meter.state, wire.meter.rate) == (State.IDLE, 300)
    wire.meter.reset()
    assert fetch(wire.meter) == []


def test_repr_is_legible() -> None:
    wire = opened()
    wire.reader.receive_data(b"")
    assert repr(wire.reader) == "<Connection READER PROMPTED 9600 Bd, even parity, 0 bytes and 0 events waiting>"
    assert repr(Connection(Role.METER)).startswith("<Connection METER IDLE 300 Bd, parity not learned")
    assert repr(Connection(Role.METER, parity=Parity.NONE, rate=9600)).startswith("<Connection METER IDLE 9600 Bd, no")


def test_role_is_known() -> None:
    assert Connection(Role.METER).role is Role.METER
    assert Role.METER.peer is Role.READER


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="()"), max_size=20)


@given(st.lists(TEXT.map(lambda text: f"({text})"), min_size=1, max_size=6), st.data())
def test_any_archive_comes_through_damaged_or_not(blocks: list[str], data: st.DataObject) -> None:
    """One wrong bit in some blocks, at most three times each: what the reader gets is what the meter sent."""
    wire = opened()
    budget = {"left": 3}

    def damage(raw: bytes) -> bytes:
        if raw[0] & 0x7F != 2:
            return raw
        if not budget["left"] or not data.draw(st.booleans()):
            budget["left"] = 3
            return raw
        budget["left"] -= 1
        position = data.draw(st.integers(1, len(raw) - 1).filter(lambda index: index != len(raw) - 2))
        bit = data.draw(st.integers(0, 7).filter(lambda bit: (raw[position] ^ 1 << bit) & 0x7F not in {3, 4}))
        return raw[:position] + bytes([raw[position] ^ 1 << bit]) + raw[position + 1 :]

    wire.damage = damage
    assert wire.read_archive(blocks) == blocks


# --- modes A and B -----------------------------------------------------------------------------------------------

MESSAGE = Data("0.0.0(4711)\r\n1.8.0(12.3*kWh)\r\n!\r\n")


@both_splits
@both_parities
def test_mode_a_sends_its_data_at_once_at_the_rate_of_the_request(parity: Parity, split: Split) -> None:
    wire = Wire(Connection(Role.READER, parity=parity), Connection(Role.METER, parity=parity), split)
    meter = Identification("ABC", "@", "MOD A")
    wire.ask(Request())
    assert wire.answer(meter) == [Pause(0.2), meter]
    assert wire.answer(MESSAGE) == [Pause(0.2), MESSAGE]
    assert wire.reader.rate == wire.meter.rate == 300
    # commands may follow
    assert wire.ask(ReadCommand("1.8.0", "", "R5")) == [Pause(0.2), ReadCommand("1.8.0", "", "R5")]
    assert wire.answer(Data("1.8.0(12.3*kWh)")) == [Pause(0.2), Data("1.8.0(12.3*kWh)")]
    assert wire.ask(Break()) == [Break()]


@both_splits
@pytest.mark.parametrize(("rate_id", "rate"), RATES_B.items())
def test_mode_b_switches_unasked_and_back_behind_its_data(rate_id: str, rate: int, split: Split) -> None:
    wire = Wire(split=split)
    meter = Identification("AbC", rate_id, "MODE B")
    wire.ask(Request())
    assert wire.answer(meter) == [SwitchRate(rate), Pause(0.2), meter]
    assert wire.reader.rate == wire.meter.rate == rate
    assert wire.answer(MESSAGE) == [SwitchRate(300), Pause(0.2), MESSAGE]
    assert wire.ask(ReadCommand("1.8.0", "")) == [Pause(0.2), ReadCommand("1.8.0", "")]
    assert wire.reader.rate == wire.meter.rate == 300


def test_identification_and_data_in_one_piece_are_two_telegrams() -> None:
    reader, meter = Connection(Role.READER), Connection(Role.METER)
    meter.receive_data(reader.send(Request()))
    fetch(meter)
    data = meter.send(Identification("ABC", "@", "MOD A"))
    reader.receive_data(data + meter.send(MESSAGE))
    assert telegrams(fetch(reader)) == [Identification("ABC", "@", "MOD A"), MESSAGE]


def test_data_that_came_unasked_and_damaged_cannot_be_asked_for_again() -> None:
    wire = Wire()
    wire.ask(Request())
    wire.answer(Identification("ABC", "@", "MOD A"))
    wire.damage = lambda data: data[:8] + bytes((data[8] ^ 1,)) + data[9:]
    assert isinstance(telegrams(wire.answer(MESSAGE))[0], DamagedTelegram)
    with pytest.raises(LocalProtocolError):
        wire.reader.send(Nak())
    assert wire.reader.send(Break())


@pytest.mark.parametrize(
    ("rate_id", "mode"), [*((z, Mode.C) for z in "0123456789GHI"), *((z, Mode.B) for z in "ABCDEF"), ("@", Mode.A)]
)
def test_the_mode_is_told_by_the_rate_character(rate_id: str, mode: Mode) -> None:
    assert Identification("ABC", rate_id, "X").mode is mode
