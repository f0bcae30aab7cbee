"""A disk as a power cut may leave it, rebuilt from a trace of system calls (``strace -xx``).

Rules of the disk: what was synced is there. Each later write is there, or not, or torn between sectors of 512 bytes;
a file that was made, renamed or deleted since the last sync of its folder may still be, or not yet. Nothing is
reordered across a sync of the same file, and a sync of one file says nothing about another.
"""

import dataclasses
import pathlib
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

CALLS = "openat,close,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat,rename"
SECTOR = 512

_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Event(NamedTuple):
    """One system call that succeeded."""

    name: str
    text: bytes
    """The first string: a path, or what was written."""
    other: bytes
    """The second one: where something was renamed to."""
    numbers: list[int]
    """The arguments that are numbers, in order."""
    result: int
    words: str


def events(trace: pathlib.Path) -> Iterator[Event]:
    """Read a trace."""
    with trace.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            found = _CALL.match(line)
            if not found or int(found[3]) < 0:
                continue
            strings = [bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(found[2])]
            words = _STRING.sub("", found[2])
            numbers = [int(word) for word in re.split(r", *", words) if word.isdigit()]
            text, other = [*strings, b"", b""][:2]
            yield Event(found[1], text, other, numbers, int(found[3]), words)


@dataclasses.dataclass
class Write:
    """Bytes at an offset; ``data`` None cuts the file there."""

    offset: int
    data: bytes | None


@dataclasses.dataclass(eq=False)
class Body:
    """What a file contains: durably, and written since."""

    durable: bytearray = dataclasses.field(default_factory=bytearray)
    pending: list[Write] = dataclasses.field(default_factory=list)

    def sync(self) -> None:
        """Make everything durable."""
        for write in self.pending:
            _apply(self.durable, write)
        self.pending.clear()


class Disk:
    """One folder of a traced process: feed it events, and take images at any point."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, Body] = {}
        self._durable_names: dict[str, Body] = {}
        self._steps: list[dict[str, Body]] = []
        """How the folder looked after each change since its last sync."""
        self._open: dict[int, tuple[str, Body | None]] = {}
        self._at: dict[int, int] = {}
        self.promises = b""

    def feed(self, event: Event) -> bool:
        """Take a call over; whether it changed what a power cut could leave."""
        handler = getattr(self, f"_on_{event.name}", None)
        return bool(handler and handler(event))

    def image(self, chance: random.Random, kind: str) -> dict[str, bytes]:
        """Return the files as a power cut may leave them now: ``none``, ``all``, ``some``, ``torn`` or ``prefix``."""
        steps = [self._durable_names, *self._steps]
        names = {"none": steps[0], "all": steps[-1]}.get(kind) or chance.choice(steps)
        return {name: self._content(body, chance, kind) for name, body in names.items() if name != "promises"}

    def pending(self) -> int:
        """Return how many writes a power cut could undo now."""
        return sum(len(body.pending) for body in self._names.values()) + len(self._steps)

    def _content(self, body: Body, chance: random.Random, kind: str) -> bytes:
        content = bytearray(body.durable)
        writes = body.pending
        if kind == "none":
            writes = []
        elif kind == "prefix":
            writes = writes[: chance.randint(0, len(writes))]
        for write in writes:
            if kind == "some" and chance.random() < 0.5:  # noqa: PLR2004 - lost or not
                continue
            for part in _sectors(write) if kind == "torn" else [write]:
                if kind != "torn" or chance.random() < 0.5:  # noqa: PLR2004 - lost or not
                    _apply(content, part)
        return bytes(content)

    # --- calls

    def _name(self, path: bytes) -> str | None:
        folder, _, name = path.decode().rpartition("/")
        return name if folder == self._folder and not name.endswith("-shm") else None

    def _on_openat(self, event: Event) -> bool:
        self._open.pop(event.result, None)
        if event.text.decode().rstrip("/") == self._folder:
            self._open[event.result] = ("", None)
            return False
        name = self._name(event.text)
        if name is None:
            return False
        made = name not in self._names
        if made:
            self._names[name] = Body()
            self._renamed()
        body = self._names[name]
        self._open[event.result] = (name, body)
        if "O_TRUNC" in event.words and not made:
            body.pending.append(Write(0, None))
        return made

    def _on_close(self, event: Event) -> bool:
        self._open.pop(event.numbers[0], None)
        return False

    def _on_write(self, event: Event) -> bool:
        name, body = self._open.get(event.numbers[0], ("", None))
        if body is None:
            return False
        if name == "promises":
            self.promises += event.text
            return True
        raise ValueError(f"{name} is written without an offset: the trace cannot say where")

    def _on_pwrite64(self, event: Event) -> bool:
        _, body = self._open.get(event.numbers[0], ("", None))
        if body is None:
            return False
        body.pending.append(Write(event.numbers[-1], event.text[: event.result]))
        return True

    def _on_ftruncate(self, event: Event) -> bool:
        _, body = self._open.get(event.numbers[0], ("", None))
        if body is None:
            return False
        body.pending.append(Write(event.numbers[-1], None))
        return True

    def _on_fsync(self, event: Event) -> bool:
        name, body = self._open.get(event.numbers[0], ("no file of ours", None))
        if body is not None:
            body.sync()
        elif name == "":
            self._durable_names = dict(self._names)
            self._steps.clear()
        else:
            return False
        return True

    _on_fdatasync = _on_fsync

    def _on_unlink(self, event: Event) -> bool:
        name = self._name(event.text)
        if name is None or self._names.pop(name, None) is None:
            return False
        self._renamed()
        return True

    _on_unlinkat = _on_unlink

    def _on_rename(self, event: Event) -> bool:
        name, to = self._name(event.text), self._name(event.other)
        if name is None or to is None:
            return False
        self._names[to] = self._names.pop(name)
        self._renamed()
        return True

    def _renamed(self) -> None:
        self._steps.append(dict(self._names))


def _apply(content: bytearray, write: Write) -> None:
    if write.data is None:
        if len(content) > write.offset:
            del content[write.offset :]
        else:
            content.extend(bytes(write.offset - len(content)))
        return
    if len(content) < write.offset:
        content.extend(bytes(write.offset - len(content)))
    content[write.offset : write.offset + len(write.data)] = write.data


def _sectors(write: Write) -> list[Write]:
    """Cut a write where sectors begin: each of them is written whole or not at all."""
    if write.data is None:
        return [write]
    parts, at = [], 0
    while at < len(write.data):
        size = SECTOR - (write.offset + at) % SECTOR
        parts.append(Write(write.offset + at, write.data[at : at + size]))
        at += size
    return parts
