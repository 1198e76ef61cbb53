"""One evaluation: base model and dataset down, measure, record."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import ColdFusionError, NotFoundError
from coldfusion_queue.names import actor
from coldfusion_queue.records import Evaluation, EvaluationRequest
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn_data import uploaded_data

if TYPE_CHECKING:
    from coldfusion_queue.evaluation.measuring import Measurement

__all__ = [
    "EvaluationInterrupted",
    "EvaluationObsolete",
    "record_failure",
    "run_evaluation",
]


class EvaluationInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """An evaluation was told to stop; it begins anew with the next worker."""


class EvaluationObsolete(Exception):  # noqa: N818 - nothing went wrong
    """The files of the base model are gone: it was withheld, or collected as garbage."""


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
        EvaluationObsolete: nobody can do it any more; the request is deleted.
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
            error=type(error).__name__,
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
        _base(repository, request, cache) as base_dir,
    ):
        subject = Subject(
            base_dir=base_dir,
            base_version=request.base.version,
            base_digest=request.base.digest,
            dataset=data.record,
            splits=data.splits,
            cache=cache,
        )
        try:
            return measure(subject, request.spec, settings, work_dir, lambda _: None, should_stop)
        except FinetuneInterrupted as interruption:
            raise EvaluationInterrupted(str(interruption)) from interruption


@contextmanager
def _base(repository: Repository, request: EvaluationRequest, cache: LocalCache) -> Iterator[Path]:
    with ExitStack() as opened:
        try:
            path = opened.enter_context(repository.base_versions.cached(request.base, cache))
        except NotFoundError as error:
            # No failure is recorded: the same parameters may be fused again, and measured then.
            repository.evaluations.drop(request.evaluation_id)
            raise EvaluationObsolete(str(error)) from error
        yield path
