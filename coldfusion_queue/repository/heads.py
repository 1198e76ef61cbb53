"""Heads: which one is the newest of a contributor and dataset, found by markers.

A head is a file of its contribution. A marker is a hint where to look: the head that it names is
there, because heads are not collected, but a newer one may have no marker yet.
"""

from __future__ import annotations

import logging

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import Contribution, Submission
from coldfusion_queue.repository.committing import Contributions
from coldfusion_queue.store import Store

__all__ = ["Heads"]

log = logging.getLogger(__name__)


class Heads:
    """The markers of heads of one repository."""

    def __init__(self, store: Store, keys: ObjectKeys, contributions: Contributions) -> None:
        self._store = store
        self._keys = keys
        self._contributions = contributions

    def mark(self, submission: Submission, contribution_id: str, base_version: int) -> None:
        """Say that a committed contribution of a submission has a head.

        Idempotent. Older markers are left to garbage collection.

        Args:
            submission: whose contribution it is.
            contribution_id: of the contribution.
            base_version: that it was finetuned from.
        """
        if submission.task is not None:
            owner = submission.contributor_id, submission.task
            self._store.create(self._keys.head_marker(*owner, base_version, contribution_id), b"")

    def newest(self, submission: Submission) -> Contribution | None:
        """The contribution with the newest head that fits a submission, or None if there is none.

        Newest is what began with the newest base version, whatever became of the contribution: that
        is decided later than the next turn begins, and says nothing of the head, which is not
        fused. Costs one listing, of what was marked since the last collection of garbage.
        """
        if submission.task is None:
            return None
        prefix = self._keys.heads(submission.contributor_id, submission.task)
        for marker in reversed(list(self._store.list(prefix))):
            name = marker.key.removeprefix(prefix).partition("-")[2]
            try:
                found = self._contributions.find(name)
            except InvalidRecordError as error:
                log.warning("passed over: %s", error, extra={"event": "record_unreadable"})
                continue
            if found is not None and found.head is not None:
                return found
        return None
