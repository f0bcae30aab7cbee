"""What a webhook's receiver can rely on: who sent an event, that nobody changed it, which one it is. Pure functions.

As Standard Webhooks 1.0.0 has it, for which many languages have libraries: ``webhook-id`` is the event's id and the
same at every try, ``webhook-timestamp`` the time of sending in seconds after 1970, and ``webhook-signature`` is ``v1,``
with the base64 of HMAC-SHA256 over ``id.timestamp.body``. The key is what follows ``whsec_`` in the secret, in base64.
"""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import uuid

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
"""How long the key of a secret may be."""


def key_of(secret: str) -> bytes:
    """Return the key that a secret holds.

    Raises:
        ValueError: when it is none; the text says how one looks and nothing of this one.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"must be {PREFIX} and {LEAST_BYTES} to {MOST_BYTES} random bytes in base64")
    return key


def headers_of(secret: str, event: uuid.UUID, now: dt.datetime, body: bytes) -> dict[str, str]:
    """Return the headers that identify and sign an event sent now."""
    timestamp = str(int(now.timestamp()))
    signed = f"{event}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(key_of(secret), signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": str(event), "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}
