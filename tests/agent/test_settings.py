"""Settings: what is written is what runs; what is wrong is named by file and key; secrets stay out of sight."""

import pathlib

import pytest

from agent.settings import SettingsError, parse_broker, read_settings
from mqtt.addresses import BrokerAddress

GOOD = """
gateway = "north-1"
broker = "mqtt://gw@broker.example:1884"
data = "data"
broker_password_file = "broker.secret"

[meters."station 7"]
password_file = "meter.secret"
lock = 3

[lines."optical"]
endpoint = "/dev/ttyUSB3"

[timing]
resend = 5
"""


def written(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_file_with_paths_relative_to_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "broker.secret").write_text("swordfish\n")
    (tmp_path / "meter.secret").write_text("00000042\n")
    settings = read_settings(written(tmp_path, GOOD))
    assert settings.gateway == "north-1"
    assert settings.broker == BrokerAddress("broker.example", 1884, tls=False, user="gw")
    assert settings.store == tmp_path / "data" / "agent.db"
    assert settings.key_file == tmp_path / "data" / "agent.key"
    assert settings.broker_password == "swordfish"  # noqa: S105 - a test's password
    assert (settings.passwords["station 7"].password, settings.passwords["station 7"].lock) == ("00000042", 3)
    assert settings.endpoints == {"optical": "/dev/ttyUSB3"}
    assert settings.timing.resend == 5
    assert "swordfish" not in repr(settings)
    assert "00000042" not in repr(settings.passwords)


@pytest.mark.parametrize("lock", [3, 4, 5, 6])
def test_every_lock_that_a_code_opens_can_be_named(tmp_path: pathlib.Path, lock: int) -> None:
    (tmp_path / "broker.secret").write_text("swordfish")
    (tmp_path / "meter.secret").write_text("42")
    settings = read_settings(written(tmp_path, GOOD.replace("lock = 3", f"lock = {lock}")))
    assert settings.passwords["station 7"].lock == lock


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD.replace("resend = 5", "resend = -1"), "timing.resend"),
        (GOOD.replace("resend = 5", "resent = 5"), "resent"),
        (GOOD.replace("gateway =", "gatway ="), "gatway"),
        (GOOD.replace('"north-1"', '"North 1"'), "gateway"),
        (GOOD.replace('"north-1"', '"hub"'), "gateway"),
        (GOOD.replace("mqtt://gw@", "mqtt://gw:geheim@"), "broker_password_file"),
        (GOOD.replace("mqtt://", "http://"), "broker"),
        (GOOD.replace(":1884", ":none"), "broker"),
        (GOOD.replace('password_file = "meter.secret"', 'password = "a(b"'), 'meters."station 7".password'),
        (GOOD.replace("meter.secret", "meter.empty"), "meter.empty is empty"),
        (GOOD.replace("meter.secret", "meter.bytes"), "meter.bytes holds no text"),
        (GOOD.replace("/dev/ttyUSB3", "COM3"), 'lines."optical".endpoint'),
        ('hub_key = "D157"\n' + GOOD, "hub_key"),
        (GOOD.replace("lock = 3", "lock = 1"), 'meters."station 7".lock'),
        (GOOD.replace("lock = 3", 'password = "1"'), 'meters."station 7"'),
        (GOOD.replace("meter.secret", "absent"), "password_file"),
        (GOOD.replace("data = ", "data "), "not TOML"),
        ("outbox_bytes = 1000000\n" + GOOD, "outbox_bytes"),
        ('log_level = "loud"\n' + GOOD, "log_level"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: pathlib.Path, text: str, named: str) -> None:
    (tmp_path / "broker.secret").write_text("swordfish")
    (tmp_path / "meter.secret").write_text("42")
    (tmp_path / "meter.empty").write_text("\n")
    (tmp_path / "meter.bytes").write_bytes(b"\xff42")
    with pytest.raises(SettingsError) as raised:
        read_settings(written(tmp_path, text))
    assert named in str(raised.value)
    assert "agent.toml" in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SettingsError, match="--config"):
        read_settings(tmp_path / "nowhere.toml")


def test_ports_by_scheme() -> None:
    assert parse_broker("mqtts://b.example") == BrokerAddress("b.example", 8883, tls=True)
    assert parse_broker("mqtt://[::1]").host == "::1"


def test_the_annotated_example_is_valid_also_with_everything_switched_on(tmp_path: pathlib.Path) -> None:
    example = pathlib.Path(__file__).parents[2] / "deploy" / "edge" / "agent.toml"
    settings = read_settings(example)
    assert (settings.gateway, str(settings.data)) == ("station-north", "/var/lib/metergate")
    keys = ("broker_password_file", "ca_file", "store", "hub_key", "outbox_bytes", "background_share", "[",
            "password_file", "lock", "endpoint", "resend", "reconnect", "keepalive", "answer")  # fmt: skip
    lines = example.read_text(encoding="utf-8").splitlines()
    switched = [line[2:] if line[2:].startswith(keys) else line for line in lines]
    for name in ("broker.password", "station-7.password"):
        (tmp_path / name).write_text("secret")
    everything = read_settings(written(tmp_path, "\n".join(switched)))
    assert everything.passwords.keys() == {"station 7 corrector"}
    assert everything.endpoints.keys() == {"optical head"}
    # The defaults that it shows are the defaults.
    assert everything.timing == settings.timing
    assert everything.outbox_bytes == settings.outbox_bytes
    assert everything.background_share == settings.background_share
    assert everything.hub_key
