"""The pages of a damaged SQLite file, read one by one: what SQLite itself refuses to open may still hold readings.

Nothing here writes. Every page stands for itself: no page is found through another one, so that a damaged page costs
its own rows and no others. The committed frames of a ``-wal`` beside the file lie over its pages, as SQLite would
have it. What a page holds is offered as records; whether a record means anything is judged by whoever asks.

Source: sqlite.org/fileformat2.html, sections 1.3 (header), 1.6 (B-tree pages), 2.1 (records), 4.1 and 4.2 (WAL).
"""

import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

PAGE_BYTES = 1024
"""Of every new store: a transaction costs the flash whole pages, and small ones less than half of SQLite's default."""

_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_SMALLEST, _LARGEST = 512, 65536
_WAL_HEADER, _FRAME_HEADER = 32, 24
_WAL_MAGIC = 0x377F0682
_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_MOST_PAYLOAD = 4 * 1024 * 1024
"""A record larger than this is none of ours: its length was damaged."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of the integers that a record's serial types 1 to 6 announce."""
_REAL, _ZERO, _ONE, _FIRST_BLOB = 7, 8, 9, 12
_VARINT_BYTES = 9

Column = int | float | str | bytes | None


class Record(NamedTuple):
    """One record: the rowid of a table's row (None in an index or a WITHOUT ROWID table), and its columns."""

    rowid: int | None
    columns: tuple[Column, ...]


class DamagedRecordError(Exception):
    """A record that does not hold together."""


class Pages:
    """The pages of one file and its write-ahead log, by number from 1."""

    def __init__(self, path: pathlib.Path) -> None:
        self._file = path.open("rb")
        self._wal = b""
        wal = path.with_name(path.name + "-wal")
        if wal.exists():
            self._wal = wal.read_bytes()
        self.size = self._page_size()
        length = path.stat().st_size
        self.damaged = 0
        """Pages and records seen so far that did not hold together."""
        self._frames, in_wal = self._committed()
        self.count = max(-(-length // self.size), in_wal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_of: object) -> None:
        self._file.close()

    def records(self) -> Iterator[Record]:
        """Return every record that can be read, page after page."""
        for number in range(1, self.count + 1):
            yield from self._records_of(self._page(number), _HEADER if number == 1 else 0)

    def _page_size(self) -> int:
        """Return the size of a page in bytes: from the log, else from the file, else the one that stores have."""
        header = self._file.read(_HEADER)
        candidates = []
        if header.startswith(_MAGIC) and len(header) == _HEADER:
            size = int.from_bytes(header[16:18], "big")
            candidates.append(_LARGEST if size == 1 else size)
        if len(self._wal) >= _WAL_HEADER:
            candidates.insert(0, int.from_bytes(self._wal[8:12], "big"))
        for size in candidates:
            if _SMALLEST <= size <= _LARGEST and not size & (size - 1):
                return size
        return PAGE_BYTES

    def _committed(self) -> tuple[dict[int, int], int]:
        """Return where in the log the newest committed version of each page lies, and how many pages there are."""
        if len(self._wal) < _WAL_HEADER:
            return {}, 0
        magic, _, size, _, *_ = struct.unpack(">8I", self._wal[:_WAL_HEADER])
        if magic & ~1 != _WAL_MAGIC or size != self.size:
            return {}, 0
        order = ">" if magic & 1 else "<"
        sums = _checksum(self._wal[:24], (0, 0), order)
        if sums != struct.unpack(">2I", self._wal[24:32]):
            return {}, 0
        committed: dict[int, int] = {}
        open_: dict[int, int] = {}
        pages, at = 0, _WAL_HEADER
        while at + _FRAME_HEADER + size <= len(self._wal):
            number, after_commit = struct.unpack(">2I", self._wal[at : at + 8])
            if self._wal[at + 8 : at + 16] != self._wal[16:24]:
                break
            sums = _checksum(self._wal[at : at + 8], sums, order)
            sums = _checksum(self._wal[at + _FRAME_HEADER : at + _FRAME_HEADER + size], sums, order)
            if sums != struct.unpack(">2I", self._wal[at + 16 : at + 24]):
                break
            open_[number] = at + _FRAME_HEADER
            if after_commit:
                committed |= open_
                open_.clear()
                pages = after_commit
            at += _FRAME_HEADER + size
        return committed, pages

    def _page(self, number: int) -> bytes:
        if number in self._frames:
            at = self._frames[number]
            return self._wal[at : at + self.size]
        self._file.seek((number - 1) * self.size)
        try:
            return self._file.read(self.size).ljust(self.size, b"\0")
        except OSError:
            # The medium itself does not give it any more.
            self.damaged += 1
            return bytes(self.size)

    def _records_of(self, page: bytes, start: int) -> Iterator[Record]:
        kind = page[start]
        if kind not in {_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR}:
            return
        cells = int.from_bytes(page[start + 3 : start + 5], "big")
        pointers = start + (12 if kind == _INDEX_INTERIOR else 8)
        for cell in range(cells):
            pointer = page[pointers + 2 * cell : pointers + 2 * cell + 2]
            try:
                yield self._record(page, int.from_bytes(pointer, "big"), kind)
            except (DamagedRecordError, IndexError, struct.error, UnicodeDecodeError):
                self.damaged += 1

    def _record(self, page: bytes, at: int, kind: int) -> Record:
        if kind == _INDEX_INTERIOR:
            at += 4
        length, at = _varint(page, at)
        rowid = None
        if kind == _TABLE_LEAF:
            rowid, at = _varint(page, at)
            rowid -= (rowid >> 63) << 64
        if not 0 < length <= _MOST_PAYLOAD:
            raise DamagedRecordError(f"a record of {length} bytes")
        return Record(rowid, _columns(self._payload(page, at, length, in_table=kind == _TABLE_LEAF)))

    def _payload(self, page: bytes, at: int, length: int, *, in_table: bool) -> bytes:
        """Return a record's bytes, those on overflow pages included."""
        most = self.size - 35 if in_table else (self.size - 12) * 64 // 255 - 23
        if length <= most:
            local = length
        else:
            least = (self.size - 12) * 32 // 255 - 23
            local = least + (length - least) % (self.size - 4)
            local = local if local <= most else least
        payload = bytearray(page[at : at + local])
        following = int.from_bytes(page[at + local : at + local + 4], "big") if local < length else 0
        while len(payload) < length and 0 < following <= self.count:
            page = self._page(following)
            following = int.from_bytes(page[:4], "big")
            payload += page[4 : 4 + length - len(payload)]
        if len(payload) != length:
            raise DamagedRecordError("a record ends before its length")
        return bytes(payload)


def _columns(payload: bytes) -> tuple[Column, ...]:
    end, at = _varint(payload, 0)
    if end > len(payload):
        raise DamagedRecordError("a record's header is longer than the record")
    body, columns = end, list[Column]()
    while at < end:
        kind, at = _varint(payload, at)
        width = _INTEGERS.get(kind, 0)
        if kind == _REAL:
            width = 8
        elif kind >= _FIRST_BLOB:
            width = (kind - _FIRST_BLOB) // 2
        field = payload[body : body + width]
        if len(field) != width:
            raise DamagedRecordError("a column ends behind its record")
        body += width
        columns.append(_column(kind, field))
    return tuple(columns)


def _column(kind: int, field: bytes) -> Column:
    if kind == 0:
        return None
    if kind in _INTEGERS:
        return int.from_bytes(field, "big", signed=True)
    if kind == _REAL:
        (real,) = struct.unpack(">d", field)
        return float(real)
    if kind in {_ZERO, _ONE}:
        return kind - _ZERO
    if kind < _FIRST_BLOB:
        raise DamagedRecordError(f"a column of the reserved type {kind}")
    return field.decode() if kind % 2 else field


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    last = at + _VARINT_BYTES - 1
    while at < last:
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, at
    # The ninth byte counts whole, and always ends it.
    return value << 8 | data[last], last + 1


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """Add to the log's running checksum; section 4.2."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
