"""Candidates: fused models that wait for the gate, one at a time."""

from __future__ import annotations

from contextlib import suppress

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import Candidate
from coldfusion_queue.store import Store

__all__ = ["Candidates"]


class Candidates:
    """Reads and writes the candidates of one repository.

    A candidate is for the next ledger entry and no other: any entry that is written in its place
    makes it void.
    """

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys

    def find(self, sequence: int) -> Candidate | None:
        """What the entry of a number would publish, or None."""
        key = self._keys.candidate(sequence)
        data = self._store.find(key)
        return None if data is None else Candidate.from_bytes(data, key)

    def is_waiting(self, sequence: int) -> bool:
        """Whether there is one, cheaply."""
        return self._store.stat(self._keys.candidate(sequence)) is not None

    def create(self, candidate: Candidate) -> bool:
        """Record a candidate whose files are uploaded; False if there is another one already."""
        key = self._keys.candidate(candidate.entry.sequence)
        return self._store.create(key, candidate.to_bytes())

    def drop(self, sequence: int) -> None:
        """Delete the record of one that was judged. Idempotent; garbage collection does it else."""
        with suppress(ColdFusionError):
            self._store.delete([self._keys.candidate(sequence)])
