"""One evaluation: base model and dataset down, measure, record."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.names import actor
from coldfusion_queue.records import Evaluation, EvaluationRequest
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn_data import uploaded_data

if TYPE_CHECKING:
    from coldfusion_queue.evaluation.measuring import Measurement

__all__ = ["EvaluationInterrupted", "record_failure", "run_evaluation"]


class EvaluationInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """An evaluation was told to stop; it begins anew with the next worker."""


def run_evaluation(
    repository: Repository,
    settings: Settings,
    request: EvaluationRequest,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Evaluate a base model and record what was found.

    Idempotent: one that is done is left alone; of two at once the first that is recorded stays.
    Writes: ``evaluations/<...>.json``; deletes ``wanted/<evaluation_id>.json``.

    Args:
        repository: where.
        settings: device, cache.
        request: what is wanted.
        should_stop: asked after each optimizer step of a finetune.

    Returns:
        Whether this one is recorded.

    Raises:
        EvaluationInterrupted: it was told to stop.
        ColdFusionError: of store, dataset or finetune; nothing is recorded then.
    """
    if repository.evaluations.is_done(request.evaluation_id):
        return False
    started = time.monotonic()
    with disk_errors(), tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
        found = _measure(repository, settings, request, Path(work_dir), should_stop)
    reach(CrashPoint.EVALUATION_MEASURED)
    return repository.evaluations.record(
        Evaluation(
            spec=request.spec,
            base_version=request.base.version,
            base_digest=request.base.digest,
            scored_on=found.scored_on,
            metric=found.metric,
            score=found.score,
            interval=found.interval,
            num_train=found.num_train,
            num_scored=found.num_scored,
            seconds=time.monotonic() - started,
            environment=found.environment,
            created_at=datetime.now(UTC),
            created_by=actor(),
        )
    )


def record_failure(
    repository: Repository, request: EvaluationRequest, error: BaseException, seconds: float
) -> bool:
    """Record that an evaluation cannot be done, which ends it; see ``run_evaluation``.

    Of an error that is not ours only the class is recorded, because its text might quote a row.
    """
    known = isinstance(error, ColdFusionError)
    reason = str(error) if known else f"unexpected {type(error).__name__}, see the worker's log"
    return repository.evaluations.record(
        Evaluation(
            spec=request.spec,
            base_version=request.base.version,
            base_digest=request.base.digest,
            scored_on=request.spec.split,
            metric=None,
            score=None,
            interval=None,
            num_train=0,
            num_scored=0,
            failure=reason,
            seconds=seconds,
            created_at=datetime.now(UTC),
            created_by=actor(),
        )
    )


def _measure(
    repository: Repository,
    settings: Settings,
    request: EvaluationRequest,
    work_dir: Path,
    should_stop: Callable[[], bool],
) -> Measurement:
    from coldfusion_queue.evaluation.measuring import Subject, measure
    from coldfusion_queue.finetune.training import FinetuneInterrupted

    cache = LocalCache(settings.cache_dir, settings.cache_bytes)
    with (
        uploaded_data(repository, cache, request.spec.dataset_id) as data,
        repository.base_versions.cached(request.base, cache) as base_dir,
    ):
        subject = Subject(base_dir, request.base.digest, data.record, data.splits, cache)
        try:
            return measure(subject, request.spec, settings, work_dir, lambda _: None, should_stop)
        except FinetuneInterrupted as interruption:
            raise EvaluationInterrupted(str(interruption)) from interruption
