from __future__ import annotations

import os
from pathlib import Path

import pytest

from coldfusion_queue.cache import LocalCache


def _writer(size: int, calls: list[Path] | None = None):
    def fill(directory: Path) -> None:
        (directory / "file").write_bytes(b"x" * size)
        if calls is not None:
            calls.append(directory)

    return fill


def test_an_entry_is_filled_once_and_found_again(tmp_path: Path) -> None:
    cache, calls = LocalCache(tmp_path / "cache", 1000), []

    for _ in range(2):
        with cache.entry("a", _writer(10, calls)) as path:
            assert (path / "file").read_bytes() == b"x" * 10

    assert len(calls) == 1


def test_a_fill_that_fails_leaves_no_entry(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)

    def fill(directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), cache.entry("a", fill):
        pass

    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
    with cache.entry("a", _writer(5)) as path:
        assert [item.name for item in path.iterdir()] == ["file"]


def test_the_least_recently_used_entry_goes_first(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 25)
    for age, name in enumerate(["old", "older"], start=1):
        with cache.entry(name, _writer(10)) as path:
            pass
        os.utime(path, (1000 - age, 1000 - age))

    with cache.entry("new", _writer(10)):
        pass

    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"old", "new"}


def test_an_entry_in_use_is_never_removed(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 0)

    with cache.entry("used", _writer(10)) as used:
        with cache.entry("other", _writer(10)):
            pass
        assert (used / "file").exists()

    assert not used.exists()


def test_an_entry_that_another_process_filled_meanwhile_is_taken(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)

    def slow(directory: Path) -> None:
        (directory / "file").write_bytes(b"ours")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_bytes(b"theirs")

    with cache.entry("a", slow) as path:
        assert (path / "file").read_bytes() == b"theirs"

    assert [item.name for item in tmp_path.iterdir() if item.is_dir()] == ["a"]
