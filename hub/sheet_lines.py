"""Lines by words in sheets: a network interface is its gateway's id and a word for it there.

Rules. The word is the interface's name; without one its serial port, or where it leads (host:port). Where two of one
gateway have the same word, and where there is none, it is the interface's id, which is always taken too.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.hosts import host_of, sim_addresses
from hub.models import Gateway, NetworkInterface
from hub.problems import wrong
from hub.sheet_names import Guesses

_Owner = uuid.UUID | None
_SOME = 20
"""Names that an error lists."""


class Lines:
    """The lines and gateways of one organization, or of all."""

    def __init__(self, gateways: Iterable[Gateway]) -> None:
        self.gateways = {gateway.id: gateway for gateway in gateways}
        self._gateways_of: defaultdict[_Owner, dict[str, uuid.UUID]] = defaultdict(dict)
        for gateway in self.gateways.values():
            self._gateways_of[gateway.organization][gateway.gateway_id] = gateway.id
        self._told: dict[uuid.UUID, tuple[str, str]] = {}
        self._of_gateway: defaultdict[tuple[_Owner, str], dict[str, uuid.UUID]] = defaultdict(dict)
        self._of_word: defaultdict[tuple[_Owner, str], list[uuid.UUID]] = defaultdict(list)
        self._ids: dict[uuid.UUID, _Owner] = {}

    @classmethod
    async def read(cls, session: AsyncSession, organization: uuid.UUID | None) -> "Lines":
        """Read those of an organization; of all when it is None."""
        own = [] if organization is None else [Gateway.organization == organization]
        gateways = (await session.scalars(select(Gateway).where(*own).order_by(Gateway.gateway_id))).all()
        lines = cls(gateways)
        own = [] if organization is None else [NetworkInterface.organization == organization]
        found = (await session.scalars(select(NetworkInterface).where(*own).order_by(NetworkInterface.id))).all()
        addresses = await sim_addresses(session, found)
        words: defaultdict[tuple[_Owner, str, str], list[uuid.UUID]] = defaultdict(list)
        for one in found:
            host = host_of(one, addresses)
            there = f"{host}:{one.port}" if host and one.port is not None else host
            gateway = lines.gateways[one.gateway].gateway_id if one.gateway in lines.gateways else ""
            words[one.organization, gateway, one.name or one.serial_port or there or str(one.id)].append(one.id)
            lines._ids[one.id] = one.organization
        for (owner, gateway, word), ids in words.items():
            for key in ids:
                own_word = word if len(ids) == 1 else str(key)
                lines._told[key] = gateway, own_word
                lines._of_gateway[owner, gateway][own_word] = key
                lines._of_word[owner, own_word].append(key)
        return lines

    def told(self, line: uuid.UUID | None) -> tuple[str, str]:
        """Return the cells of a line, its gateway's id and its word; empty for none."""
        return ("", "") if line is None else self._told[line]

    def gateway(self, organization: _Owner, cell: str, guesses: Guesses) -> uuid.UUID:
        """Return the gateway with this id in topics.

        Raises:
            Wrong: when the organization has none.
        """
        known = self._gateways_of[organization]
        if cell not in known:
            near = guesses.nearest(cell, known)
            raise wrong("gateway", f"there is no gateway {cell!r} in the organization of this row{near}")
        return known[cell]

    def find(self, organization: _Owner, gateway: str | None, word: str, guesses: Guesses) -> uuid.UUID | None:
        """Return the line that two cells name, None when they are empty; ``gateway`` is None without that column.

        Raises:
            Wrong: when there is no such line, or more than one.
        """
        if not word:
            if gateway:
                known = self._of_gateway[organization, gateway]
                some = f"; it has {', '.join(list(known)[:_SOME])}" if known else ""
                self.gateway(organization, gateway, guesses)
                raise wrong("line", f"which line of {gateway}?{some}")
            return None
        if gateway:
            self.gateway(organization, gateway, guesses)
        known = self._of_gateway[organization, gateway or ""]
        if gateway is not None and word in known:
            return known[word]
        by_word = self._of_word[organization, word]
        if gateway is None and len(by_word) == 1:
            return by_word[0]
        by_id = self._by_id(organization, gateway, word)
        if by_id is not None:
            return by_id
        if gateway is None and by_word:
            raise wrong("line", f"there are {len(by_word)} lines {word!r}: say the gateway in a column of that name")
        place = f"gateway {gateway} has no line {word!r}" if gateway else f"there is no line {word!r} without a gateway"
        if gateway is None:
            place = f"there is no line {word!r} in the organization of this row"
        raise wrong("line", f"{place}{guesses.nearest(word, known)}")

    def _by_id(self, organization: _Owner, gateway: str | None, word: str) -> uuid.UUID | None:
        try:
            key = uuid.UUID(word)
        except ValueError:
            return None
        if self._ids.get(key) != organization or organization is None:
            return None
        if gateway is not None and self._told[key][0] != gateway:
            return None
        return key
