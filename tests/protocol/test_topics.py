"""Topics are built and parsed in one place, and the one is the inverse of the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.topics import HELLO, Channel, agent_filters, parse_topic, relay_filters, topic_for
from protocol.wire import ContractError

IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
CHANNELS = st.sampled_from(Channel)


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter with + covers the topic."""
    levels = pattern.split("/")
    if levels[0] == "$share":
        levels = levels[2:]
    parts = topic.split("/")
    return len(levels) == len(parts) and all(a in {"+", b} for a, b in zip(levels, parts, strict=True))


@given(IDS.filter(lambda name: name != "hub"), CHANNELS, IDS)
def test_a_parsed_topic_is_what_was_built(gateway: str, channel: Channel, caller: str) -> None:
    caller = caller if channel.has_caller else ""
    assert parse_topic(topic_for(gateway, channel, caller)) == (gateway, channel, caller)


@given(
    st.text(max_size=30) | st.lists(st.sampled_from(["amr", "v1", "g", "hub", *Channel, "", "+", "#"])).map("/".join)
)
def test_what_is_not_built_here_does_not_parse(topic: str) -> None:
    try:
        parsed = parse_topic(topic)
    except ContractError:
        return
    assert topic_for(*parsed) == topic


@pytest.mark.parametrize(
    "gateway", ["", "hub", "GW", "-a", "a/b", "a+", "#", "g\n", "g" * 64, "\N{LATIN SMALL LETTER AE}"]
)
def test_an_id_that_cannot_stand_in_topics_is_refused(gateway: str) -> None:
    with pytest.raises(ContractError):
        topic_for(gateway, Channel.PLAN)
    with pytest.raises(ContractError):
        topic_for("gw-1", Channel.INVOKE, gateway if gateway != "hub" else "")


def test_a_channel_without_callers_takes_none() -> None:
    with pytest.raises(ContractError, match="has no caller"):
        topic_for("gw-1", Channel.PLAN, "me")


def test_the_hubs_own_topic_is_no_gateways() -> None:
    with pytest.raises(ContractError):
        parse_topic(HELLO)


@given(IDS.filter(lambda name: name != "hub"), CHANNELS, IDS)
def test_every_message_to_an_agent_reaches_it_and_no_other(gateway: str, channel: Channel, caller: str) -> None:
    topic = topic_for(gateway, channel, caller if channel.has_caller else "")
    inward = {Channel.PLAN, Channel.COMMAND, Channel.RECEIPT, Channel.INVOKE, Channel.PUSH}
    assert any(matches(pattern, topic) for pattern in agent_filters(gateway)) == (channel in inward)
    assert not any(matches(pattern, topic) for pattern in agent_filters("another" + gateway[:50]))
    outward = {Channel.READINGS, Channel.REPORT, Channel.ONLINE}
    assert sum(matches(pattern, topic) for pattern in relay_filters()) == (channel in outward)


def test_no_two_shared_subscriptions_have_one_name() -> None:
    """Of two filters in one group iotcore 0.4 serves only one: readings were never delivered, reports were."""
    names = [pattern.split("/")[1] for pattern in relay_filters() if pattern.startswith("$share/")]
    assert len(set(names)) == len(names) == 2


def test_only_plans_and_life_signs_are_retained() -> None:
    assert {channel for channel in Channel if channel.retained} == {Channel.PLAN, Channel.ONLINE}
