"""What the calls of ``generic_iec6205621`` may be given: one struct per call, each field checked by its own type.

Rules: as ``contexts.lis200_kwargs``. A register's id is OBIS in most meters and the maker's own in some, so only what
no meter could understand is refused.
"""

import re
from typing import Annotated, Literal

import msgspec

from contexts.lis200_verify import Verify

MAX_REGISTERS = 100
"""Registers that one ``read_readout`` may name; without names it takes all that are measured."""

_ID = re.compile(r"[0-9A-Za-z.:*&_ -]{1,32}", re.ASCII)


class RegisterId:
    """The id of one register: ``1.8.0``, ``1-0:1.8.0*255``, ``1.6.1*02``, ``C.1.0``."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if _ID.fullmatch(self.text) is None:
            raise ValueError(f"{text[:40]!r} is no register id")


class ReadReadout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read everything that the meter says in a data readout, and take all that is measured or only what is named."""

    registers: Annotated[
        Annotated[list[RegisterId], msgspec.Meta(min_length=1, max_length=MAX_REGISTERS)] | None,
        msgspec.Meta(
            description=f"up to {MAX_REGISTERS} register ids such as 1.8.0 or 1.8.0*01, or null for all measured ones"
        ),
    ] = None
    verify: Verify = "once"


class ReadRegister(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read one register in programming mode."""

    address: Annotated[RegisterId, msgspec.Meta(description="a register id such as 1.8.0 or 1-0:1.8.0*01")]
    command: Annotated[
        Literal["R1", "R5"],
        msgspec.Meta(description="'R5' for meters that read a register so (national use), else 'R1'"),
    ] = "R1"
    verify: Verify = "once"
