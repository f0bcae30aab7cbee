"""Whole sessions with both roles, what a driver cannot forget, and partial blocks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.iec62056 import (
    NEED_DATA,
    RATES,
    WAKE_UP,
    Ack,
    Break,
    Connection,
    DamagedTelegram,
    Data,
    Event,
    Identification,
    LocalProtocolError,
    Nak,
    OptionSelect,
    Parity,
    Password,
    Pause,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    Request,
    Role,
    State,
    SwitchRate,
    TooManyRepeats,
    WakeUp,
    WriteCommand,
)
from protocol.iec62056.characters import strip_parity, with_even_parity
from tests.protocol.iec62056.conversations import (
    BLOCKS,
    EK280,
    SLOW,
    Split,
    Wire,
    both_parities,
    both_splits,
    fetch,
    opened,
    telegrams,
)

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
