"""Datasets in the store, and what was committed of a submission."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.records import Contribution, Submission
from coldfusion_queue.repository.repository import Repository
from tests.rows import rows, write_rows

__all__ = ["committed", "upload_rows"]


def upload_rows(
    repository: Repository,
    directory: Path,
    kind: str = "single",
    splits: Sequence[str] = ("train",),
) -> str:
    """Upload made up examples, see ``rows``; ``directory`` is there. Returns the dataset's id."""
    data, work_dir = directory / "data" / kind, directory / "prepared" / kind
    for each in (data, work_dir):
        each.mkdir(parents=True, exist_ok=True)
    for split in splits:
        write_rows(data / f"{split}.jsonl", rows(kind))
    prepared = prepare_dataset(str(data), work_dir=work_dir)
    return upload_dataset(repository.store, repository.keys, prepared).dataset_id


def committed(repository: Repository, submission: Submission, turn: int = 1) -> Contribution:
    """What a turn of a submission contributed, which has to be there."""
    found = repository.contributions.find(f"{submission.submission_id}.t{turn:05d}")
    assert found is not None
    return found
