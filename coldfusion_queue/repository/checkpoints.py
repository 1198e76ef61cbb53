"""Checkpoints of finetunes: uploaded under an attempt, then recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import ColdFusionError, InvalidRecordError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.names import actor, new_attempt
from coldfusion_queue.records import BaseVersion, Checkpoint, FileRecord
from coldfusion_queue.store import Store

__all__ = ["Checkpoints"]

log = logging.getLogger(__name__)

_RECORD = "/checkpoint.json"
_NUM_KEPT = 2


class Checkpoints:
    """Reads and writes the checkpoints of one repository's turns."""

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys

    def save(
        self,
        contribution_id: str,
        path: Path,
        *,
        base: BaseVersion,
        step: int,
        num_steps: int,
        previous_head: str | None = None,
    ) -> Checkpoint:
        """Upload a training state, then create its record, which is the commit point.

        When the upload fails or is interrupted, what was uploaded is deleted. Each call makes a
        checkpoint of its own; earlier ones of the turn stay until they are deleted.

        Args:
            contribution_id: of the turn.
            path: what ``finetune.checkpoint`` wrote.
            base: version that the finetune started from.
            step: optimizer steps done.
            num_steps: optimizer steps of the whole finetune.
            previous_head: contribution whose head the finetune was given.
        """
        attempt = new_attempt()
        file = self._upload(self._keys.checkpoint_file(contribution_id, attempt), path)
        reach(CrashPoint.CHECKPOINT_UPLOADED)
        checkpoint = Checkpoint(
            contribution_id=contribution_id,
            attempt=attempt,
            base_version=base.version,
            base_digest=base.digest,
            step=step,
            num_steps=num_steps,
            previous_head=previous_head,
            file=file,
            created_at=datetime.now(UTC),
            created_by=actor(),
        )
        key = self._keys.checkpoint(contribution_id, attempt)
        self._store.create(key, checkpoint.to_bytes())
        reach(CrashPoint.CHECKPOINT_RECORDED)
        return checkpoint

    def newest(self, contribution_id: str) -> Checkpoint | None:
        """The checkpoint of a turn with the most steps, or None if it has none; see ``all``."""
        return next(iter(self.all(contribution_id)), None)

    def all(self, contribution_id: str) -> list[Checkpoint]:
        """The checkpoints of a turn, the one with the most steps first.

        One whose record cannot be read is logged and passed over.
        """
        found = list(self._readable(contribution_id))
        found.sort(key=lambda item: (item.step, item.created_at, item.attempt), reverse=True)
        return found

    def download(self, checkpoint: Checkpoint, path: Path) -> None:
        """Fetch the tensors of a checkpoint into a local file, the digest checked.

        Raises:
            NotFoundError: the turn ended meanwhile, and its checkpoints with it.
            DigestMismatchError: the bytes are not the recorded ones.
        """
        self._store.download(checkpoint.file, path)

    def delete(self, contribution_id: str) -> None:
        """Delete all checkpoints of a turn: records first, so that none names what is gone.

        Idempotent: what is not there counts as deleted.
        """
        keys = [item.key for item in self._store.list(self._keys.checkpoints(contribution_id))]
        self._store.delete([key for key in keys if key.endswith(_RECORD)])
        self._store.delete([key for key in keys if not key.endswith(_RECORD)])

    def delete_older(self, contribution_id: str) -> None:
        """Delete the checkpoints of a turn but for two, those with the most steps.

        The second one serves should the first be damaged. Idempotent: what is not there counts as
        deleted.
        """
        for item in self.all(contribution_id)[_NUM_KEPT:]:
            self.delete_one(item)

    def delete_one(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint, its record first. Idempotent: what is not there is deleted."""
        key = self._keys.checkpoint(checkpoint.contribution_id, checkpoint.attempt)
        self._store.delete([key])
        self._store.delete([checkpoint.file.key])

    def _upload(self, key: str, path: Path) -> FileRecord:
        try:
            return self._store.put_file(key, path)
        except BaseException:
            with suppress(ColdFusionError):  # what went wrong first is what is told
                self._store.delete([key])
            raise

    def _readable(self, contribution_id: str) -> Iterator[Checkpoint]:
        for item in list(self._store.list(self._keys.checkpoints(contribution_id))):
            data = self._store.find(item.key) if item.key.endswith(_RECORD) else None
            if data is None:  # tensors, or deleted since they were listed
                continue
            try:
                yield Checkpoint.from_bytes(data, item.key)
            except InvalidRecordError as error:
                ids = {"contribution": contribution_id}
                event = {"event": "checkpoint_unreadable"}
                log.warning("checkpoint passed over: %s", error, extra=event | ids)
