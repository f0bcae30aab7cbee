"""What arrives means the same however it is split, and nothing that arrives breaks the core."""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.iec62056 import Connection, Parity, RemoteProtocolError, Role, State
from protocol.iec62056.characters import with_even_parity
from protocol.iec62056.events import (
    Ack,
    Break,
    Data,
    Event,
    Identification,
    Nak,
    OptionSelect,
    Prompt,
    ReadCommand,
    Refusal,
    Request,
)
from protocol.iec62056.telegrams import encode
from tests.protocol.iec62056.conversations import Heard, fetch

TELEGRAMS: list[Event] = [
    *(Request(), Request("0012"), Identification("Els", "5", "EK280"), OptionSelect("5"), Prompt(), Break()),
    *(
        ReadCommand("1:400"),
        Data("(1)(2)"),
        Data("1:400(x)", last=False),
        Data("(1)\x00(2)"),
        Refusal(18),
        Ack(),
        Nak(),
    ),
]
PIECES = [
    *(b"", b"\x00", b"\xff", b"\x01", b"\x02", b"\x03", b"\x04", b"/", b"/?", b"\r\n", b"\n", b"R1\x02", b"(1)"),
    *(b"\x01B0\x03q", b"!\r\n", b"A" * 70, b"\x06051\r", b"\x01R1\x021:4"),
]
CHUNKS = [encode(event) for event in TELEGRAMS] + PIECES


CODES: list[Callable[[bytes], bytes]] = [bytes, with_even_parity]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Telegrams, pieces of telegrams and noise, in any order, with or without parity, with wrong bits."""
    code = draw(st.sampled_from(CODES))
    parts = draw(st.lists(st.one_of(st.sampled_from(CHUNKS), st.binary(max_size=4)), max_size=12))
    stream = bytearray(code(b"".join(parts)))
    for _ in range(draw(st.integers(0, 2))):
        if stream:
            position = draw(st.integers(0, len(stream) - 1))
            stream[position] ^= 1 << draw(st.integers(0, 7))
    return bytes(stream)


def heard_in(connection: Connection, parts: list[bytes]) -> list[str]:
    heard: list[Heard] = []
    for part in parts:
        connection.receive_data(part)
        heard += fetch(connection)
    return [repr(item) if isinstance(item, RemoteProtocolError) else str(item) for item in heard]


@settings(max_examples=600)
@given(
    streams(),
    st.lists(st.integers(0, 200), max_size=6),
    st.sampled_from(list(Role)),
    st.sampled_from(list(State)),
    st.sampled_from(list(Parity)),
    st.sampled_from([16, 80, 65_536]),
)
def test_how_it_is_split_never_matters(
    stream: bytes, cuts: list[int], role: Role, state: State, parity: Parity, limit: int
) -> None:
    results = []
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for parts in (
        [stream],
        [stream[index : index + 1] for index in range(len(stream))],
        [stream[start:end] for start, end in pairwise(edges)],
    ):
        connection = Connection(role, parity=parity, max_telegram=limit)
        connection._state = state
        heard = heard_in(connection, parts)
        results.append((heard, connection.state, repr(connection)))
        if len(stream) > 2 * limit:
            return  # a buffer smaller than what comes at once loses some of it
    assert results[0] == results[1] == results[2]


@given(st.lists(st.binary(max_size=300), max_size=10), st.sampled_from(list(Role)), st.booleans())
def test_nothing_that_arrives_breaks_the_core(parts: list[bytes], role: Role, echo: bool) -> None:  # noqa: FBT001 - drawn
    connection = Connection(role, echo=echo, max_telegram=100)
    if role is Role.READER:
        connection.send(Request())
    for part in parts:
        connection.receive_data(part)
        assert len(connection._receiver) <= 200
    fetch(connection)
    assert connection.state in State
