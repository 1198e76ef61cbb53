"""Upload and commit of a finished finetune, tried again for as long as the store is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.names import actor, contribution_id
from coldfusion_queue.records import BaseVersion, Contribution, DatasetRecord, Submission
from coldfusion_queue.repository.committing import HEAD_FILE, SHARED_FILE
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.residuals import Residuals
from coldfusion_queue.settings import Settings
from coldfusion_queue.tracing import span, traceparent

if TYPE_CHECKING:
    from coldfusion_queue.finetune.request import FinetuneResult

__all__ = ["Finetuned", "upload_and_commit"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 30.0


@dataclass(frozen=True)
class Finetuned:
    """A turn whose finetune is done and on this machine's disk alone."""

    submission: Submission
    turn: int
    base: BaseVersion
    """Version that the finetune started from."""
    dataset: DatasetRecord
    files: FinetuneResult
    previous_head: str | None
    """Contribution whose head it was given to begin with."""

    @property
    def contribution_id(self) -> str:
        """Id of the contribution that it becomes."""
        return contribution_id(self.submission.submission_id, self.turn)


def upload_and_commit(repository: Repository, settings: Settings, finetuned: Finetuned) -> bool:
    """Make a contribution of a finetune.

    Upload and commit are each tried again while the store is away. An upload that broke off begins
    anew under another attempt; a commit whose answer was lost is repeated with the same record, and
    is found done.

    Idempotent: see ``Contributions.commit``.
    Timeout: ``upload_patience_seconds`` for each of the two.

    Returns:
        Whether this attempt is the committed one.

    Raises:
        StoreUnavailableError: the store was away for longer.
    """
    with span("commit", contribution=finetuned.contribution_id):
        return _upload_and_commit(repository, settings, finetuned)


def _upload_and_commit(repository: Repository, settings: Settings, finetuned: Finetuned) -> bool:
    contributions = repository.contributions
    name = finetuned.contribution_id
    residuals, owner = Residuals(settings.residuals_dir), finetuned.submission.submission_id
    files = {SHARED_FILE: finetuned.files.shared, HEAD_FILE: finetuned.files.head}
    attempt, uploaded = _patiently(settings, name, lambda: contributions.upload(name, files))
    digest = uploaded[SHARED_FILE].digest
    if finetuned.files.residual is not None:
        residuals.keep(finetuned.files.residual, owner, finetuned.turn, digest)
    contribution = Contribution(
        contribution_id=name,
        submission_id=owner,
        contributor_id=finetuned.submission.contributor_id,
        dataset_id=finetuned.dataset.dataset_id,
        turn=finetuned.turn,
        attempt=attempt,
        base_version=finetuned.base.version,
        base_digest=finetuned.base.digest,
        form=finetuned.files.form,
        shared=uploaded[SHARED_FILE],
        head=uploaded[HEAD_FILE],
        previous_head=finetuned.previous_head if finetuned.files.head_was_taken else None,
        num_examples=finetuned.dataset.splits["train"].num_examples,
        metrics=finetuned.files.metrics,
        environment=finetuned.files.environment,
        created_at=datetime.now(UTC),
        created_by=actor(),
        traceparent=traceparent(),
    )
    committed = _patiently(settings, name, lambda: contributions.commit(contribution))
    if committed:
        residuals.keep_only(owner, finetuned.turn, digest)
    return committed


def _patiently(settings: Settings, name: str, act: Callable[[], T]) -> T:
    """Do what may be repeated, until the store is there, with full jitter in between."""

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        ids = {"event": "upload_retried", "contribution": name}
        log.warning("the store is away: %s", error, extra=ids)

    retrying = Retrying(
        retry=retry_if_exception_type(StoreUnavailableError),
        stop=stop_after_delay(settings.upload_patience_seconds),
        wait=wait_random_exponential(multiplier=_FIRST_BACKOFF_SECONDS, max=_MAX_BACKOFF_SECONDS),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(act)
