"""By what the payloads of a receiver name their meters, a field of the meter device, and which may need keys."""

import functools


def identity_field(receiver: str) -> str:
    """The column of a meter device by which a receiver's payloads name a meter; empty for one of a later version."""
    # Receivers are loaded when one is first named: a hub without any needs none.
    from receivers.catalogue import ReceiverError, find_receiver  # noqa: PLC0415 - as above

    try:
        return find_receiver(receiver).identity.value
    except ReceiverError:
        return ""


@functools.cache
def ciphering() -> tuple[str, ...]:
    """The receivers whose payloads may need keys."""
    from receivers.catalogue import NAMES, find_receiver  # noqa: PLC0415 - as above

    return tuple(name for name in NAMES if find_receiver(name).ciphered)
