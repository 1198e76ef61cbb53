"""Datasets by the names that people know them by: those of their contributors."""

from __future__ import annotations

import re

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.records import Submission
from coldfusion_queue.repository.repository import Repository

__all__ = ["dataset_names", "find_dataset"]

_DATASET_ID = re.compile(r"[0-9a-f]{32}")


def find_dataset(repository: Repository, name: str) -> str:
    """The id of an uploaded dataset.

    Args:
        repository: where.
        name: the id itself, or who submitted it; of several datasets of one contributor the one
            that was submitted last.

    Raises:
        NotFoundError: there is no such dataset.
    """
    keys = repository.keys
    if _DATASET_ID.fullmatch(name) and repository.store.stat(keys.dataset(name)) is not None:
        return name
    found = [item for item in _submissions(repository, name) if item.dataset_id is not None]
    if not found:
        remedy = "give its id or who submitted it; 'coldfusion-submit DATA --held-out' uploads one"
        raise NotFoundError("dataset", name, remedy)
    return str(max(found, key=lambda item: item.created_at).dataset_id)


def dataset_names(repository: Repository) -> dict[str, str]:
    """Who submitted each dataset first, by the dataset's id. Reads every submission."""
    names: dict[str, str] = {}
    for item in sorted(repository.submissions.all(), key=lambda item: item.created_at):
        if item.dataset_id is not None:
            names.setdefault(item.dataset_id, item.contributor_id)
    return names


def _submissions(repository: Repository, contributor_id: str) -> list[Submission]:
    start = f"{repository.keys.submissions}{contributor_id}-"
    folders = repository.store.list(start, recursive=False)
    names = [folder.key.rstrip("/").rpartition("/")[2] for folder in folders]
    found = [repository.submissions.find(name) for name in names]
    return [item for item in found if item is not None and item.contributor_id == contributor_id]
