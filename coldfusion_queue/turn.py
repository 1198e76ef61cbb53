"""One turn of a submission: base model down, finetune, contribution up, commit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import (
    ColdFusionError,
    DigestMismatchError,
    IncompatibleModelError,
    InvalidRecordError,
    InvalidTensorFileError,
    NotFoundError,
)
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import (
    BaseVersion,
    Checkpoint,
    Contribution,
    Submission,
)
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.residuals import Residuals
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn_data import turn_data
from coldfusion_queue.turn_head import find_previous_head
from coldfusion_queue.uploading import Finetuned, upload_and_commit

if TYPE_CHECKING:
    from coldfusion_queue.finetune.progress import Progress
    from coldfusion_queue.finetune.training import FinetuneInterrupted

__all__ = ["Phase", "TurnInterrupted", "TurnOutcome", "never_stop", "run_turn"]

log = logging.getLogger(__name__)

#: What is wrong with a checkpoint, or with the base version that it is of.
_UNUSABLE = (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidRecordError,
    InvalidTensorFileError,
    NotFoundError,
)


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


class TurnInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """A turn was told to stop; nothing of it is committed, and it goes on from its checkpoint.

    Args:
        contribution_id: of the turn.
        step: optimizer steps done in its newest checkpoint; 0 if it has none.
        num_steps: optimizer steps of the whole turn; 0 if ``step`` is.
    """

    def __init__(self, contribution_id: str, step: int, num_steps: int) -> None:
        super().__init__(contribution_id, step, num_steps)
        self.contribution_id = contribution_id
        self.step = step
        self.num_steps = num_steps

    def __str__(self) -> str:
        where = f"goes on after step {self.step} of {self.num_steps}"
        return f"{self.contribution_id} was interrupted, {where if self.step else 'begins again'}"


def never_stop() -> bool:
    """What nobody can stop is told this."""
    return False


def run_turn(
    repository: Repository,
    settings: Settings,
    submission: Submission,
    turn: int,
    report: Report,
    should_stop: Callable[[], bool] = never_stop,
) -> TurnOutcome:
    """Finetune a base version on a submission's dataset and commit the contribution.

    The base version is the newest one; a turn that was interrupted goes on from its checkpoint
    and from the base version of that. A checkpoint that cannot be used is logged and passed over.

    Idempotent: a turn that is committed is left alone; of two attempts at once, one is committed
    and the other's files are deleted.
    Timeout: see ``uploading.upload_and_commit``.
    Writes: see ``repository.committing`` and ``repository.checkpoints``.

    Args:
        repository: where.
        settings: device, cache, form of the contribution.
        submission: what to finetune on.
        turn: which of its turns, from 1.
        report: told the phase, the base version and, while training, the progress; what it raises
            ends the turn before anything is committed.
        should_stop: asked before the download, before training and after each optimizer step, and
            not while the contribution is uploaded.

    Raises:
        TurnInterrupted: it was told to stop; its checkpoint is saved if the store let us.
        ColdFusionError: of store, finetune or data; nothing is committed then.
    """
    name = contribution_id(submission.submission_id, turn)
    done = repository.contributions.find(name)
    if done is not None:
        _mark_head(repository, submission, name, done.base_version)
        _clean(repository, name)
        return TurnOutcome(name, committed=False, base_version=done.base_version)
    with disk_errors(), tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
        this = _Turn(repository, settings, submission, turn, report, should_stop, Path(work_dir))
        finetuned = this.finetune()
        reach(CrashPoint.TURN_TRAINED)
        report(Phase.UPLOADING, finetuned.base.version, None)
        committed = upload_and_commit(repository, settings, finetuned)
    if committed:
        _mark_head(repository, submission, name, finetuned.base.version)
    _clean(repository, name)
    return TurnOutcome(name, committed, finetuned.base.version)


def _mark_head(
    repository: Repository, submission: Submission, name: str, base_version: int
) -> None:
    """Mark the head of a committed turn; the next delivery or the next turn does it else."""
    try:
        repository.heads.mark(submission, name, base_version)
    except ColdFusionError as error:
        event = {"event": "head_unmarked", "contribution": name}
        log.warning("head not marked for the next submission: %s", error, extra=event)


def _clean(repository: Repository, name: str) -> None:
    """Delete the checkpoints of a turn that is committed; garbage collection does it else."""
    with suppress(ColdFusionError):
        repository.checkpoints.delete(name)
    reach(CrashPoint.COMMIT_CLEANED)


@dataclass(frozen=True)
class _Turn:
    """One attempt at a turn, up to the commit."""

    repository: Repository
    settings: Settings
    submission: Submission
    number: int
    report: Report
    should_stop: Callable[[], bool]
    work_dir: Path

    @property
    def name(self) -> str:
        return contribution_id(self.submission.submission_id, self.number)

    def finetune(self) -> Finetuned:
        """Go on from the newest checkpoint that is of use, or begin with the newest base."""
        checkpoints = self.repository.checkpoints.all(self.name)
        self._stop_if_asked(checkpoints[0] if checkpoints else None)
        for checkpoint in checkpoints:
            try:
                return self._finetune(self._base_of(checkpoint), checkpoint)
            except _UNUSABLE as error:
                ids = {"contribution": self.name, "step": checkpoint.step}
                event = {"event": "checkpoint_unusable"}
                log.warning("checkpoint passed over: %s", error, extra=event | ids)
        return self._finetune(self.repository.ledger.base_version(), None)

    def _base_of(self, checkpoint: Checkpoint) -> BaseVersion:
        base = self.repository.ledger.base_version(checkpoint.base_version)
        if base.digest != checkpoint.base_digest:
            what = f"base version {base.version} of checkpoint {checkpoint.attempt}"
            raise DigestMismatchError(what, base.digest, checkpoint.base_digest)
        return base

    def _finetune(self, base: BaseVersion, checkpoint: Checkpoint | None) -> Finetuned:
        # torch and transformers are loaded here, in the pool's child, never in the worker's
        # parent: a CUDA context does not survive a fork.
        from coldfusion_queue.finetune.run import FinetuneRequest, finetune
        from coldfusion_queue.finetune.training import FinetuneInterrupted

        self.report(Phase.DOWNLOADING, base.version, None)
        cache = LocalCache(self.settings.cache_dir, self.settings.cache_bytes)
        with (
            self.repository.base_versions.cached(base, cache) as base_dir,
            turn_data(self.repository, self.settings, cache, self.submission, self.number) as data,
        ):
            reach(CrashPoint.TURN_DOWNLOADED)
            last = self._last_contribution()
            head = find_previous_head(
                self.repository,
                self.submission,
                self.number,
                self.work_dir,
                checkpoint=checkpoint,
                fits=data.fits_last_head,
            )
            head_of = None if head is None else head.contribution_id
            request = FinetuneRequest(
                base_dir=base_dir,
                dataset=data.record,
                splits=data.splits,
                cache=data.cache,
                hyperparameters=self.submission.hyperparameters,
                turn=self.number,
                previous_head=None if head is None else head.path,
                form=self.settings.contribution_form,
                dtype=self.settings.contribution_dtype,
                last_residual=self._last_residual(last),
                keeps_residual=self.submission.turns != self.number,
                checkpoint=self._fetched(checkpoint),
                should_stop=self.should_stop,
                keep=self._keep_of(base, head_of),
                is_private=self.submission.site is not None,
            )
            self._stop_if_asked(checkpoint)
            try:
                files = finetune(
                    request,
                    self.settings,
                    self.work_dir,
                    lambda progress: self.report(Phase.TRAINING, base.version, progress),
                )
            except FinetuneInterrupted as interruption:
                self._save(interruption, base, head_of, checkpoint)
        return Finetuned(self.submission, self.number, base, data.record, files, head_of)

    def _stop_if_asked(self, checkpoint: Checkpoint | None) -> None:
        if self.should_stop():
            raise self._interrupted(checkpoint)

    def _interrupted(self, checkpoint: Checkpoint | None) -> TurnInterrupted:
        if checkpoint is None:
            return TurnInterrupted(self.name, 0, 0)
        return TurnInterrupted(self.name, checkpoint.step, checkpoint.num_steps)

    def _keep_of(
        self, base: BaseVersion, head_of: str | None
    ) -> Callable[[Path, int, int], Checkpoint] | None:
        """What saves a state of this turn in place of those with fewer steps.

        None for private data: a state holds averages of the last gradients, from which texts can be
        told.
        """
        checkpoints = self.repository.checkpoints

        def keep(path: Path, step: int, num_steps: int) -> Checkpoint:
            kept = checkpoints.save(
                self.name,
                path,
                base=base,
                step=step,
                num_steps=num_steps,
                previous_head=head_of,
            )
            with suppress(ColdFusionError):  # they are deleted with the turn's others at its end
                checkpoints.delete_older(kept)
            return kept

        return keep if self.submission.site is None else None

    def _save(
        self,
        interruption: FinetuneInterrupted,
        base: BaseVersion,
        head_of: str | None,
        last: Checkpoint | None,
    ) -> NoReturn:
        """Save the state of an interrupted finetune; without the store, the last one stays."""
        keep = self._keep_of(base, head_of)
        if keep is None:
            raise self._interrupted(None) from interruption
        try:
            last = keep(interruption.path, interruption.step, interruption.num_steps)
        except ColdFusionError as error:
            event = {"event": "checkpoint_lost"}
            ids = {"contribution": self.name, "step": interruption.step}
            log.warning("checkpoint not saved: %s", error, extra=event | ids)
        raise self._interrupted(last) from interruption

    def _fetched(self, checkpoint: Checkpoint | None) -> Path | None:
        if checkpoint is None:
            return None
        path = self.work_dir / "start.safetensors"
        self.repository.checkpoints.download(checkpoint, path)
        ids = {"contribution": self.name, "step": checkpoint.step}
        log.info("turn resumed", extra={"event": "turn_resumed", **ids})
        return path

    def _last_contribution(self) -> Contribution | None:
        """That of the same submission's last turn."""
        if self.number == 1:
            return None
        name = contribution_id(self.submission.submission_id, self.number - 1)
        return self.repository.contributions.find(name)

    def _last_residual(self, last: Contribution | None) -> Path | None:
        if last is None or last.form != "quantised":
            return None
        residuals = Residuals(self.settings.residuals_dir)
        return residuals.find(last.submission_id, last.turn, last.shared.digest)
