"""Power cuts: nothing that the store promised is gone, whatever of the writes since the last sync is lost or torn.

The long form, with every prefix of the writes, is ``python -m benchmarks powercut``.
"""

import json
import pathlib
import random

import pytest

from benchmarks import powercut
from benchmarks._powercut_disk import Disk, Event


def test_whatever_a_power_cut_leaves_nothing_promised_is_gone(tmp_path: pathlib.Path) -> None:
    figures = powercut.measure(tmp_path, seed=20, steps=40, images=200, prefixes=False)
    assert not figures.faults
    assert figures.images >= 150
    assert figures.kept > figures.images * 0.8
    assert figures.torn > 40
    assert figures.checked_rows > 1000
    assert figures.promised_commands > 1


def test_a_store_without_syncs_would_be_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--careless", "--sample", "--images", "60", "--steps", "30", "--json"]
    assert powercut.main(arguments) == 1
    figures = json.loads(capsys.readouterr().out)
    assert not figures["ok"]
    assert any("is gone" in fault for fault in figures["faults"])


def test_the_disk_keeps_what_was_synced_and_tears_what_was_not(tmp_path: pathlib.Path) -> None:
    def call(name: str, *numbers: int, text: bytes = b"", result: int = 0) -> Event:
        return Event(name, text, b"", list(numbers), result, "")

    chance = random.Random(1)  # noqa: S311 - a seed
    disk = Disk(tmp_path)
    disk.feed(call("openat", text=str(tmp_path / "file").encode(), result=5))
    disk.feed(call("openat", text=str(tmp_path).encode(), result=6))
    assert disk.image(chance, "none") == {}
    disk.feed(call("pwrite64", 5, 4, 0, text=b"kept", result=4))
    disk.feed(call("fsync", 5))
    assert disk.image(chance, "none") == {}
    disk.feed(call("fsync", 6))
    disk.feed(call("pwrite64", 5, 2048, 0, text=b"x" * 2048, result=2048))
    assert disk.image(chance, "none") == {"file": b"kept"}
    torn = {disk.image(chance, "torn")["file"] for _ in range(40)}
    assert len(torn) > 10
    assert all(set(content) <= set(b"kept x\0") for content in torn)
    disk.feed(call("unlink", text=str(tmp_path / "file").encode()))
    assert disk.image(chance, "none") == {"file": b"kept"}
    disk.feed(call("fsync", 6))
    assert disk.image(chance, "all") == {}
