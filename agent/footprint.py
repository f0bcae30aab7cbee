"""Memory that is free in this process and not in the machine: glibc keeps it, and is asked to give it back.

Rules: a gateway's readout or backlog is a peak of seconds in weeks of little; what it needed is not kept for the next
one. Where the C library has no such calls (musl), nothing happens.
"""

import ctypes
import functools
import gc

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
"""mallopt(3)."""
_LARGE = 32 * 1024
"""Bytes of a block that is mapped by itself, and goes back when it is freed: a batch on its way, and its copies."""
_SPARE = 64 * 1024
"""Bytes at the end of the heap that are kept for the next ones. By itself glibc would come to keep megabytes."""


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def keep_small() -> None:
    """Let all threads allocate in one place, the few that there are never compete; and keep little that is free."""
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is None:
        return
    for option, value in (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_THRESHOLD, _LARGE),
        (_M_TRIM_THRESHOLD, _SPARE),
        (_M_TOP_PAD, 0),
    ):
        mallopt(option, value)


def settle() -> None:
    """Take what is there for what stays: once, when everything is loaded.

    The collector looks for garbage among all objects once those that are new are a quarter of those that are old. With
    the program's own hundred thousand among them, megabytes of garbage wait for that; without, it looks early and has
    little to look through.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # what counts as old is only counted by a collection
    give_back()


def give_back() -> None:
    """Give free pages back to the system; takes milliseconds."""
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)
