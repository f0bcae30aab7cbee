"""How often signing in may be tried: by user, by user from one address, and by address.

Kept in the memory of each process and forgotten at its end: as many ``serve`` processes as there are allow as many
times as much. At most ``MOST_KEPT`` are kept, and what was not tried for longest is forgotten first. A user who
signs in gets the try back, so only failures count. The name as it was typed counts, whether there is such a user or
not: what is answered tells nothing. An IPv6 address counts by its network of 64 bits, which one customer has.
"""

import dataclasses
import ipaddress
from collections import OrderedDict
from collections.abc import Sequence

MOST_KEPT = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """So many tries at once, and another one each ``seconds``."""

    tries: int
    seconds: float


PAIR = Limit(5, 30)
"""One user from one address: a typist."""
USER = Limit(50, 10)
"""One user from anywhere: wide, so that strangers do not keep a user out."""
ADDRESS = Limit(30, 2)
"""Anybody from one address, behind which there may be a whole office."""


class Attempts:
    """Counts tries; time is given in real seconds that never go back."""

    def __init__(self) -> None:
        self._left: OrderedDict[tuple[str, ...], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, username: str, address: str, now: float) -> float:
        """Count a try; return 0, or how many seconds to wait, and then it is not counted."""
        keys = _keys(username, address)
        counts = [(key, limit, self._count(key, limit, now)) for key, limit in keys]
        wait = max((1 - count) * limit.seconds for _, limit, count in counts)
        if wait > 0:
            return wait
        for key, _, count in counts:
            self._keep(key, count - 1, now)
        return 0.0

    def give_back(self, username: str, address: str, now: float) -> None:
        """Take a try back: it was the right password."""
        for key, limit in _keys(username, address):
            self._keep(key, min(limit.tries, self._count(key, limit, now) + 1), now)

    def _count(self, key: tuple[str, ...], limit: Limit, now: float) -> float:
        left, at = self._left.get(key, (float(limit.tries), now))
        return min(float(limit.tries), left + max(0.0, now - at) / limit.seconds)

    def _keep(self, key: tuple[str, ...], count: float, now: float) -> None:
        self._left[key] = (count, now)
        self._left.move_to_end(key)
        while len(self._left) > MOST_KEPT:
            self._left.popitem(last=False)


def _keys(username: str, address: str) -> Sequence[tuple[tuple[str, ...], Limit]]:
    network = network_of(address)
    return ((("pair", username, network), PAIR), (("user", username), USER), (("address", network), ADDRESS))


def network_of(address: str) -> str:
    """Return what of an address counts: all of an IPv4 one, the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.IPv6Network((parsed.packed[:8] + bytes(8), 64)))
    return str(parsed)
