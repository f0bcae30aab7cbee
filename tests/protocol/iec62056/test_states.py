"""The table of the conversation holds together."""

import pytest

from protocol.iec62056 import (
    TRANSITIONS,
    Ack,
    Connection,
    Event,
    Identification,
    Kind,
    LocalProtocolError,
    Nak,
    OptionSelect,
    Parity,
    Password,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    Request,
    Role,
    State,
    WriteCommand,
)
from protocol.iec62056.events import WAKE_UP, Break, Data
from protocol.iec62056.states import SILENT, kind_of, legal_kinds
from tests.protocol.iec62056.conversations import fetch

SAMPLES: list[Event] = [
    WAKE_UP,
    Request(),
    Identification("Els", "5", "EK280"),
    Identification("EMH", "E", "LZQ"),
    OptionSelect("5"),
    OptionSelect("5", mode="0"),
    Prompt(),
    Password("3:0"),
    ReadCommand("1:400"),
    ReadCommand("1.8.0", "", "R5"),
    ReadBlocks("3:V.0", ";;;1"),
    WriteCommand("1:400", "x"),
    Data("(1)"),
    Data("(1)", last=False),
    Refusal(18),
    Ack(),
    Nak(),
    Break(),
]


def test_every_word_has_a_sample_except_damage_which_nobody_says() -> None:
    assert {kind_of(event) for event in SAMPLES} == set(Kind) - {Kind.DAMAGED}


def test_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    reached = {State.IDLE}
    while True:
        following = {after for (before, _, _), after in TRANSITIONS.items() if before in reached}
        if following <= reached:
            break
        reached |= following
    assert reached == set(State)


def test_what_is_silent_is_legal_and_moves_nothing() -> None:
    for state, sender, kind in SILENT:
        assert TRANSITIONS[state, sender, kind] is state


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("state", list(State))
def test_exactly_what_the_table_allows_can_be_said(state: State, role: Role) -> None:
    for event in SAMPLES:
        connection = Connection(role)
        connection._state = state
        if kind_of(event) in legal_kinds(state, role):
            assert connection.send(event)
            assert connection.state is TRANSITIONS[state, role, kind_of(event)]
        else:
            with pytest.raises(LocalProtocolError):
                connection.send(event)
            assert connection.state is state


@pytest.mark.parametrize("sender", list(Role))
@pytest.mark.parametrize("state", list(State))
def test_whatever_one_side_may_say_the_other_hears_and_follows(state: State, sender: Role) -> None:
    for event in SAMPLES:
        if kind_of(event) not in legal_kinds(state, sender) or event == WAKE_UP:
            continue
        speaker, listener = (Connection(role, parity=Parity.EVEN) for role in (sender, sender.peer))
        speaker._state = listener._state = state
        listener.receive_data(speaker.send(event))
        heard = fetch(listener)
        assert (event in heard) == ((state, sender, kind_of(event)) not in SILENT)
        assert listener.state is speaker.state
