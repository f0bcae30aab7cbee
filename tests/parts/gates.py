"""The tests' proxy: that of the benches, which must not import from here."""

from benchmarks.gates import Gate, gate

__all__ = ["Gate", "gate"]
