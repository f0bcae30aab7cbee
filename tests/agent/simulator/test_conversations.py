"""Whatever comes over the line, a meter goes on living and can be called again."""

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from agent.simulator.bus import virtual_bus
from agent.simulator.conversations import Conversation, Say
from protocol.iec62056 import (
    Ack,
    Break,
    Connection,
    Event,
    Nak,
    OptionSelect,
    Password,
    ReadBlocks,
    ReadCommand,
    Request,
    Role,
    WriteCommand,
)
from protocol.iec62056.telegrams import encode
from tests.agent.simulator.plain_reader import NOW

SAID: list[Event] = [
    Request("1"),
    Request(""),
    Request("2"),
    OptionSelect("6"),
    OptionSelect("0"),
    OptionSelect("6", mode="0"),
    Password("4:00000000"),
    Password("nonsense"),
    ReadCommand("2:300.0"),
    ReadCommand("3:V.0", ";;;"),
    ReadCommand("nonsense", ""),
    ReadBlocks("3:V.0", ";;;3"),
    ReadBlocks("3:V.4", ";;;3"),
    ReadBlocks("2:300", "1"),
    WriteCommand("4:171.0", "00000000"),
    WriteCommand("1:400.0", "2025-03-12,10:00:00"),
    WriteCommand("3:180.0", "x\\y*z"),
    ReadCommand("3:180.0"),
    Ack(),
    Nak(),
    Break(),
]
CHUNKS = st.one_of(st.sampled_from([encode(event) for event in SAID]), st.binary(max_size=12))
START = encode(Request("1")) + encode(OptionSelect("6"))


@given(st.lists(CHUNKS, max_size=12))
def test_no_telegram_kills_a_meter(chunks: list[bytes]) -> None:
    bus = virtual_bus("1:4711:EK280", now=lambda: NOW, history_days=0.4)
    conversation = Conversation(bus.meters[0], (), opening_rate=300, fixed_rate=False)
    for chunk in (START, *chunks):
        conversation.hear(chunk, 0.0)
    reader = Connection(Role.READER)
    conversation.give_up()
    answer = conversation.hear(reader.send(Request("1")), 0.0)
    said = [action for action in answer if isinstance(action, Say)]
    assert b"EK280" in bytes(byte & 0x7F for byte in said[0].pieces[0].data)


@given(st.datetimes(dt.datetime(2021, 1, 1), dt.datetime(2035, 1, 1)))  # noqa: DTZ001 - a meter's local time
def test_any_time_can_be_set(local: dt.datetime) -> None:
    meter = virtual_bus("1:4711:EK280", now=lambda: NOW, history_days=0.4).meters[0]
    meter.set_clock(local)
    rows = meter.archives.everything()
    assert [row.gono for row in rows] == sorted({row.gono for row in rows})
