"""Names of the classes of private data, remembered from turn to turn on the site's own disk.

The head of a submission goes on from turn to turn, and its outputs are the classes in the order of
their names. The names stay here, so only here can it be known that the data has other classes now.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from coldfusion_queue.abandoned import remove_abandoned
from coldfusion_queue.names import new_attempt

__all__ = ["SiteLabels"]


class SiteLabels:
    """The class names that turns of submissions had on this machine.

    It may be lost, or be on another machine of the site: then a change of the names is not noticed,
    unless their number changes.

    Args:
        directory: made for its owner alone when first needed; several workers may share it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, submission_id: str, turn: int, names: Sequence[str]) -> None:
        """Remember the names of a turn; those of the turn before stay, in case it is run again.

        Raises:
            OSError: the disk is full or not writable.
        """
        remove_abandoned(self._directory)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(submission_id, turn)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{new_attempt()}")
        partial.write_text(json.dumps(list(names), ensure_ascii=False), encoding="utf-8")
        partial.replace(path)
        self._path(submission_id, turn - 2).unlink(missing_ok=True)

    def find(self, submission_id: str, turn: int) -> tuple[str, ...] | None:
        """The names that a turn had here; None if that is not known."""
        with suppress(OSError, ValueError):
            text = self._path(submission_id, turn).read_text(encoding="utf-8")
            return tuple(str(name) for name in json.loads(text))
        return None

    def forget(self, submission_id: str) -> None:
        """Delete the names of a submission that ended."""
        shutil.rmtree(self._directory / submission_id, ignore_errors=True)

    def _path(self, submission_id: str, turn: int) -> Path:
        return self._directory / submission_id / f"{turn:05d}.json"
