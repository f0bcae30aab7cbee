"""Serial ports by stable path, with what is plugged in and who holds them, from a machine made of files."""

import os
import pathlib

import pytest

from agent.ports import Holder, find_ports


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, kind in (("ttyUSB10", None), ("ttyUSB2", None), ("ttyS0", "4"), ("ttyS3", "0"), ("tty1", None)):
        entry = tmp_path / "sys/class/tty" / name
        bus = tmp_path / "sys/devices/usb1" / name / "tty"
        bus.mkdir(parents=True)
        entry.mkdir(parents=True)
        (entry / "device").symlink_to(bus)
        if kind:
            (entry / "type").write_text(f"{kind}\n")
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    usb = tmp_path / "sys/devices/usb1/ttyUSB2"
    for name, text in (("idVendor", "0403"), ("idProduct", "6001"), ("manufacturer", "FTDI"), ("product", "FT232R")):
        (usb / name).write_text(f"{text}\n")
    (tmp_path / "dev/serial/by-id").mkdir(parents=True)
    (tmp_path / "dev/serial/by-id/usb-FTDI_FT232R-if00").symlink_to("../../ttyUSB2")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/locks").write_text("")
    return tmp_path


def process(machine: pathlib.Path, pid: int, command: str, device: str = "") -> None:
    folder = machine / "proc" / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{command}\n")
    if device:
        (folder / "fd/3").symlink_to(machine / "dev" / device)


def test_ports_with_hardware_are_listed_in_their_order_by_the_path_that_stays(machine: pathlib.Path) -> None:
    ports = find_ports(machine)
    assert [pathlib.Path(port.device).name for port in ports] == ["ttyS0", "ttyUSB2", "ttyUSB10"]
    usb = ports[1]
    assert usb.path == str(machine / "dev/serial/by-id/usb-FTDI_FT232R-if00")
    assert (usb.usb, usb.vendor, usb.product) == ("0403:6001", "FTDI", "FT232R")
    assert ports[2].path == ports[2].device


def test_whoever_holds_a_port_is_named_once(machine: pathlib.Path) -> None:
    process(machine, 812, "metergate-agent", "ttyUSB2")
    process(machine, 813, "minicom")
    process(machine, 814, "socat")
    inode = os.stat(machine / "dev/ttyUSB10").st_ino  # noqa: PTH116 - as the kernel numbers it
    own = os.stat(machine / "dev/ttyUSB2").st_ino  # noqa: PTH116 - as above
    (machine / "proc/locks").write_text(
        f"1: FLOCK  ADVISORY  WRITE 813 00:05:{inode} 0 EOF\n2: FLOCK  ADVISORY  WRITE 812 00:05:{own} 0 EOF\n"
    )
    (machine / "run/lock").mkdir(parents=True)
    (machine / "run/lock/LCK..ttyS0").write_text("       814\n")
    held = {pathlib.Path(port.device).name: port.held_by for port in find_ports(machine)}
    assert held == {
        "ttyS0": (Holder(814, "socat", "lock file"),),
        "ttyUSB2": (Holder(812, "metergate-agent", "open"),),
        "ttyUSB10": (Holder(813, "minicom", "locked"),),
    }


def test_a_machine_without_ports_has_none(tmp_path: pathlib.Path) -> None:
    assert find_ports(tmp_path) == []
