"""A full disk, however a library says it."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coldfusion_queue.errors import ColdFusionError, DiskFullError

__all__ = ["disk_errors", "is_disk_full"]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SAFETENSORS_TEXT = f"os error {errno.ENOSPC}"


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        # What safetensors raises is no OSError and has the number in its text alone.
        if type(error).__name__ == "SafetensorError" and _SAFETENSORS_TEXT in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_errors(path: Path | None = None, variable: str = "TMPDIR") -> Iterator[None]:
    """Turn "no space left" into an error of ours.

    Args:
        path: the directory that is written to, for the message. None takes what the error names,
            and tells the temporary directory from ``COLDFUSION_HOME`` by it.
        variable: what names another place, if ``path`` is given.

    Raises:
        DiskFullError: the disk, or the quota on it, is full.
    """
    try:
        yield
    except ColdFusionError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        if path is not None:
            raise DiskFullError(str(path), variable) from error
        temporary = tempfile.gettempdir()
        place = str(getattr(error, "filename", None) or temporary)
        named = "TMPDIR" if place.startswith(temporary) else "COLDFUSION_HOME"
        raise DiskFullError(place, named) from error
