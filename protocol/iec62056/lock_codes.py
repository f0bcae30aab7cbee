"""Codes of locks where a meter tells them: taken out of rows and texts before anybody keeps or shows those.

Rules: pure functions; every character of a code becomes ``*``, so lengths stay. A code is what stands behind the
address of object 171 of a lock, in brackets: the answer to a read of it (``4:171.0(code)``), or the old and the new
value in a row of an audit trail (``(0004:0171)(old)(new)``). Many meters hide codes themselves, not all do. In doubt
more is hidden. Source: LIS-200 fact sheet 2.4, 3.5.
"""

import re

from protocol.iec62056.characters import strip_parity
from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import Address

MASK = "*"
CODE_OBJECT = "171"
"""Object of a lock's code; the lock's number is the instance. LIS-200 fact sheet 2.4."""
CHANGED_VALUES = 2
"""Groups behind the address in a row of an audit trail: the old value and the new one."""

_ADDRESS = r"\d{1,4}:[0-9A-F]?171(?:_\d+)?(?:\.[0-9A-F])?"
_TOLD = re.compile(rf"({_ADDRESS}\()((?!#)[^()\r\n]*)", re.IGNORECASE)
# One bracket of those around the address may have been lost on the line.
_AUDITED = re.compile(
    rf"(\({_ADDRESS}\s*[()]{{1,2}}|{_ADDRESS}\s*\)\(?)([^()\r\n]*)(\)?\(?)([^()\r\n]*)", re.IGNORECASE
)
# Between them stands STX: as it came, damaged, or by its name, in a telegram that was made readable.
_LOG_IN = re.compile(r"(P1(?:<[A-Z0-9]+>|[^(]){0,2}\()([^()]*)")


def names_code(address: str) -> bool:
    """Whether ``address`` is that of a lock's code, in whatever notation."""
    try:
        return Address.parse(address).object == CODE_OBJECT
    except UnreadableValue:
        return False


def hidden_in_row(row: list[str]) -> list[str]:
    """The groups of an archive's row; in place of codes stars. The row itself if it holds none."""
    named = [at for at, group in enumerate(row) if CODE_OBJECT in group and names_code(group.strip())]
    if not named:
        return row
    shown = list(row)
    for at in named:
        for code in range(at + 1, min(at + 1 + CHANGED_VALUES, len(row))):
            shown[code] = MASK * len(row[code])
    return shown


def hidden(text: str) -> str:
    """A sentence or telegram in which a meter's words stand; in place of codes stars."""
    if CODE_OBJECT not in text and "P1" not in text:
        return text
    text = _LOG_IN.sub(lambda found: found[1] + MASK * len(found[2]), text)
    text = _TOLD.sub(lambda found: found[1] + MASK * len(found[2]), text)
    return _AUDITED.sub(lambda found: f"{found[1]}{MASK * len(found[2])}{found[3]}{MASK * len(found[4])}", text)


def hidden_in_bytes(raw: bytes) -> bytes:
    """A telegram as it came, parity bits and all; bytes of codes become ``*`` without a parity bit."""
    plain = strip_parity(raw).decode("ascii")
    return bytes(byte if was == now else ord(MASK) for byte, was, now in zip(raw, plain, hidden(plain), strict=True))
