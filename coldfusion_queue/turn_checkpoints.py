"""The checkpoints of one turn: where it goes on from, and what it leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.errors import (
    ColdFusionError,
    DigestMismatchError,
    IncompatibleModelError,
    InvalidRecordError,
    InvalidTensorFileError,
    NotFoundError,
)
from coldfusion_queue.records import BaseVersion, Checkpoint
from coldfusion_queue.repository.repository import Repository

if TYPE_CHECKING:
    from coldfusion_queue.finetune.training import FinetuneInterrupted

__all__ = ["UNUSABLE", "KeepCheckpoint", "TurnCheckpoints"]

log = logging.getLogger(__name__)

#: What is wrong with a checkpoint, or with the base version that it is of.
UNUSABLE = (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidRecordError,
    InvalidTensorFileError,
    NotFoundError,
)

#: Saves a state: its file, its step, the number of steps.
KeepCheckpoint = Callable[[Path, int, int], Checkpoint]


@dataclass(frozen=True)
class TurnCheckpoints:
    """Reads and writes them for one attempt at the turn."""

    repository: Repository
    name: str
    """Id of the turn's contribution."""
    is_private: bool
    """Of private data none are made: a state holds averages of the last gradients, from which
    texts can be told."""

    def base_of(self, checkpoint: Checkpoint) -> BaseVersion:
        """The base version that a checkpoint's finetune started from.

        Raises:
            NotFoundError: it is gone.
            DigestMismatchError: it is not the recorded one.
        """
        base = self.repository.ledger.base_version(checkpoint.base_version)
        if base.digest != checkpoint.base_digest:
            what = f"base version {base.version} of checkpoint {checkpoint.attempt}"
            raise DigestMismatchError(what, base.digest, checkpoint.base_digest)
        return base

    def fetch(self, checkpoint: Checkpoint | None, directory: Path) -> Path | None:
        """Fetch the file of a checkpoint to go on from, if there is one; returns its path."""
        if checkpoint is None:
            return None
        path = directory / "start.safetensors"
        self.repository.checkpoints.download(checkpoint, path)
        ids = {"contribution": self.name, "step": checkpoint.step}
        log.info("turn resumed", extra={"event": "turn_resumed", **ids})
        return path

    def pass_over(self, checkpoint: Checkpoint, error: ColdFusionError) -> None:
        """Log why a checkpoint is of no use, and delete it.

        It may have more steps than the next ones, of which those with the most are kept.
        """
        ids = {"contribution": self.name, "step": checkpoint.step}
        event = {"event": "checkpoint_unusable"}
        log.warning("checkpoint passed over: %s", error, extra=event | ids)
        with suppress(ColdFusionError):
            self.repository.checkpoints.delete_one(checkpoint)

    def keeper(self, base: BaseVersion, head_of: str | None) -> KeepCheckpoint | None:
        """What saves a state, and deletes those with fewer steps but for one; None of private data.

        Args:
            base: version that the finetune started from.
            head_of: contribution whose head it began with.
        """
        checkpoints = self.repository.checkpoints

        def keep(path: Path, step: int, num_steps: int) -> Checkpoint:
            kept = checkpoints.save(
                self.name,
                path,
                base=base,
                step=step,
                num_steps=num_steps,
                previous_head=head_of,
            )
            with suppress(ColdFusionError):  # they are deleted with the turn's others at its end
                checkpoints.delete_older(self.name)
            return kept

        return None if self.is_private else keep

    def save(
        self,
        interruption: FinetuneInterrupted,
        keep: KeepCheckpoint | None,
        last: Checkpoint | None,
    ) -> Checkpoint | None:
        """Save the state of an interrupted finetune.

        Returns:
            The checkpoint that the next attempt goes on from: without the store the last one.
        """
        if keep is None or interruption.path is None:
            return None
        try:
            return keep(interruption.path, interruption.step, interruption.num_steps)
        except ColdFusionError as error:
            event = {"event": "checkpoint_lost"}
            ids = {"contribution": self.name, "step": interruption.step}
            log.warning("checkpoint not saved: %s", error, extra=event | ids)
            return last
