"""The only topic strings of the repository, built and parsed side by side.

``amr/v1/<gateway>/<channel>`` for a gateway's channels, ``.../invoke/<caller>`` and ``.../reply/<caller>`` for direct
invocation, ``.../push/<name>`` for what receivers take, ``amr/v1/hub/hello`` for all, ``amr/v1/hub/echo/<relay>`` for
what a relay says to itself. The gateway id ``hub`` is therefore not allowed.
"""

import enum
import functools
import re
from typing import NamedTuple

from protocol.wire import GATEWAY_ID, ContractError

_ROOT = "amr/v1"
_KNOWN = 50_000
_CALLER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

QOS = 1
"""Every message is sent at least once; what matters is receipted on top of it."""

HELLO = f"{_ROOT}/hub/hello"
DOCTOR = f"{_ROOT}/metergate-doctor"
"""Below it ``metergate-hub doctor`` tries the broker; nobody else publishes or subscribes there."""

SHARE = "hub"
"""What the names of the relays' shared subscriptions begin with; the channel follows. Two filters never share a name:
iotcore 0.4 (the embedded broker) keeps groups by name alone and then delivers for one of the filters only."""


class Channel(enum.StrEnum):
    """The channels of a gateway; the value is the word in the topic."""

    PLAN = "plan"
    COMMAND = "command"
    RECEIPT = "receipt"
    READINGS = "readings"
    REPORT = "report"
    ONLINE = "online"
    INVOKE = "invoke"
    REPLY = "reply"
    PUSH = "push"

    @property
    def retained(self) -> bool:
        """Whether the broker keeps the last message for later subscribers."""
        return self in {Channel.PLAN, Channel.ONLINE}

    @property
    def has_caller(self) -> bool:
        """Whether the topic ends with a name: a caller's, or of a receiver's endpoint ``mqtt:NAME``."""
        return self in {Channel.INVOKE, Channel.REPLY, Channel.PUSH}


class Topic(NamedTuple):
    """A parsed topic."""

    gateway: str
    channel: Channel
    caller: str = ""


def topic_for(gateway: str, channel: Channel, caller: str = "") -> str:
    """Build a topic; the inverse of ``parse_topic``.

    Raises:
        ContractError: when the gateway id or the caller's name cannot stand in a topic.
    """
    check_gateway_id(gateway)
    if channel.has_caller:
        if not _CALLER.fullmatch(caller):
            raise ContractError(f"caller {caller!r} is not of the form [a-z0-9][a-z0-9-]{{0,62}}")
        return f"{_ROOT}/{gateway}/{channel}/{caller}"
    if caller:
        raise ContractError(f"the channel {channel} has no caller")
    return f"{_ROOT}/{gateway}/{channel}"


@functools.lru_cache(_KNOWN)
def parse_topic(topic: str) -> Topic:
    """Take a topic apart; those of every gateway come again and again.

    Raises:
        ContractError: when it is no topic of a gateway.
    """
    prefix = f"{_ROOT}/"
    parts = topic[len(prefix) :].split("/") if topic.startswith(prefix) else []
    if len(parts) in {2, 3} and parts[1] in set(Channel):
        parsed = Topic(parts[0], Channel(parts[1]), parts[2] if parts[2:] else "")
        if parsed.channel.has_caller == bool(parts[2:]) and topic_for(*parsed) == topic:
            return parsed
    raise ContractError(f"{topic!r} is not a topic of a gateway")


def check_gateway_id(gateway: str) -> str:
    """Return the id unchanged if it may stand in topics for ever.

    Raises:
        ContractError: when it may not.
    """
    if not GATEWAY_ID.fullmatch(gateway):
        raise ContractError(f"gateway id {gateway!r} is not of the form [a-z0-9][a-z0-9-]{{0,62}}")
    if gateway == "hub":
        raise ContractError("the gateway id 'hub' is taken by the hub's own topics")
    return gateway


def agent_filters(gateway: str) -> list[str]:
    """Return what an agent subscribes to."""
    named = (f"{_ROOT}/{gateway}/{channel}/+" for channel in (Channel.INVOKE, Channel.PUSH))
    return [
        *(topic_for(gateway, channel) for channel in (Channel.PLAN, Channel.COMMAND, Channel.RECEIPT)),
        *named,
        HELLO,
    ]


def doctor_share(topic: str) -> str:
    """Return the shared filter of a topic of the doctor's; its group has a name that no other filter ever has."""
    return f"$share/{topic.replace('/', '-')}/{topic}"


def echo_topic(relay: str) -> str:
    """Return where a relay that ends hears itself, behind all that its broker still had for it."""
    return f"{_ROOT}/hub/echo/{relay}"


def relay_filters() -> list[str]:
    """Return what a relay subscribes to: its share of readings and reports, and every life sign."""
    return [
        f"$share/{SHARE}-{Channel.READINGS}/{_ROOT}/+/{Channel.READINGS}",
        f"$share/{SHARE}-{Channel.REPORT}/{_ROOT}/+/{Channel.REPORT}",
        f"{_ROOT}/+/{Channel.ONLINE}",
    ]
