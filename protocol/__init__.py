"""What bytes and documents mean: the contract between gateway and hub.

Rules of this room: msgspec, the standard library and (in ``envelopes`` alone) Ed25519 from ``cryptography``.
No clock, no socket, no event loop, no broker, no database: time and keys are arguments.
"""
