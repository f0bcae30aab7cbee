"""The hub's key is made once, kept from other eyes, and its file's content is never repeated in a message."""

import pathlib
import stat

import pytest
import structlog

from hub.keys import KeyFileError, open_key, read_key
from protocol.envelopes import fingerprint


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data" / "hub.key"
    first = open_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_key(path).public == first.public
    assert [entry.name for entry in path.parent.iterdir()] == ["hub.key"]


def test_the_fingerprint_that_gateways_may_be_given_is_said_at_every_start(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with structlog.testing.capture_logs() as told:
            key = open_key(tmp_path / "hub.key")
        shown = [entry["fingerprint"] for entry in told if entry["event"] == "hub_key_opened"]
        assert shown == [fingerprint(key.public)]


def test_a_missing_or_broken_file_is_named_and_not_quoted(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyFileError, match=r"hub\.key cannot be read"):
        read_key(tmp_path / "hub.key")
    (tmp_path / "hub.key").write_text("5ec7e7" * 3)
    with pytest.raises(KeyFileError, match="does not hold 64 hex digits") as caught:
        open_key(tmp_path / "hub.key")
    assert "5ec7e7" not in str(caught.value)
    assert (tmp_path / "hub.key").read_text() == "5ec7e7" * 3
