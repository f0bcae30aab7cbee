"""The tests' tape: that of the benches, which must not import from here."""

from benchmarks.tape import Tape, tape

__all__ = ["Tape", "tape"]
