"""DLMS around a push: the wrapper of IEC 62056-47, general ciphering of suite 0 and 1, and the DataNotification.

Suites 0 and 1 cipher alike: AES-128 in GCM, a tag of 96 bits, the system title and the invocation counter as its
nonce. Written here with ``cryptography``, which the contract needs anyway, and not by the ``dlms-cosem`` package: that
one takes neither payloads that are only encrypted (which many pushing meters send) nor general-ded-ciphering, has
no types, and brings five packages to every gateway. Its own vectors are among the tests.
Source: IEC 62056-47 (wrapper), IEC 62056-5-3 (Green Book) 9.2.7 security, 9.5 APDUs.
"""

import dataclasses
import struct
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from receivers.axdr import DATE_TIME_BYTES, Reader, Stamp, UnreadableDataError, Value, read_stamp

WRAPPER_BYTES = 8
WRAPPER_VERSION = b"\0\x01"

DATA_NOTIFICATION = 0x0F
GENERAL_GLO = 0xDB
GENERAL_DED = 0xDC
CIPHERED = frozenset({GENERAL_GLO, GENERAL_DED})
TAGS = CIPHERED | {DATA_NOTIFICATION}
_OTHERS = {0xDD: "general-ciphering", 0xDF: "general-signing", 0xE0: "a general block transfer"}

TITLE_BYTES = 8
KEY_BYTES = 16
TAG_BYTES = 12
_SUITES = frozenset({0, 1})
_SUITE, _AUTHENTICATED, _ENCRYPTED, _BROADCAST, _COMPRESSED = 0x0F, 0x10, 0x20, 0x40, 0x80
_TAGGED = 9
_HEADER = struct.Struct(">BI")


class RefusedError(ValueError):
    """An APDU that is not taken; the text says why, for people, without a secret."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ciphered:
    """A general-glo- or general-ded-ciphering APDU, not opened yet.

    ``kind`` is the name of the key that opens it, ``title`` the sender's system title in hex.
    """

    kind: str
    title: str
    control: int
    counter: int
    content: bytes

    @property
    def authenticated(self) -> bool:
        """Whether it has a tag that shows who sent it, unchanged."""
        return bool(self.control & _AUTHENTICATED)

    @property
    def encrypted(self) -> bool:
        """Whether nobody else can read it."""
        return bool(self.control & _ENCRYPTED)


@dataclasses.dataclass(frozen=True, slots=True)
class Notification:
    """A DataNotification: when it was sent, if it says so, and what it brings."""

    sent: Stamp | None
    body: Value


def apdu_tag(apdu: bytes) -> int:
    """Return which APDU it is, of those that are taken.

    Raises:
        RefusedError: when it is another one.
    """
    if not apdu:
        raise RefusedError("the wrapper has nothing in it")
    tag = apdu[0]
    if tag in TAGS:
        return tag
    other = _OTHERS.get(tag, f"an APDU with tag {tag}")
    raise RefusedError(f"it is {other}, not a DataNotification, nor one in general-glo- or general-ded-ciphering")


def read_ciphered(apdu: bytes) -> Ciphered:
    """Take the envelope of a ciphered APDU apart.

    Raises:
        RefusedError: when it is none, or protected in a way that is not taken.
    """
    reader = Reader(apdu)
    kind = {GENERAL_GLO: "encryption", GENERAL_DED: "dedicated"}[reader.byte()]
    try:
        title = reader.take(reader.length())
        content = reader.take(reader.length())
    except UnreadableDataError as error:
        raise RefusedError(f"its envelope: {error}") from error
    if reader.left:
        raise RefusedError(f"its envelope: {reader.left} bytes behind its end")
    if len(title) != TITLE_BYTES:
        raise RefusedError(f"its system title has {len(title)} bytes, not {TITLE_BYTES}")
    if len(content) < _HEADER.size:
        raise RefusedError("its envelope has no security header")
    control, counter = _HEADER.unpack_from(content)
    name = title.hex().upper()
    if control & _SUITE not in _SUITES:
        raise RefusedError(f"{name}: security suite {control & _SUITE}; taken are 0 and 1")
    if control & _BROADCAST and kind == "encryption":
        kind = "broadcast"
    if control & _COMPRESSED:
        raise RefusedError(f"{name}: compressed payloads are not taken")
    return Ciphered(kind, name, control, counter, content[_HEADER.size :])


def open_ciphered(ciphered: Ciphered, keys: Mapping[str, bytes]) -> bytes:
    """Return the APDU in the envelope.

    Args:
        ciphered: the envelope.
        keys: ``encryption`` (global unicast), ``broadcast``, ``dedicated`` and ``authentication``, 16 bytes each.

    Raises:
        RefusedError: when a key is missing, or does not fit.
    """
    name = ciphered.title
    if not ciphered.control & _ENCRYPTED and not ciphered.authenticated:
        return ciphered.content
    key = _key(keys, ciphered.kind, name)
    nonce = bytes.fromhex(name) + ciphered.counter.to_bytes(4, "big")
    if not ciphered.authenticated:
        # GCM without its tag is counter mode from the second block on.
        counter = algorithms.AES(key), modes.CTR(nonce + b"\0\0\0\x02")
        decryptor = Cipher(*counter).decryptor()
        return decryptor.update(ciphered.content) + decryptor.finalize()
    if len(ciphered.content) < TAG_BYTES:
        raise RefusedError(f"{name}: it has no room for its tag")
    text, tag = ciphered.content[:-TAG_BYTES], ciphered.content[-TAG_BYTES:]
    associated = bytes([ciphered.control]) + _key(keys, "authentication", name)
    hidden = bool(ciphered.control & _ENCRYPTED)
    opening = Cipher(algorithms.AES(key), modes.GCM(nonce, tag, min_tag_length=TAG_BYTES)).decryptor()
    opening.authenticate_additional_data(associated if hidden else associated + text)
    try:
        plain = opening.update(text if hidden else b"") + opening.finalize()
    except InvalidTag:
        raise RefusedError(f"{name}: its tag is wrong: another key, or changed on the way") from None
    return plain if hidden else text


def _key(keys: Mapping[str, bytes], kind: str, name: str) -> bytes:
    key = keys.get(kind)
    if key is None:
        raise RefusedError(
            f"{name}: no {kind} key of this meter is known; the hub is given it, and seals it into the plan"
        )
    if len(key) != KEY_BYTES:
        raise RefusedError(f"{name}: its {kind} key has {len(key)} bytes, not {KEY_BYTES}")
    return key


def read_notification(apdu: bytes) -> Notification:
    """Take a DataNotification apart.

    Raises:
        RefusedError: when it is none, or has data that cannot be read.
    """
    reader = Reader(apdu)
    try:
        if reader.byte() != DATA_NOTIFICATION:
            raise RefusedError("what was opened is no DataNotification: another key, or changed on the way")
        reader.take(4)
        length = reader.length()
        if length == _TAGGED:
            # Some meters say here, against the standard, that an octet string follows.
            length = reader.length()
        raw = reader.take(length)
        if len(raw) not in {0, DATE_TIME_BYTES}:
            raise RefusedError(f"its date-time has {len(raw)} bytes")
        sent = read_stamp(raw) if raw else None
        body = reader.data()
    except UnreadableDataError as error:
        raise RefusedError(f"its data: {error}") from error
    if reader.left:
        raise RefusedError(f"its data: {reader.left} bytes behind its end")
    return Notification(sent, body)
