"""What bytes and documents mean: the contract between gateway and hub.

Rules of this room: msgspec, the standard library and two libraries for keys: PyNaCl (Ed25519, in ``envelopes`` alone)
and ``cryptography`` (HPKE, in ``seals`` alone).
No clock, no socket, no event loop, no broker, no database: time and keys are arguments.
"""
