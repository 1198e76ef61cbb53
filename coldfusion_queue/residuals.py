"""What quantising cut off the last turn of each standing contributor, kept in the home directory.

``$COLDFUSION_HOME/residuals/<submission>/<turn>-<digest>`` belongs to the contribution of that turn
whose file has that digest. It is there before the contribution is committed. So a turn that is run
again after a crash begins with the residual of the turn before it, as the first attempt did, and
the next turn finds the residual of the attempt that was committed, not of another one.

A residual may be lost: the turns before lose what they could not send, and nothing else happens.
Hence nothing here raises, and a worker on another machine simply begins without one.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path

from coldfusion_queue.abandoned import remove_abandoned
from coldfusion_queue.names import new_attempt

__all__ = ["Residuals"]

log = logging.getLogger(__name__)


class Residuals:
    """The residuals on this machine.

    Args:
        directory: created when first needed; several workers may share it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, submission_id: str, turn: int, digest: str) -> Path | None:
        """The residual of a committed contribution.

        Args:
            submission_id: whose.
            turn: of the contribution.
            digest: sha256 of its shared parameters' file.
        """
        path = self._path(submission_id, turn, digest)
        if path.is_file():
            return path
        ids = {"event": "residual_missing", "submission": submission_id, "turn": turn}
        log.info("no residual of turn %s on this machine", turn, extra=ids)
        return None

    def keep(self, path: Path, submission_id: str, turn: int, digest: str) -> None:
        """Keep a residual, before its contribution is committed."""
        remove_abandoned(self._directory)
        target = self._path(submission_id, turn, digest)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{new_attempt()}")
            shutil.copyfile(path, partial)
            partial.replace(target)
        except OSError as error:
            ids = {"event": "residual_lost", "submission": submission_id, "turn": turn}
            log.warning("residual not kept: %s", error, extra=ids)

    def keep_only(self, submission_id: str, turn: int, digest: str) -> None:
        """Delete all of a submission's residuals but that of its newest contribution."""
        kept = self._path(submission_id, turn, digest)
        with suppress(OSError):
            for path in kept.parent.iterdir():
                if path != kept:
                    path.unlink(missing_ok=True)
            kept.parent.rmdir()  # refused unless it is empty, after a last turn

    def forget(self, submission_id: str) -> None:
        """Delete all residuals of a submission that ended."""
        shutil.rmtree(self._directory / submission_id, ignore_errors=True)

    def _path(self, submission_id: str, turn: int, digest: str) -> Path:
        return self._directory / submission_id / f"{turn:05d}-{digest}"
