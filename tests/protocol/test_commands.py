"""Commands and their updates: bounds of life and delay, and states that always end."""

import datetime as dt
import uuid

import msgspec
import pytest

from protocol import commands
from protocol.commands import FINAL_STATES, MAX_COMMAND_SECONDS, Command, CommandUpdate
from protocol.wire import ContractError, decode, encode

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


def command(**changes: object) -> bytes:
    given = Command(uuid.UUID(int=1), "gw-1", "generic_lis200", "read_single_value", {"address": "2:300"}, NOON, 60)
    return encode(msgspec.structs.replace(given, **changes))


@pytest.mark.parametrize("seconds", [1, 60, MAX_COMMAND_SECONDS])
def test_a_command_lives_from_a_second_to_a_week(seconds: int) -> None:
    assert decode(command(ttl_seconds=seconds), Command).ttl_seconds == seconds


@pytest.mark.parametrize(
    "changes",
    [{"ttl_seconds": 0}, {"ttl_seconds": MAX_COMMAND_SECONDS + 1}, {"delay_seconds": -1}, {"store": b"short"}],
)
def test_a_command_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ContractError, match="not a Command"):
        decode(command(**changes), Command)


def test_every_state_that_is_not_final_is_on_the_way() -> None:
    states = {value for name, value in vars(commands).items() if name.isupper() and isinstance(value, str)}
    assert states - FINAL_STATES == {commands.ACCEPTED, commands.RUNNING}


def test_a_state_of_a_later_version_decodes_as_text() -> None:
    update = CommandUpdate(uuid.UUID(int=2), uuid.UUID(int=1), "postponed", NOON, 1, 1)
    assert decode(encode(update), CommandUpdate).state == "postponed"
