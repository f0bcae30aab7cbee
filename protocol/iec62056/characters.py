"""Control characters, the parity bit and the block check: what one byte on the line is.

Rules: pure functions over bytes. A *raw* byte is what an 8N1 port gives or takes; a *character* is its lower seven
bits. Seven bits and even parity are the same ten bits on the wire as eight bits and none, so the core makes and checks
the parity bit itself. Source: IEC 62056-21 5.1 and 6.3, LIS-200 fact sheet 1.1, 1.7.
"""

from functools import reduce
from operator import xor

NUL, SOH, STX, ETX, EOT, ACK, LF, CR, NAK, DEL = 0x00, 0x01, 0x02, 0x03, 0x04, 0x06, 0x0A, 0x0D, 0x15, 0x7F
SEVEN_BITS = 0x7F

_EVEN = bytes((byte & SEVEN_BITS) | ((byte & SEVEN_BITS).bit_count() & 1) << 7 for byte in range(256))
_STRIP = bytes(byte & SEVEN_BITS for byte in range(256))


def with_even_parity(characters: bytes) -> bytes:
    """The raw bytes of ``characters`` on a line with even parity."""
    return characters.translate(_EVEN)


def strip_parity(raw: bytes) -> bytes:
    """The characters of ``raw`` bytes, whatever their bit 7 is."""
    return raw.translate(_STRIP)


def has_even_parity(raw: bytes) -> bool:
    """Whether every byte carries the bit 7 that even parity gives it."""
    return raw == raw.translate(_EVEN)


def learn_parity(raw: bytes) -> bool | None:
    """True: even parity. False: bit 7 unused. None: neither, so the bytes are damaged.

    Every line of the protocol begins with ``/``, whose parity bit is 1, so the two cannot be confused.
    """
    if has_even_parity(raw):
        return True
    return False if raw.isascii() else None


def block_check(characters: bytes) -> int:
    """XOR of ``characters``: what follows the first SOH or STX up to and including ETX or EOT. Fact sheet 1.7."""
    return reduce(xor, characters, 0)
