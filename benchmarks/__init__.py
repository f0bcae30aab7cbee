"""The headline figures, each a command that prints a ratio to a limit or a peer: ``python -m benchmarks NAME``."""
