"""Meters that push, through a whole site of real processes: P1 by TCP, DLMS ciphered by UDP and by TCP.

Every slot arrives once, through faults, kills, strangers and a meter's new key; what is damaged, of nobody or played
back is seen. Keys are given to the hub alone, and lie in the clear nowhere.
"""

import collections
import contextlib
import datetime as dt
import json
import pathlib
import socket
from collections.abc import Callable, Iterator

import pytest

from agent.simulator.pushing import Said
from agent.simulator.pushing_dlms import CipheredDlmsMeter, keys
from tests.parts.databases import ON_SQLITE, database_url
from tests.parts.mosquitto import free_port
from tests.parts.site import Site, site

__all__ = ["database_url"]

ROOT = pathlib.Path(__file__).parents[2]
RATE = 900.0
"""A quarter of an hour passes in a second."""
P1 = {"E0017": "House 7", "G0017": "House 7 gas"}
DLMS = {"udp": "4D47530000000001", "listen": "4D47530000000002"}
"""System titles of the meters that push there."""
STRANGER = "4D47530000000003"
SEED = 1
UNITS = {"1-0:1.8.1": "kWh", "1-0:1.8.2": "kWh", "24.2.1": "m3", "1-0:1.8.0": "kWh", "1-0:3.8.0": "kvarh"}
LATER = dt.timedelta(seconds=200)
"""Beyond the invocation counters that may still come late: a DLMS meter's is the second of its clock."""


class Dlms:
    """Ciphering meters, and what they have said, in the order in which they said it."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.meters = {title: CipheredDlmsMeter(SEED, title) for title in (*DLMS.values(), STRANGER)}
        self.frames: dict[str, list[bytes]] = {title: [] for title in self.meters}
        self.said: list[Said] = []
        self.keys = {title: keys(SEED, title) for title in DLMS.values()}
        self.used = [key for kinds in self.keys.values() for key in kinds.values()]
        """Every key that there was."""

    def changes_its_key(self, title: str) -> None:
        """Give a meter other keys."""
        self.meters[title], self.keys[title] = CipheredDlmsMeter(SEED + 1, title), keys(SEED + 1, title)
        self.used += self.keys[title].values()

    def says(self, title: str, at: dt.datetime, way: str = "udp") -> None:
        """Have a meter push what it has at this instant."""
        self.said += self.meters[title].said(at)
        self.frames[title].append(self.meters[title].payload(at))
        self.repeats(title, -1, way)

    def repeats(self, title: str, number: int, way: str = "udp") -> None:
        """Send something that a meter has said once more."""
        frame = self.frames[title][number]
        if way == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as meter:
                meter.sendto(frame, ("127.0.0.1", self.ports[way]))
            return
        # Nobody may listen yet.
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", self.ports[way]), 5) as connection,
        ):
            connection.sendall(frame[:30])
            connection.sendall(frame[30:])


def build(opened: Site, p1_place: str, ports: dict[str, int]) -> dict[str, str]:
    """Have the hub know the meters and one gateway with three receivers; returns these by name."""
    opened.create_organization()
    opened.create_series(UNITS)
    opened.create_type("P1", "S", ("1-0:1.8.1", "1-0:1.8.2", "24.2.1"), "Europe/Amsterdam")
    opened.create_type("DLMS", "S", ("1-0:1.8.0", "1-0:3.8.0"), "Europe/Vienna")
    for serial, name in P1.items():
        opened.devices[serial] = create_meter(opened, name, "P1", manufacturer_serial=serial)
    for way, title in DLMS.items():
        opened.devices[title] = create_meter(opened, f"DLMS by {way}", "DLMS", dlms_system_title=title)
    opened.create_gateway("gw-1", "/dev/null")
    made = {"p1": create_receiver(opened, "p1", "dsmr_p1", p1_place, *P1)}
    for way, title in DLMS.items():
        made[way] = create_receiver(opened, way, "dlms_push", f"{way}://127.0.0.1:{ports[way]}", title)
    return made


def create_meter(opened: Site, name: str, kind: str, **identity: str) -> str:
    row = opened.hub.post(
        "/v1/metering/meter-devices",
        organization=opened.organization,
        name=name,
        protocol="iec62056-21",
        type=opened.types[kind],
        **identity,
    )
    return str(row["id"])


def create_receiver(opened: Site, name: str, receiver: str, endpoint: str, *meters: str) -> str:
    row = opened.hub.post(
        "/v1/receivers",
        organization=opened.organization,
        gateway=opened.gateways["gw-1"],
        name=name,
        receiver=receiver,
        endpoint=endpoint,
        meter_devices=[opened.devices[meter] for meter in meters],
    )
    return str(row["id"])


def give_keys(opened: Site, dlms: Dlms, title: str) -> None:
    """Tell the hub what a meter ciphers with."""
    fields = {
        "dlms_global_unicast_encryption_key": dlms.keys[title]["encryption"].hex(),
        "dlms_global_authentication_key": dlms.keys[title]["authentication"].hex().upper(),
    }
    made = opened.hub.post("/v1/metering/meter-security-keys", meter=opened.devices[title], **fields)
    assert made["stored"] == sorted(fields)
    assert [made[field] for field in fields] == [None, None]


def in_the_clear(folder: pathlib.Path, used: list[bytes]) -> list[str]:
    """Return the files below a folder (logs, databases, settings) that have a key in them."""
    forms = [form for key in used for form in (key, key.hex().encode(), key.hex().upper().encode())]
    return [
        str(path) for path in folder.rglob("*") if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


def causes(opened: Site, receiver: str, word: str) -> list[str]:
    rows = opened.hub.all("/v1/undecodable-pushes", receiver=receiver)
    return [row["meter"] for row in rows if word in row["cause"]]


def push_until(opened: Site, what: str, push: Callable[[], None], true: Callable[[], bool]) -> None:
    """Push again and again until something holds: nobody hears what is said before an endpoint is open."""

    def pushed() -> bool:
        push()
        return true()

    opened.wait_for(what, pushed)


@contextlib.contextmanager
def p1_port(opened: Site, truth: pathlib.Path) -> Iterator[str]:
    faults = ("--double", "0.1", "--noise", "0.1", "--loss", "0.1", "--restart", "100")
    command = ("metergate-agent", "push", "dsmr_p1", "serve:127.0.0.1:0", "--every", "30", "--truth", str(truth))
    push = opened.stage.start("push", [*command, *faults], hello=True)
    yield push.hello["place"]
    push.end()


@ON_SQLITE
def test_what_is_pushed_arrives_once_and_what_may_not_be_taken_is_seen(
    database_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    truth = tmp_path / "pushed.jsonl"
    dlms = Dlms({"udp": free_port(socket.SOCK_DGRAM), "listen": free_port()})
    udp = DLMS["udp"]
    with site(database_url, tmp_path, rate=RATE) as opened, p1_port(opened, truth) as place:
        receivers = build(opened, place, dlms.ports)
        for title in DLMS.values():
            give_keys(opened, dlms, title)
        opened.start_agent("gw-1")
        opened.wait_for("the plan has the keys", lambda: opened.gateway("gw-1")["problems"] == [] and opened.settled())

        def speak() -> None:
            for way, title in DLMS.items():
                dlms.says(title, opened.clock.now(), way)

        push_until(
            opened,
            "readings by UDP and by TCP",
            speak,
            lambda: all(opened.count(meter_device=opened.devices[title]) for title in DLMS.values()),
        )
        old = len(dlms.frames[udp]) - 1
        dlms.says(udp, opened.clock.now() + LATER)

        def strange() -> None:
            dlms.says(STRANGER, opened.clock.now())
            dlms.repeats(udp, old)

        push_until(
            opened,
            "a stranger is seen, and what is played back is refused",
            strange,
            lambda: (
                causes(opened, receivers["udp"], "unknown system title") != []
                and causes(opened, receivers["udp"], "older than those that were taken") != []
            ),
        )
        opened.kill_agent("gw-1")
        refused = len(causes(opened, receivers["udp"], "older"))
        opened.start_agent("gw-1")
        push_until(
            opened,
            "a restart forgets no counter",
            lambda: dlms.repeats(udp, old),
            lambda: len(causes(opened, receivers["udp"], "older")) > refused,
        )
        refused = len(causes(opened, receivers["udp"], "its tag is wrong"))
        dlms.changes_its_key(udp)
        push_until(
            opened,
            "a key that the hub does not have opens nothing",
            lambda: dlms.says(udp, opened.clock.now() + 2 * LATER),
            lambda: len(causes(opened, receivers["udp"], "its tag is wrong")) > refused,
        )
        give_keys(opened, dlms, udp)
        before = opened.count(meter_device=opened.devices[udp])
        push_until(
            opened,
            "the changed key is in force",
            lambda: dlms.says(udp, opened.clock.now() + 2 * LATER),
            lambda: opened.count(meter_device=opened.devices[udp]) > before,
        )
        assert opened.gateway("gw-1")["problems"] == []
        opened.wait_for("three slots of a P1 port", lambda: len(slots_of(opened)) >= 3)
        opened.wait_for(
            "a telegram was damaged", lambda: opened.count("/v1/undecodable-pushes", receiver=receivers["p1"]) > 0
        )
        for receiver in receivers.values():
            opened.hub.patch(f"/v1/receivers/{receiver}", is_active=False)
        opened.wait_settled()
        readings = list(opened.hub.all("/v1/metering/meter-readings"))
        damaged = list(opened.hub.all("/v1/undecodable-pushes", receiver=receivers["p1"]))
        strangers = set(causes(opened, receivers["udp"], "unknown system title"))
        by_tcp = opened.count("/v1/undecodable-pushes", receiver=receivers["listen"])
        assert opened.count("/v1/metering/staged-meter-readings") == 0
        assert in_the_clear(tmp_path, dlms.used) == []

    said = {
        (opened.devices[row["meter"]], opened.series[row["series"]], dt.datetime.fromisoformat(row["timestamp"])): row[
            "value"
        ]
        for row in map(json.loads, truth.read_text().splitlines())
    }
    said |= {
        (opened.devices[one.meter], opened.series[one.series], one.timestamp): format(one.value, "f")
        for one in dlms.said
        if one.timestamp is not None and one.meter in opened.devices
    }
    keys_of = [(row["meter_device"], row["series"], dt.datetime.fromisoformat(row["timestamp"])) for row in readings]
    assert all(said[key] == row["value"] for key, row in zip(keys_of, readings, strict=True))
    assert {device for device, _, _ in keys_of} == set(opened.devices.values())
    p1 = {opened.devices[serial] for serial in P1}
    taken = collections.Counter((device, series, slot(at)) for device, series, at in keys_of if device in p1)
    assert set(taken.values()) == {1}
    assert len(keys_of) == len(set(keys_of))
    assert (strangers, by_tcp) == ({STRANGER}, 0)
    assert {"damaged" in row["cause"] or "cut" in row["cause"] for row in damaged} == {True}


def slot(instant: dt.datetime) -> dt.datetime:
    return instant.replace(minute=instant.minute // 15 * 15, second=0, microsecond=0)


def slots_of(opened: Site) -> set[str]:
    rows = opened.hub.all("/v1/metering/meter-readings", meter_device=opened.devices["E0017"])
    return {row["timestamp"] for row in rows}
