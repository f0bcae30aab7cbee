"""DLMS pushes: published payloads of real meters, others' ciphers, in any pieces, played back, damaged."""

import datetime as dt
import itertools
import pathlib
import struct
from collections.abc import Mapping
from zoneinfo import ZoneInfo

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from receivers.axdr import MAX_DEPTH, MAX_ITEMS
from receivers.catalogue import check_receiver, find_receiver
from receivers.dlms_apdus import open_ciphered, read_ciphered
from receivers.dlms_push import MOST_COUNTERS, WINDOW, Counters
from receivers.receiver import MAX_KEPT, Arrival, Intake, KnownMeter, Meters, Pushed, ReceiverError, Undecodable

FOLDER = pathlib.Path(__file__).parent / "transcripts" / "dlms_push"
AT = dt.datetime(2026, 11, 22, 6, 0, 5, tzinfo=dt.UTC)
TITLE = "4D4D4D0000BC614E"
KEYS = {"encryption": bytes(range(16)), "authentication": bytes(range(0xD0, 0xE0)), "dedicated": b"D" * 16}
VIENNA = ZoneInfo("Europe/Vienna")
BOTH = 0x30


def real(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


def wrapped(apdu: bytes) -> bytes:
    return struct.pack(">HHHH", 1, 1, 1, len(apdu)) + apdu


def intake(
    kept: bytes = b"",
    *,
    title: str = TITLE,
    keys: Mapping[str, bytes] = KEYS,
    zone: ZoneInfo = VIENNA,
    **kwargs: object,
) -> Intake:
    typed = check_receiver("dlms_push", "udp://0.0.0.0:4059", kwargs)
    return find_receiver("dlms_push").open(typed, Meters([KnownMeter(title, "M1", zone, keys)]), kept)


def pushed(arrivals: list[Arrival]) -> list[tuple[str, str, str]]:
    assert not [arrival for arrival in arrivals if isinstance(arrival, Undecodable)], arrivals
    return [(one.series, str(one.value), one.unit) for one in arrivals if isinstance(one, Pushed)]


def causes(arrivals: list[Arrival]) -> list[str]:
    assert not [arrival for arrival in arrivals if isinstance(arrival, Pushed)]
    return [arrival.cause for arrival in arrivals if isinstance(arrival, Undecodable)]


def register(value: int, code: str = "0100010800ff") -> bytes:
    """A name, a value, and thousandths of kWh."""
    return bytes.fromhex(f"0906{code}06{value:08x}02020f00161e")


def notification(*registers: bytes, time: str = "") -> bytes:
    head = bytes.fromhex("0f00000001") + bytes([len(time) // 2]) + bytes.fromhex(time)
    return head + bytes([2, 3 * len(registers)]) + b"".join(registers)


def ciphered(
    counter: int,
    apdu: bytes,
    *,
    control: int = BOTH,
    tag: int = 0xDB,
    title: str = TITLE,
    key: bytes = KEYS["encryption"],
) -> bytes:
    """An APDU in its envelope, by AESGCM alone."""
    head = bytes([control])
    nonce = bytes.fromhex(title) + counter.to_bytes(4, "big")
    if control & 0x30 == BOTH:
        content = AESGCM(key).encrypt(nonce, apdu, head + KEYS["authentication"])[:-4]
    elif control & 0x10:
        content = apdu + AESGCM(key).encrypt(nonce, b"", head + KEYS["authentication"] + apdu)[:12]
    elif control & 0x20:
        content = AESGCM(key).encrypt(nonce, apdu, b"")[:-16]
    else:
        content = apdu
    content = head + counter.to_bytes(4, "big") + content
    return wrapped(bytes([tag, 8]) + bytes.fromhex(title) + b"\x82" + len(content).to_bytes(2, "big") + content)


def receive(receiver: Intake, *frames: bytes) -> list[Arrival]:
    """Give each frame to a decoder of its own, as a datagram."""
    found: list[Arrival] = []
    for frame in frames:
        decoder = receiver.connection()
        found += [*decoder.receive(frame, AT), *decoder.end(AT)]
    return found


# What real meters say


def test_an_encrypted_payload_of_a_real_meter() -> None:
    receiver = intake(
        title="4b464d10 10000023",
        keys={"encryption": bytes(range(0x10, 0x20))},
        security="encrypted",
        registers=["1-0:1.8.0", "1-0:32.7.0", "1-0:3.8.0"],
    )
    found = receive(receiver, wrapped(real("kaifa-tirol")))
    assert pushed(found) == [
        ("1-0:32.7.0", "230.8", "V"),
        ("1-0:1.8.0", "9.108", "kWh"),
        ("1-0:3.8.0", "0.096", "kvarh"),
    ]
    first = found[0]
    assert isinstance(first, Pushed)
    # 15:46:35 in summer, by its own word two hours ahead of UTC.
    assert first.timestamp == dt.datetime(2021, 7, 19, 13, 46, 35, tzinfo=dt.UTC)
    assert first.meter == "4B464D1010000023"


def test_what_the_gcm_of_others_has_ciphered_is_opened() -> None:
    key = b"MYDUMMYGLOBALKEY"
    library = read_ciphered(real("library-authenticated"))
    assert (library.title, library.counter, library.authenticated) == ("2F19229199164103", 485, True)
    opened = open_ciphered(library, {"encryption": key, "authentication": key})
    assert opened == bytes.fromhex(
        "0f000001db000922125a8591360000000049000000110000000a5a8513d014800000000d0000000a0100"
    )
    green = read_ciphered(real("green-book-glo-get-request"))
    assert open_ciphered(green, KEYS).hex() == "c0010000080000010000ff0200"


def test_values_alone_are_what_the_columns_say() -> None:
    columns = [
        "-",
        "-",
        "-",
        "1-0:1.7.0 e-3 kW",
        *["-"] * 3,
        "1-0:31.7.0 e-3 A",
        "-",
        "-",
        "1-0:32.7.0 e-1 V",
        "-",
        "-",
    ]
    receiver = intake(security="none", columns=columns, zone=ZoneInfo("Europe/Oslo"), title="")
    found = receive(receiver, wrapped(real("kaifa-norway-list2")))
    assert pushed(found) == [("1-0:1.7.0", "2.093", "kW"), ("1-0:31.7.0", "1.926", "A"), ("1-0:32.7.0", "242.0", "V")]
    # Its clock says nothing of summer time, in August: the zone does.
    assert {one.timestamp for one in found if isinstance(one, Pushed)} == {
        dt.datetime(2020, 8, 11, 11, 54, 40, tzinfo=dt.UTC)
    }
    assert "13 columns are configured" in causes(receive(receiver, wrapped(real("kaifa-norway-list1"))))[0]


def test_names_without_units_have_those_of_the_kwargs() -> None:
    receiver = intake(security="none", registers=["1-1:1.7.0 e-3 kW", "1-1:32.7.0 V"], title="")
    found = receive(receiver, wrapped(real("kamstrup-norway-list1")))
    assert pushed(found) == [("1-1:1.7.0", "1.468", "kW"), ("1-1:32.7.0", "232", "V")]


def test_texts_and_numbers_with_scalers_of_a_real_meter() -> None:
    receiver = intake(security="none", title="7359992892587665", zone=ZoneInfo("Europe/Oslo"))
    found = receive(receiver, wrapped(real("aidon-norway-list3")))
    values = pushed(found)
    assert values[0] == ("1-0:1.7.0", "0.280", "kW")
    assert ("1-0:32.7.0", "227.6", "V") in values
    assert values[-4:] == [
        ("1-0:1.8.0", "22721.38", "kWh"),
        ("1-0:2.8.0", "0.00", "kWh"),
        ("1-0:3.8.0", "582.43", "kvarh"),
        ("1-0:4.8.0", "1708.43", "kvarh"),
    ]
    assert {(one.meter, one.timestamp) for one in found if isinstance(one, Pushed)} == {
        ("7359992892587665", dt.datetime(2020, 1, 21, 16, tzinfo=dt.UTC))
    }
    without_clock = receive(receiver, wrapped(real("aidon-norway-list2")))
    assert {one.timestamp for one in without_clock if isinstance(one, Pushed)} == {None}
    assert len(pushed(without_clock)) == 9


def test_the_push_object_list_names_what_follows_it() -> None:
    entries = ("00280000190900ff", "00080000010000ff", "00030100010800ff", "00030100010800ff")
    attributes = (2, 2, 2, 3)
    captures = "".join(
        f"020412{entry[:4]}0906{entry[4:]}0f{attribute:02x}120000"
        for entry, attribute in zip(entries, attributes, strict=True)
    )
    clock = "090c07ea0b16ff070000ffffc400"
    body = bytes.fromhex(f"02040104{captures}{clock}06000004d202020f01161e")
    found = receive(intake(), ciphered(1, bytes.fromhex("0f0000000100") + body))
    assert pushed(found) == [("1-0:1.8.0", "12.34", "kWh")]
    first = found[0]
    assert isinstance(first, Pushed)
    assert first.timestamp == dt.datetime(2026, 11, 22, 6, tzinfo=dt.UTC)
    assert first.clock_offset == -5.0


def test_rows_of_a_profile_have_times_of_their_own() -> None:
    row = "0202090c07ea0b16ff06{minute:02x}00ffffc40006{value:08x}"
    body = "0102" + row.format(minute=0, value=1000) + row.format(minute=15, value=1001)
    receiver = intake(columns=["clock", "1-0:1.8.0 e-3 kWh"])
    found = receive(receiver, ciphered(1, bytes.fromhex("0f0000000100" + body)))
    assert pushed(found) == [("1-0:1.8.0", "1.000", "kWh"), ("1-0:1.8.0", "1.001", "kWh")]
    assert [one.timestamp.minute for one in found if isinstance(one, Pushed) and one.timestamp] == [0, 15]


def test_floats_are_what_the_register_shows() -> None:
    body = (
        "020409060100200700ff17" + struct.pack(">f", 230.1).hex() + "09060100340700ff18" + struct.pack(">d", 0.1).hex()
    )
    assert pushed(receive(intake(), ciphered(1, bytes.fromhex("0f0000000100" + body)))) == [
        ("1-0:32.7.0", "230.1", ""),
        ("1-0:52.7.0", "0.1", ""),
    ]


# Keys and counters


@pytest.mark.parametrize("control", [BOTH, BOTH | 1, 0x10])
def test_what_is_authenticated_is_taken(control: int) -> None:
    assert pushed(receive(intake(), ciphered(7, notification(register(5)), control=control))) == [
        ("1-0:1.8.0", "0.005", "kWh")
    ]


def test_a_dedicated_key_is_a_key_of_its_own() -> None:
    frame = ciphered(7, notification(register(5)), tag=0xDC, key=KEYS["dedicated"])
    assert pushed(receive(intake(), frame)) == [("1-0:1.8.0", "0.005", "kWh")]
    without = {name: key for name, key in KEYS.items() if name != "dedicated"}
    assert "no dedicated key" in causes(receive(intake(keys=without), frame))[0]


@pytest.mark.parametrize(
    ("security", "control", "cause"),
    [
        ("authenticated", 0x20, "only encrypted, and security is authenticated"),
        ("authenticated", 0x00, "not ciphered, and security is authenticated"),
        ("encrypted", 0x00, "not ciphered, and security is encrypted"),
        ("encrypted", 0x20, ""),
        ("none", 0x00, ""),
    ],
)
def test_less_security_than_asked_for_is_refused(security: str, control: int, cause: str) -> None:
    found = receive(intake(security=security), ciphered(7, notification(register(5)), control=control))
    assert (cause in causes(found)[0]) if cause else pushed(found)
    plain = receive(intake(security=security), wrapped(notification(register(5))))
    assert pushed(plain) if security == "none" else "it is not ciphered" in causes(plain)[0]


def test_a_strange_title_key_or_byte_is_set_aside_with_its_cause() -> None:
    frame = ciphered(7, notification(register(5)))
    unknown = receive(intake(title="AAAAAAAAAAAAAAAA"), frame)
    assert causes(unknown) == [f"unknown system title {TITLE}: no meter device of the receiver has it"]
    assert isinstance(unknown[0], Undecodable)
    assert (unknown[0].payload, unknown[0].meter) == (frame, TITLE)
    assert "no encryption key" in causes(receive(intake(keys={}), frame))[0]
    assert "its encryption key has 3 bytes" in causes(receive(intake(keys=KEYS | {"encryption": b"abc"}), frame))[0]
    assert "its tag is wrong" in causes(receive(intake(keys=KEYS | {"encryption": b"x" * 16}), frame))[0]
    assert "its tag is wrong" in causes(receive(intake(), frame[:-1] + b"\0"))[0]
    assert "suite 2" in causes(receive(intake(), ciphered(7, notification(), control=0x32)))[0]
    assert "compressed" in causes(receive(intake(), ciphered(7, notification(), control=0xB0)))[0]
    assert "general block transfer" in causes(receive(intake(), wrapped(b"\xe0\0")))[0]
    secrets = [value.hex() for value in KEYS.values()]
    assert not any(secret in repr(Meters([KnownMeter(TITLE, "M1", VIENNA, KEYS)])) for secret in secrets)


def test_a_counter_is_taken_once_in_whatever_order_and_after_a_restart() -> None:
    receiver = intake()
    frames = {counter: ciphered(counter, notification(register(counter))) for counter in (5, 6, 7, 100, 200)}
    assert len(pushed(receive(receiver, frames[6], frames[5], frames[7], frames[100]))) == 4
    assert receive(receiver, frames[100]) == []
    assert receiver.superfluous == 1
    assert "older than those" in causes(receive(receiver, frames[5]))[0]
    again = intake(receiver.kept())
    assert receive(again, frames[100]) == []
    assert "played back" in causes(receive(again, frames[7]))[0]
    assert len(pushed(receive(again, frames[200]))) == 1
    # Another key is another series of counters; what cannot be read of what was kept is as if it had never been.
    other = intake(again.kept(), keys=KEYS | {"encryption": b"k" * 16})
    assert len(pushed(receive(other, ciphered(1, notification(register(1)), key=b"k" * 16)))) == 1
    assert len(pushed(receive(intake(b"\xff\0rubbish"), frames[5]))) == 1


def test_a_payload_that_cannot_be_opened_uses_up_no_counter() -> None:
    receiver = intake(security="encrypted")
    forged = ciphered(2**32 - 1, b"\x99" * 30, control=0x20)
    assert "no DataNotification" in causes(receive(receiver, forged))[0]
    assert len(pushed(receive(receiver, ciphered(1, notification(register(1)))))) == 1


@given(st.lists(st.integers(0, 300), max_size=200))
def test_counters_are_taken_once_each(counters: list[int]) -> None:
    window = Counters()
    taken: set[int] = set()
    for counter in counters:
        new = window.is_new(b"a device", counter)
        highest = max(taken, default=-1)
        assert new is (None if highest - counter >= WINDOW else counter not in taken)
        if new:
            window.take(b"a device", counter)
            taken.add(counter)
        window = Counters(window.kept()) if counter % 7 == 0 else window


def test_counters_of_very_many_meters_stay_within_bounds() -> None:
    window = Counters()
    for number in range(MOST_COUNTERS + 10):
        window.take(number.to_bytes(8, "big"), number)
    assert len(window.kept()) < MAX_KEPT - 16_384
    assert window.is_new((MOST_COUNTERS + 9).to_bytes(8, "big"), MOST_COUNTERS + 9) is False


# Streams and junk


@settings(max_examples=50)
@given(
    st.sampled_from([b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\0\x02\0\1\0\1\0\1x", b"\xff" * 300]),
    st.integers(0, 4),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
)
# What looks like a wrapper by chance, in pieces that show no more of it than that.
@example(b"\0\x02\0\1\0\1\0\1x", 0, [6])
def test_any_pieces_of_a_stream_bring_the_same(junk: bytes, position: int, sizes: list[int]) -> None:
    frames = [ciphered(counter, notification(register(counter))) for counter in range(1, 5)]
    stream = b"".join([*frames[:position], junk, *frames[position:]])
    decoder = intake().connection()
    found: list[Arrival] = []
    for size in itertools.cycle(sizes):
        found += decoder.receive(stream[:size], AT)
        stream = stream[size:]
        if not stream:
            break
    found += decoder.end(AT)
    values = [str(one.value) for one in found if isinstance(one, Pushed)]
    assert values == ["0.001", "0.002", "0.003", "0.004"]
    junked = b"".join(one.payload for one in found if isinstance(one, Undecodable))
    assert junked == junk


def test_a_connection_that_ends_in_a_payload_keeps_what_was_whole() -> None:
    frame = ciphered(1, notification(register(1)))
    decoder = intake().connection()
    assert len(pushed(decoder.receive(frame + frame[:20], AT))) == 1
    assert causes(decoder.end(AT)) == ["it ends before its wrapper says"]


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 60), st.booleans())
def test_nothing_that_comes_is_raised(noise: bytes, cut: int, whole: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    receiver = intake(security="none")
    plain = bytearray(wrapped(notification(register(1), register(2), time="07ea0b16ff070000ffffc400")))
    plain[8 + cut % (len(plain) - 8) : 8 + cut % (len(plain) - 8) + len(noise)] = noise
    frame = wrapped(bytes(plain[8:])) if whole else bytes(plain)
    for arrival in receive(receiver, frame, wrapped(b"\x0f" + noise), noise):
        assert isinstance(arrival, (Pushed, Undecodable))


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"\x02\x01" * (MAX_DEPTH + 2) + b"\0", "nested more than"),
        (b"\x01\x82\xff\xff" + b"\0" * 65_000, f"more than {MAX_ITEMS} elements"),
        (b"\x01\x84\xff\xff\xff\xff", "a length of 4 bytes"),
        (b"\x09\x84\xff\xff\xff\xff" + b"4 GB", "a length of 4 bytes"),
        (b"\x0a\x80" + b"indefinite" + b"\0\0", "a length of 0 bytes"),
        (b"\x09\x83\xff\xff\xff" + b"16 MB", "where 16777210 more are expected"),
        (b"\x04\x83\xff\xff\xff", "where 2097152 more are expected"),
        (b"\x02\x83\xff\xff\xff" + b"\0" * 100, "where 1 more are expected"),
        (b"\x02\x01" * 30_000, "nested more than"),
        (b"\x0c\x02\xc3\x28", "a text that is not utf-8"),
        (b"\x19" + b"\x07\xea\x02\x1e" + b"\0" * 8, "does not exist"),
        (b"\x63", "no data type 99"),
        (b"\x17\x7f\xc0\0\0", "a float that is no number"),
        (b"\0\0", "1 bytes behind its end"),
        (b"\0", "no register"),
    ],
)
def test_data_that_is_strange_is_set_aside(body: bytes, cause: str) -> None:
    frame = wrapped(bytes.fromhex("0f0000000100") + body)
    (found,) = receive(intake(security="none"), frame)
    assert isinstance(found, Undecodable)
    assert cause in found.cause
    assert found.payload == frame, "its bytes are kept"


def test_with_a_raster_the_first_payload_of_each_slot_is_taken() -> None:
    receiver = intake(raster="quarter_hour")
    times = ["07ea0b16ff070000ffffc400", "07ea0b16ff070500ffffc400", "07ea0b16ff070f00ffffc400"]
    frames = [ciphered(n, notification(register(n), time=time)) for n, time in enumerate(times, 1)]
    assert [row[1] for row in pushed(receive(receiver, *frames))] == ["0.001", "0.003"]
    assert receiver.superfluous == 1


@pytest.mark.parametrize(
    "kwargs",
    [
        {"security": "high"},
        {"raster": "fortnight"},
        {"timezone": "Mars/Olympus"},
        {"columns": ["1-0:1.8.0 kWh e3"]},
        {"registers": ["clock"]},
        {"registers": ["energy"]},
        {"colums": []},
    ],
)
def test_kwargs_that_cannot_be_are_refused_by_name(kwargs: dict[str, object]) -> None:
    with pytest.raises(ReceiverError) as caught:
        check_receiver("dlms_push", "udp://0.0.0.0:4059", kwargs)
    assert next(iter(kwargs)) in str(caught.value)
