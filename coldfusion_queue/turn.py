"""One turn of a submission: base model down, finetune, contribution up, commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.names import actor, contribution_id
from coldfusion_queue.records import BaseVersion, Contribution, DatasetRecord, Submission
from coldfusion_queue.repository.committing import HEAD_FILE, SHARED_FILE
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

if TYPE_CHECKING:
    from coldfusion_queue.finetune.run import FinetuneResult
    from coldfusion_queue.finetune.training import Progress

__all__ = ["Phase", "TurnOutcome", "run_turn"]


class Phase(StrEnum):
    """What a running turn is doing."""

    #: Base version and dataset are being fetched.
    DOWNLOADING = "downloading"
    #: The body and the head are being trained.
    TRAINING = "training"
    #: The contribution is being uploaded and committed.
    UPLOADING = "uploading"


@dataclass(frozen=True)
class TurnOutcome:
    """How a turn ended."""

    contribution_id: str
    committed: bool
    """Whether this attempt is the committed one; False if the turn had been done before."""
    base_version: int


Report = Callable[[Phase, int, "Progress | None"], None]


def run_turn(
    repository: Repository, settings: Settings, submission: Submission, turn: int, report: Report
) -> TurnOutcome:
    """Finetune the newest base version on a submission's dataset and commit the contribution.

    Idempotent: a turn that is committed is left alone; of two attempts at once, one is committed
    and the other's files are deleted.
    Writes: see ``repository.committing``.

    Args:
        repository: where.
        settings: device, cache, form of the contribution.
        submission: what to finetune on.
        turn: which of its turns, from 1.
        report: told the phase, the base version and, while training, the progress; what it raises
            ends the turn before anything is committed.

    Raises:
        ColdFusionError: of store, finetune or data; nothing is committed then.
    """
    name = contribution_id(submission.submission_id, turn)
    done = repository.contributions.find(name)
    if done is not None:
        return TurnOutcome(name, committed=False, base_version=done.base_version)
    with disk_errors(), tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
        this = _Turn(submission, turn, repository.ledger.base_version(), Path(work_dir))
        version = this.base.version
        report(Phase.DOWNLOADING, version, None)
        result, dataset = _finetune(
            repository,
            settings,
            this,
            lambda progress: report(Phase.TRAINING, version, progress),
        )
        report(Phase.UPLOADING, version, None)
        contribution = _upload(repository, settings, this, result, dataset)
    committed = repository.contributions.commit(contribution)
    return TurnOutcome(name, committed, version)


@dataclass(frozen=True)
class _Turn:
    submission: Submission
    number: int
    base: BaseVersion
    work_dir: Path


def _finetune(
    repository: Repository,
    settings: Settings,
    turn: _Turn,
    report: Callable[[Progress], None],
) -> tuple[FinetuneResult, DatasetRecord]:
    # torch and transformers are loaded here, in the pool's child, never in the worker's parent:
    # a CUDA context does not survive a fork.
    from coldfusion_queue.finetune.run import FinetuneRequest, finetune

    cache = LocalCache(settings.cache_dir, settings.cache_bytes)
    with (
        repository.base_versions.cached(turn.base, cache) as base_dir,
        _cached_dataset(repository, cache, turn.submission) as (dataset, splits),
    ):
        request = FinetuneRequest(
            base_dir=base_dir,
            dataset=dataset,
            splits=splits,
            hyperparameters=turn.submission.hyperparameters,
            turn=turn.number,
            previous_head=_previous_head(repository, turn),
            form=settings.contribution_form,
        )
        return finetune(request, settings, turn.work_dir, report), dataset


@contextmanager
def _cached_dataset(
    repository: Repository, cache: LocalCache, submission: Submission
) -> Iterator[tuple[DatasetRecord, dict[str, Path]]]:
    from coldfusion_queue.intake.download import download_dataset, read_dataset_record

    if submission.dataset_id is None:
        remedy = "only 'coldfusion-submit' makes submissions with data"
        raise NotFoundError("dataset of submission", submission.submission_id, remedy)
    record = read_dataset_record(repository.store, repository.keys, submission.dataset_id)

    def fill(directory: Path) -> None:
        download_dataset(repository.store, record, directory)

    with cache.entry(f"dataset-{record.dataset_id}", fill) as path:
        yield record, {split: path / f"{split}.parquet" for split in record.splits}


def _previous_head(repository: Repository, turn: _Turn) -> Path | None:
    """The head of the same submission's last turn, fetched into the work directory."""
    if turn.number == 1:
        return None
    name = contribution_id(turn.submission.submission_id, turn.number - 1)
    last = repository.contributions.find(name)
    if last is None or last.head is None:
        return None
    path = turn.work_dir / "previous_head.safetensors"
    repository.store.download(last.head, path)
    return path


def _upload(
    repository: Repository,
    settings: Settings,
    turn: _Turn,
    result: FinetuneResult,
    dataset: DatasetRecord,
) -> Contribution:
    name = contribution_id(turn.submission.submission_id, turn.number)
    files = {SHARED_FILE: result.shared, HEAD_FILE: result.head}
    attempt, uploaded = repository.contributions.upload(name, files)
    return Contribution(
        contribution_id=name,
        submission_id=turn.submission.submission_id,
        contributor_id=turn.submission.contributor_id,
        dataset_id=turn.submission.dataset_id,
        turn=turn.number,
        attempt=attempt,
        base_version=turn.base.version,
        base_digest=turn.base.digest,
        form=settings.contribution_form,
        shared=uploaded[SHARED_FILE],
        head=uploaded[HEAD_FILE],
        num_examples=dataset.splits["train"].num_examples,
        metrics=result.metrics,
        created_at=datetime.now(UTC),
        created_by=actor(),
    )
