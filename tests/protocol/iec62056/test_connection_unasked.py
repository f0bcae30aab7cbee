"""Modes A and B: a meter that says everything at once."""

import pytest

from protocol.iec62056 import (
    Break,
    Connection,
    DamagedTelegram,
    Data,
    Identification,
    LocalProtocolError,
    Mode,
    Nak,
    Parity,
    Pause,
    ReadCommand,
    Request,
    Role,
    SwitchRate,
)
from protocol.iec62056.events import RATES_B
from tests.protocol.iec62056.conversations import (
    Split,
    Wire,
    both_parities,
    both_splits,
    fetch,
    telegrams,
)

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
