"""The demo's modem: what it says is what the receiver takes, and what it cannot say it does not keep."""

import datetime as dt
import json
import pathlib
from typing import Any

from deploy.demo.modem import Follower, message_of, say
from mqtt.addresses import BrokerAddress
from mqtt.connection import Access
from receivers.amr_um import JsonDecoder
from receivers.receiver import Pushed
from tests.parts.mosquitto import free_port

ROW: dict[str, Any] = {
    "serial": "77",
    "archive": 2,
    "timestamp": "2026-03-02T06:15:00Z",
    "values": {"1:202": "4711.50", "1:203": "12.0"},
    "units": {"1:202": "m3", "1:203": "m3"},
}


def test_a_row_is_a_message_of_the_receiver() -> None:
    arrived = JsonDecoder().receive(message_of(ROW, "Glass works"), dt.datetime(2026, 3, 2, 6, 15, 2, tzinfo=dt.UTC))
    assert [(one.series, str(one.value), one.unit) for one in arrived if isinstance(one, Pushed)] == [
        ("1:202", "4711.50", "m3"),
        ("1:203", "12.0", "m3"),
    ]


def test_it_follows_what_is_appended_to_whole_lines(tmp_path: pathlib.Path) -> None:
    truth = tmp_path / "truth.jsonl"
    truth.write_text(json.dumps(ROW) + "\n")
    follower = Follower(truth, "77", 2)
    assert list(follower.rows()) == []
    others = [{**ROW, "serial": "78"}, {**ROW, "archive": 4}, {"serial": "77", "single": "2:404", "value": "60"}]
    later = {**ROW, "timestamp": "2026-03-02T06:30:00Z"}
    line = json.dumps(later)
    with truth.open("a") as file:
        file.write("".join(json.dumps(other) + "\n" for other in others) + line[:20])
    assert list(follower.rows()) == []
    with truth.open("a") as file:
        file.write(line[20:] + "\n")
    assert list(follower.rows()) == [later]
    assert list(follower.rows()) == []


async def test_without_a_broker_it_is_lost() -> None:
    access = Access(BrokerAddress("127.0.0.1", free_port()), answer=1.0)
    assert not await say(access, "amr/v1/south/push/modem", b"[]")
