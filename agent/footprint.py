"""Memory that is free in this process and not in the machine: glibc keeps it, and is asked to give it back.

Rules: a gateway's readout or backlog is a peak of seconds in weeks of little; what it needed is not kept for the next
one. Where the C library has no such calls (musl), nothing happens.
"""

import ctypes
import functools

_M_ARENA_MAX = -8
"""mallopt(3)."""


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def use_one_arena() -> None:
    """Let all threads allocate in one place: the few that there are never compete, and each arena keeps free pages."""
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give free pages back to the system; takes milliseconds."""
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)
