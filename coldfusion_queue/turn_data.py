"""The data of a turn on this machine: an uploaded dataset, or a site's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.records import DatasetRecord, Submission
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["TurnData", "turn_data", "uploaded_data"]


@dataclass(frozen=True)
class TurnData:
    """What a turn is finetuned on."""

    record: DatasetRecord
    splits: Mapping[str, Path]
    """Parquet file of each split."""
    cache: LocalCache
    """Where its tokens are kept."""
    fits_last_head: bool = True
    """Whether the outputs of the last turn's head mean the same as those of this turn's."""


@contextmanager
def turn_data(
    repository: Repository, settings: Settings, cache: LocalCache, submission: Submission, turn: int
) -> Iterator[TurnData]:
    """The data of a submission, for the time of the context.

    Raises:
        NotFoundError: the submission has no data, or this machine is not at its site.
        ColdFusionError: of store, intake or disk.
    """
    if submission.site_data is None:
        if submission.dataset_id is None:
            remedy = "only 'coldfusion-submit' makes submissions with data"
            raise NotFoundError("dataset of submission", submission.submission_id, remedy)
        with uploaded_data(repository, cache, submission.dataset_id) as data:
            yield data
        return
    from coldfusion_queue.sites.preparing import prepared_data

    with prepared_data(settings, submission.site_data, submission.submission_id, turn) as found:
        own_cache = LocalCache(found.directory / "cache", settings.cache_bytes)
        yield TurnData(found.record, found.splits, own_cache, not found.has_other_labels)


@contextmanager
def uploaded_data(repository: Repository, cache: LocalCache, dataset_id: str) -> Iterator[TurnData]:
    """An uploaded dataset, downloaded if it is not on this machine, for the time of the context.

    Raises:
        NotFoundError: there is no such dataset.
        ColdFusionError: of store or disk.
    """
    from coldfusion_queue.intake.download import download_dataset, read_dataset_record

    record = read_dataset_record(repository.store, repository.keys, dataset_id)

    def fill(directory: Path) -> None:
        download_dataset(repository.store, record, directory)

    with cache.entry(f"dataset-{record.dataset_id}", fill) as path:
        files = {split: path / f"{split}.parquet" for split in record.splits}
        yield TurnData(record, files, cache)
