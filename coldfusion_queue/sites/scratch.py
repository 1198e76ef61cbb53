"""Directories for private data while a turn runs: for their owner's eyes, and gone with the turn.

A process that dies leaves its directory; whoever opens the next one deletes it, because the kernel
drops the lock (``flock``) of a dead process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["scratch_directory"]

_PREFIX = "turn-"


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A directory of this process alone, for the time of the context.

    Args:
        parent: made for its owner alone if it is not there; several workers may share it.

    Raises:
        OSError: it cannot be written to, or the disk is full.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        with _locked(parent, fcntl.LOCK_EX):  # so that nobody deletes what is not locked yet
            _delete_abandoned(parent)
            path = Path(tempfile.mkdtemp(dir=parent, prefix=_PREFIX))
            stack.enter_context(_locked(path, fcntl.LOCK_EX))
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def _delete_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # in use, or just gone
            continue


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)
