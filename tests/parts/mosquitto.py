"""The tests' broker: that of the benches, which must not import from here."""

from benchmarks.mosquitto import Mosquitto, free_port, mosquitto

__all__ = ["Mosquitto", "free_port", "mosquitto"]
