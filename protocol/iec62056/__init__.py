"""IEC 62056-21 modes A, B and C and LIS-200, without any input or output: both roles in one core.

Role: turns bytes into telegrams and back, knows what may be said when, makes and checks parity and block checks. It
holds no port, no clock and no loop; whoever drives it does what its effects say. Standard library only.

How to drive a connection, the whole of it::

    connection = Connection(Role.READER, opening_rate=300)
    link.write(connection.send(Request(address)))
    while True:
        match connection.next_event():                # raises RemoteProtocolError
            case Pause(seconds):                      # counted from the last byte on the line
                await sleep(seconds - since_last_byte)
            case SwitchRate(baud):
                await link.drain()
                link.set_baudrate(baud)
            case Need.DATA:
                connection.receive_data(await link.read(deadline))
            case Refusal(code):
                raise MeterRefusal(code)
            case telegram:
                return telegram

Rules that this makes safe: effects come *before* the telegram that they belong to (a reader gets ``Pause`` and then
the answer; a meter gets ``SwitchRate``, ``Pause`` and then the option select), and ``send`` refuses while an effect has
not been fetched, so that no driver can forget a reaction time or a rate. After a ``send`` call ``next_event`` as
always: it yields what the send brought about (``SwitchRate`` after an option select or a break) before ``NEED_DATA``.
"""

from protocol.iec62056.connection import Connection
from protocol.iec62056.errors import (
    DamagedTelegram,
    Iec62056Error,
    LocalProtocolError,
    MeterRefusal,
    Overflow,
    RemoteProtocolError,
    TooManyRepeats,
    UnreadableValue,
)
from protocol.iec62056.events import (
    NEED_DATA,
    RATES,
    WAKE_UP,
    Ack,
    Break,
    Data,
    Effect,
    Event,
    Identification,
    MeterEvent,
    Mode,
    Nak,
    Need,
    OptionSelect,
    Parity,
    Password,
    Pause,
    Prompt,
    ReadBlocks,
    ReadCommand,
    ReaderEvent,
    Refusal,
    Request,
    Role,
    SwitchRate,
    WakeUp,
    WriteCommand,
)
from protocol.iec62056.states import TRANSITIONS, Kind, State

__all__ = [
    "NEED_DATA",
    "RATES",
    "TRANSITIONS",
    "WAKE_UP",
    "Ack",
    "Break",
    "Connection",
    "DamagedTelegram",
    "Data",
    "Effect",
    "Event",
    "Identification",
    "Iec62056Error",
    "Kind",
    "LocalProtocolError",
    "MeterEvent",
    "MeterRefusal",
    "Mode",
    "Nak",
    "Need",
    "OptionSelect",
    "Overflow",
    "Parity",
    "Password",
    "Pause",
    "Prompt",
    "ReadBlocks",
    "ReadCommand",
    "ReaderEvent",
    "Refusal",
    "RemoteProtocolError",
    "Request",
    "Role",
    "State",
    "SwitchRate",
    "TooManyRepeats",
    "UnreadableValue",
    "WakeUp",
    "WriteCommand",
]
