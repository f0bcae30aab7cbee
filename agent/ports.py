"""The serial ports of this machine: by which path they stay the same, what is plugged in there, and who holds them.

Rules: reads /dev, /sys and /proc, opens no port (opening one moves its control lines, and may reset what is behind it).
The three roots are arguments. Only what exists is told; a process of another user can be named only by root.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

import msgspec

_NAMES = re.compile(r"tty(S|USB|ACM|AMA|SC|XRUSB|mxc|O|THS|AP)\d+")
_STABLE = ("by-id", "by-path")
_LOCK_FOLDERS = ("run/lock", "var/lock")


class Holder(msgspec.Struct, frozen=True):
    """A process that has a port open, or has locked it."""

    pid: int
    command: str
    how: str


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One port. ``path`` is the one to use: it stays the same when the machine starts anew or a cable is moved."""

    path: str
    device: str
    by_id: str = ""
    by_path: str = ""
    usb: str = ""
    vendor: str = ""
    product: str = ""
    serial: str = ""
    driver: str = ""
    writable: bool = False
    held_by: tuple[Holder, ...] = ()


def find_ports(root: pathlib.Path = pathlib.Path("/")) -> list[Port]:
    """Every serial port that has hardware behind it, in the order of their names."""
    stable = {kind: _links(root / "dev" / "serial" / kind) for kind in _STABLE}
    ports = []
    for entry in sorted((root / "sys" / "class" / "tty").glob("tty*"), key=lambda found: _natural(found.name)):
        device = root / "dev" / entry.name
        if not _NAMES.fullmatch(entry.name) or not _has_hardware(entry) or not device.exists():
            continue
        usb = _usb_device(entry)
        by_id, by_path = (stable[kind].get(entry.name, "") for kind in _STABLE)
        numbers = [_text(usb, name) for name in ("idVendor", "idProduct")] if usb else []
        ports.append(
            Port(
                path=by_id or by_path or str(device),
                device=str(device),
                by_id=by_id,
                by_path=by_path,
                usb=":".join(numbers),
                vendor=_text(usb, "manufacturer"),
                product=_text(usb, "product"),
                serial=_text(usb, "serial"),
                driver=_driver(entry),
                writable=os.access(device, os.R_OK | os.W_OK),
                held_by=tuple(_holders(root, device)),
            )
        )
    return ports


def _natural(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\D*)(\d*)", name)
    return (found[1], int(found[2] or 0)) if found else (name, 0)


def _links(folder: pathlib.Path) -> dict[str, str]:
    """Names of devices -> the path in this folder that leads to them."""
    if not folder.is_dir():
        return {}
    return {link.readlink().name: str(link) for link in sorted(folder.iterdir()) if link.is_symlink()}


def _has_hardware(entry: pathlib.Path) -> bool:
    """Whether something is behind it: the kernel makes ttyS0 to ttyS3 in any case, of type 0 (unknown)."""
    kind = _text(entry, "type")
    return (entry / "device").exists() and kind != "0"


def _usb_device(entry: pathlib.Path) -> pathlib.Path | None:
    """The USB device that a port belongs to, some folders above it."""
    here = (entry / "device").resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "idVendor").exists()), None)


def _driver(entry: pathlib.Path) -> str:
    link = entry / "device" / "driver"
    return link.readlink().name if link.is_symlink() else ""


def _text(folder: pathlib.Path | None, name: str) -> str:
    if folder is None:
        return ""
    with contextlib.suppress(OSError):
        return (folder / name).read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _holders(root: pathlib.Path, device: pathlib.Path) -> Iterator[Holder]:
    """Who has it open (/proc/*/fd), has locked it (/proc/locks), or says so in a lock file (LCK..ttyUSB0)."""
    told: set[int] = set()
    for process in (root / "proc").glob("[0-9]*"):
        if _has_open(process, device):
            told.add(int(process.name))
            yield Holder(int(process.name), _command(root, int(process.name)), "open")
    for how, pid in (*_locks(root, device), *_lock_files(root, device)):
        if pid not in told and (root / "proc" / str(pid)).exists():
            told.add(pid)
            yield Holder(pid, _command(root, pid), how)


def _has_open(process: pathlib.Path, device: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):  # a process of another user, or one that has just ended
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == str(device):
                    return True
    return False


def _locks(root: pathlib.Path, device: pathlib.Path) -> Iterator[tuple[str, int]]:
    """``1: FLOCK ADVISORY WRITE 812 00:05:99 0 EOF``: pid, and the inode of the device's file."""
    with contextlib.suppress(OSError):
        inode = str(device.stat().st_ino)
        for line in (root / "proc" / "locks").read_text(encoding="ascii").splitlines():
            words = line.replace("-> ", "").split()
            if len(words) > 5 and words[5].rpartition(":")[2] == inode and words[4].isdigit():  # noqa: PLR2004 - see above
                yield "locked", int(words[4])


def _lock_files(root: pathlib.Path, device: pathlib.Path) -> Iterator[tuple[str, int]]:
    for folder in _LOCK_FOLDERS:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (root / folder / f"LCK..{device.name}").read_text(encoding="ascii").strip()
            if text.isdigit():
                yield "lock file", int(text)


def _command(root: pathlib.Path, pid: int) -> str:
    return _text(root / "proc" / str(pid), "comm")
