"""Key files: made once, readable by their owner only, never shown."""

import pathlib
import stat

import pytest

from agent.keys import KeyFileError, load_key, load_or_make_key, make_key


def test_a_key_is_made_once_and_found_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "agent.key"
    key = load_or_make_key(path)
    assert load_or_make_key(path).public == key.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.seed.hex() not in repr(key)
    assert [entry.name for entry in path.parent.iterdir()] == ["agent.key"]


def test_an_existing_file_is_not_overwritten(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.key"
    public = make_key(path).public
    with pytest.raises(KeyFileError, match="exists already"):
        make_key(path)
    assert load_key(path).public == public


def test_a_raw_seed_is_a_key_too_and_anything_else_is_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "caller.key"
    path.write_bytes(bytes(range(200, 232)))
    assert load_key(path).seed == bytes(range(200, 232))
    path.write_text("feed" * 15)
    with pytest.raises(KeyFileError) as raised:
        load_key(path)
    assert "feed" not in str(raised.value)
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_key(tmp_path / "absent")
