"""Directories on this machine, keyed by digest: base versions and datasets.

Processes share the cache: an entry appears whole under its name or not at all, and while one
process uses it no other removes it (a shared ``flock``, which the kernel drops with the process).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LocalCache"]


_PARTIAL = ".partial-"
_ABANDONED_SECONDS = 24 * 3600


class LocalCache:
    """A directory of entries with a limit on their total size.

    Args:
        directory: created when first needed.
        limit_bytes: what the entries may take together; those in use stay beyond it.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory = directory
        self._limit_bytes = limit_bytes

    @contextmanager
    def entry(self, name: str, fill: Callable[[Path], None]) -> Iterator[Path]:
        """A directory that holds an entry's files, for the time of the context.

        Args:
            name: names the content: the same name always means the same files.
            fill: called with an empty directory when the entry is not there yet; what it raises
                leaves no entry.

        Raises:
            OSError: the disk is full or not writable.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._lock(name, fcntl.LOCK_SH):
            path = self.directory / name
            if not path.is_dir():
                self._fill(path, fill)
            os.utime(path)
            yield path
        self._shrink()

    def _fill(self, path: Path, fill: Callable[[Path], None]) -> None:
        partial = Path(tempfile.mkdtemp(dir=self.directory, prefix=_PARTIAL))
        try:
            fill(partial)
            partial.chmod(0o755)
            try:
                partial.rename(path)
            except OSError:
                if not path.is_dir():  # else another process was faster: its files are the same
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _shrink(self) -> None:
        """Remove the least recently used entries beyond the limit, and what dead fillers left.

        Other processes fill and shrink at the same time, so anything may vanish under our eyes;
        that must never become the error of a finetune that is done.
        """
        now = time.time()
        entries: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir():
            with suppress(OSError):
                modified = path.stat().st_mtime
                if path.name.startswith(_PARTIAL) and now - modified > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
                elif path.is_dir() and not path.name.startswith("."):
                    entries.append((modified, _num_bytes(path), path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._limit_bytes:
                return
            if self._remove(path):
                total -= size

    def _remove(self, path: Path) -> bool:
        try:
            with self._lock(path.name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                doomed = path.with_name(f"{_PARTIAL}doomed-{path.name}")
                path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
        except OSError:
            return False  # in use, or another process removes it
        return True

    @contextmanager
    def _lock(self, name: str, operation: int) -> Iterator[None]:
        with (self.directory / f".{name}.lock").open("w") as file:
            fcntl.flock(file, operation)
            yield


def _num_bytes(path: Path) -> int:
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
