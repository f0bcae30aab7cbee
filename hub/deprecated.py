"""What of the interface goes one day: the one table, and what answers say of it.

Rules. The published paths never go. Something additive that goes stands here for at least ``NOTICE`` first, with a day
when it ends and what to use instead; its answers say so (``Deprecation`` of RFC 9745, ``Sunset`` of RFC 8594 and a
``Link``), and so does the OpenAPI document. Until that day it works as before.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from email.utils import format_datetime

NOTICE = dt.timedelta(days=365)
"""How long before its end something is announced."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deprecated:
    """An operation that goes: ``since`` when that is known, when it ends, and where it says what to use instead."""

    since: dt.datetime
    until: dt.datetime
    instead: str

    def __post_init__(self) -> None:
        if self.until - self.since < NOTICE:
            raise ValueError(f"what goes is announced {NOTICE.days} days before")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return what answers say."""
        return [
            (b"deprecation", f"@{int(self.since.timestamp())}".encode()),
            (b"sunset", format_datetime(self.until.astimezone(dt.UTC), usegmt=True).encode()),
            (b"link", f'<{self.instead}>; rel="deprecation"'.encode()),
        ]


DEPRECATED: Mapping[tuple[str, str], Deprecated] = {}
"""By method and path as in the OpenAPI document. Nothing goes now."""
