"""Receivers by name: what is wrong with one is said with the field that it stands in."""

from typing import Any

import msgspec
import pytest

from receivers.catalogue import NAMES, check_receiver, find_receiver, kwargs_from_text
from receivers.endpoints import Way, parse_endpoint
from receivers.receiver import ReceiverError, Transport

ENDPOINTS = {
    Transport.STREAM: "/dev/ttyUSB0",
    Transport.DATAGRAM: "udp://0.0.0.0:4059",
    Transport.MESSAGE: "mqtt:meters",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_receiver_is_the_module_of_its_name_and_says_what_its_kwargs_mean(name: str) -> None:
    receiver = find_receiver(name)
    assert receiver.name == name
    assert receiver.description
    assert receiver.transports
    for field in msgspec.structs.fields(receiver.kwargs):
        described = [part for part in getattr(field.type, "__metadata__", ()) if getattr(part, "description", None)]
        assert described, f"{name}: {field.name} has no description"


@pytest.mark.parametrize(
    ("endpoint", "way", "host", "port"),
    [
        ("/dev/serial/by-id/usb-1", Way.SERIAL, "", 0),
        ("socket://10.0.0.7:8023", Way.CONNECT, "10.0.0.7", 8023),
        ("listen://[::]:4059", Way.LISTEN, "::", 4059),
        ("udp://0.0.0.0:4059", Way.DATAGRAMS, "0.0.0.0", 4059),  # noqa: S104 - an address that people give
        ("mqtt:other-meters", Way.BROKER, "", 0),
    ],
)
def test_an_endpoint_says_how_it_is_opened(endpoint: str, way: Way, host: str, port: int) -> None:
    found = parse_endpoint(endpoint)
    assert (found.way, found.host, found.port, found.text) == (way, host, port, endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "tcp://a:1",
        "socket://a",
        "socket://:1",
        "udp://a:99999",
        "listen://a:1/x",
        "mqtt:",
        "mqtt:a/b",
        "udp://[a:1",
    ],
)
def test_what_is_no_endpoint_is_refused_with_what_there_is(endpoint: str) -> None:
    with pytest.raises(ReceiverError) as caught:
        parse_endpoint(endpoint)
    assert caught.value.field == "endpoint"


@pytest.mark.parametrize(
    ("receiver", "endpoint", "kwargs", "field"),
    [
        ("no_such", "/dev/x", {}, "receiver"),
        ("dsmr_p1", "udp://a:1", {}, "endpoint"),
        ("dsmr_p1", "/dev/x", {"rastr": "hour"}, "receiver_kwargs.rastr"),
        ("dsmr_p1", "/dev/x", {"rate": "fast"}, "receiver_kwargs.rate"),
        ("dsmr_p1", "/dev/x", {"raster": "fortnight"}, "receiver_kwargs.raster"),
        ("dsmr_p1", "/dev/x", {"timezone": "Mars/Olympus"}, "receiver_kwargs.timezone"),
        ("dsmr_p1", "/dev/x", {"checksum": "maybe"}, "receiver_kwargs.checksum"),
    ],
)
def test_what_is_wrong_is_named(receiver: str, endpoint: str, kwargs: dict[str, Any], field: str) -> None:
    with pytest.raises(ReceiverError) as caught:
        check_receiver(receiver, endpoint, kwargs)
    assert caught.value.field == field


def test_kwargs_of_a_command_line_are_texts() -> None:
    texts = {"raster": "null", "rate": "9600", "registers": "1.8.0,2.8.0"}
    assert msgspec.structs.asdict(kwargs_from_text("dsmr_p1", texts)) == {
        "raster": None,
        "timezone": "Europe/Amsterdam",
        "registers": ["1.8.0", "2.8.0"],
        "checksum": "required",
        "rate": 9600,
    }
