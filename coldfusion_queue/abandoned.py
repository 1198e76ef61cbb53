"""What submissions left on this machine that ended on another one, or never."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_abandoned"]

#: Seconds without a turn here.
_ABANDONED_SECONDS = 30 * 24 * 3600


def remove_abandoned(directory: Path) -> None:
    """Remove what nobody has added to for thirty days; what cannot be removed stays.

    Args:
        directory: holds a directory of each submission.
    """
    with suppress(OSError):
        for entry in os.scandir(directory):
            if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)
