"""What people call datasets: as who submitted them, as far as that costs little."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import LedgerEntry, Submission
from coldfusion_queue.repository.repository import Repository

__all__ = ["DatasetNames"]

_NUM_THREADS = 16
#: Submissions that are read for the sake of names, at most.
_FEW = 256


class DatasetNames:
    """Remembers who submitted which dataset; nothing is asked for twice."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._names: dict[str, str] = {}
        self._has_looked = False

    def learn(self, submissions: Iterable[Submission], entries: Iterable[LedgerEntry]) -> None:
        """Take names from what was read anyway."""
        for item in submissions:
            if item.dataset_id is not None:
                self._names.setdefault(item.dataset_id, item.contributor_id)
        for line in (line for entry in entries for line in entry.after.base.fused):
            if line.dataset_id is not None:
                self._names.setdefault(line.dataset_id, line.contributor_id)

    def name(self, dataset_id: str) -> str:
        """The contributor's name, or the id itself.

        An unknown one is looked for once among all submissions, if they are few.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if dataset_id not in self._names and ":" not in dataset_id and not self._has_looked:
            self._look()
        return self._names.get(dataset_id, dataset_id)

    def _look(self) -> None:
        self._has_looked = True
        store, keys = self._repository.store, self._repository.keys
        folders = list(islice(store.list(keys.submissions, recursive=False), _FEW + 1))
        if len(folders) > _FEW:
            return
        names = [item.key.rstrip("/").rpartition("/")[2] for item in folders]
        with ThreadPoolExecutor(_NUM_THREADS, "submissions") as threads:
            found = list(threads.map(self._find, names))
        self.learn((item for item in found if item is not None), ())

    def _find(self, name: str) -> Submission | None:
        try:
            return self._repository.submissions.find(name)
        except InvalidRecordError:  # a name is not worth an error
            return None
