"""Commit of a finetune: upload under an attempt of its own, marker, record.

Each step is one function here, in the order in which they happen; ``docs/protocol.md`` says what
a crash after each of them leaves behind and what recovers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import ColdFusionError, InvalidRecordError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.names import new_attempt
from coldfusion_queue.records import Contribution, Decision, FileRecord, Inspection, Override
from coldfusion_queue.store import Store

__all__ = ["HEAD_FILE", "SHARED_FILE", "Contributions"]

SHARED_FILE = "shared.safetensors"
HEAD_FILE = "head.safetensors"


class Contributions:
    """Reads and commits the contributions of one repository."""

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys

    def find(self, contribution_id: str) -> Contribution | None:
        """The record of a committed contribution, or None if it is not committed."""
        key = self._keys.contribution(contribution_id)
        data = self._store.find(key)
        if data is None:
            return None
        found = Contribution.from_bytes(data, key)
        if found.contribution_id != contribution_id:
            # Decided under another id, this one would stay pending and be fused again and again.
            problem = f"contribution_id: got {found.contribution_id}, expected {contribution_id}"
            raise InvalidRecordError(key, "Contribution", problem)
        return found

    def decision(self, contribution_id: str) -> Decision | None:
        """What became of a contribution, or None while it is pending."""
        key = self._keys.decision(contribution_id)
        data = self._store.find(key)
        return None if data is None else Decision.from_bytes(data, key)

    def inspection(self, contribution_id: str) -> Inspection | None:
        """What was found when a contribution was inspected, or None if it was not."""
        key = self._keys.inspection(contribution_id)
        data = self._store.find(key)
        return None if data is None else Inspection.from_bytes(data, key)

    def override(self, contribution_id: str) -> Override | None:
        """An operator's word that a contribution may pass the policy's limits, or None."""
        key = self._keys.override(contribution_id)
        data = self._store.find(key)
        return None if data is None else Override.from_bytes(data, key)

    def upload(
        self,
        contribution_id: str,
        files: Mapping[str, Path],
        progress: Callable[[int], None] | None = None,
    ) -> tuple[str, dict[str, FileRecord]]:
        """Step 1: upload files under a new attempt; nobody looks at them yet.

        When it fails or is interrupted, what was uploaded is deleted.

        Returns:
            The attempt and a record of each file.
        """
        attempt = new_attempt()
        records: dict[str, FileRecord] = {}
        try:
            for name, path in files.items():
                key = self._keys.attempt_file(contribution_id, attempt, name)
                records[name] = self._store.put_file(key, path, progress)
        except BaseException:
            with suppress(ColdFusionError):  # what went wrong first is what is told
                self._store.delete(record.key for record in records.values())
            raise
        reach(CrashPoint.COMMIT_UPLOADED)
        return attempt, records

    def commit(self, contribution: Contribution) -> bool:
        """Steps 2 and 3: create the inbox marker, then the record, which is the commit point.

        The marker comes first: a contribution without a marker would never be found, while a
        marker without a contribution is passed over.

        Idempotent: of several attempts at one contribution the first stays; the files of the
        others are deleted.

        Returns:
            Whether this attempt is the committed one.
        """
        name = contribution.contribution_id
        self._store.create(self._keys.inbox_marker(name), b"")
        reach(CrashPoint.COMMIT_MARKED)
        won = self._store.create(self._keys.contribution(name), contribution.to_bytes())
        reach(CrashPoint.COMMIT_RECORDED if won else CrashPoint.COMMIT_LOST)
        if not won:
            self.discard(contribution)
        return won

    def discard(self, contribution: Contribution) -> None:
        """Delete the files of an attempt that lost."""
        files = [contribution.shared, contribution.head]
        self._store.delete(file.key for file in files if file is not None)
