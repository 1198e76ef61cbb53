"""One attempt at a turn, up to what is to be committed: prepare, wait for the device, train."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.device import Device
from coldfusion_queue.errors import RetryableError
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import BaseVersion, Checkpoint, Contribution, Submission
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.residuals import Residuals
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn_checkpoints import UNUSABLE, KeepCheckpoint, TurnCheckpoints
from coldfusion_queue.turn_data import TurnData, turn_data
from coldfusion_queue.turn_endings import DeviceBusy, Phase, Report, TurnInterrupted
from coldfusion_queue.turn_head import PreviousHead, find_previous_head
from coldfusion_queue.uploading import Finetuned

if TYPE_CHECKING:
    from coldfusion_queue.finetune.progress import Progress
    from coldfusion_queue.finetune.request import FinetuneRequest, FinetuneResult
    from coldfusion_queue.finetune.run import PreparedFinetune

__all__ = ["TurnAttempt"]

log = logging.getLogger(__name__)

#: While a turn waits for the device: how often it tries, reports, and looks for a newer base.
_TRY_SECONDS = 0.02
_REPORT_SECONDS = 1.0
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class TurnAttempt:
    """The parts of one attempt; see ``turn.run_turn`` for what they are."""

    repository: Repository
    settings: Settings
    submission: Submission
    number: int
    report: Report
    should_stop: Callable[[], bool]
    device: Device
    work_dir: Path

    @property
    def name(self) -> str:
        """Id of the turn's contribution."""
        return contribution_id(self.submission.submission_id, self.number)

    @property
    def checkpoints(self) -> TurnCheckpoints:
        """Those of this turn."""
        return TurnCheckpoints(self.repository, self.name, self.submission.site is not None)

    def finetune(self) -> Finetuned:
        """Go on from the newest checkpoint that is of use, or begin with the base to begin with."""
        checkpoints = self.repository.checkpoints.all(self.name)
        self._stop_if_asked(checkpoints[0] if checkpoints else None)
        for checkpoint in checkpoints:
            try:
                return self._finetune(self.checkpoints.base_of(checkpoint), checkpoint)
            except UNUSABLE as error:
                self.checkpoints.pass_over(checkpoint, error)
        base = self.repository.ledger.base_version(self.submission.base_version)
        return self._finetune(base, None)

    def _finetune(self, base: BaseVersion, checkpoint: Checkpoint | None) -> Finetuned:
        # torch and transformers are loaded here, in the pool's child, never in the worker's
        # parent: a CUDA context does not survive a fork.
        from coldfusion_queue.finetune.run import prepare

        self.report(Phase.DOWNLOADING, base.version, None)
        cache = LocalCache(self.settings.cache_dir, self.settings.cache_bytes)
        with turn_data(self.repository, self.settings, cache, self.submission, self.number) as data:
            head = self._previous_head(checkpoint, fits=data.fits_last_head)
            head_of = None if head is None else head.contribution_id
            request: FinetuneRequest | None = None
            while True:
                with self.repository.base_versions.cached(base, cache) as base_dir:
                    reach(CrashPoint.TURN_DOWNLOADED)
                    request = request or self._request(data, base_dir, head, checkpoint)
                    keep = self.checkpoints.keeper(base, head_of)
                    request = replace(request, base_dir=base_dir, keep=keep)
                    with prepare(request, self.settings, self.work_dir) as prepared:
                        wanted = self._wait_for_device(base, checkpoint)
                        if wanted.version == base.version:
                            files = self._train(prepared, base, keep, checkpoint)
                            return Finetuned(
                                self.submission, self.number, base, data.record, files, head_of
                            )
                del prepared  # or its model would stay while the next one is built
                base = wanted

    def _previous_head(self, checkpoint: Checkpoint | None, *, fits: bool) -> PreviousHead | None:
        return find_previous_head(
            self.repository,
            self.submission,
            self.number,
            self.work_dir,
            checkpoint=checkpoint,
            fits=fits,
        )

    def _request(
        self,
        data: TurnData,
        base_dir: Path,
        head: PreviousHead | None,
        checkpoint: Checkpoint | None,
    ) -> FinetuneRequest:
        from coldfusion_queue.finetune.request import FinetuneRequest

        return FinetuneRequest(
            base_dir=base_dir,
            dataset=data.record,
            splits=data.splits,
            cache=data.cache,
            hyperparameters=self.submission.hyperparameters,
            turn=self.number,
            previous_head=None if head is None else head.path,
            form=self.settings.contribution_form,
            dtype=self.settings.contribution_dtype,
            last_residual=self._last_residual(self._last_contribution()),
            keeps_residual=self.submission.turns != self.number,
            checkpoint=self.checkpoints.fetch(checkpoint, self.work_dir),
            should_stop=self.should_stop,
            keep=None,
            is_private=self.submission.site is not None,
        )

    def _wait_for_device(self, base: BaseVersion, checkpoint: Checkpoint | None) -> BaseVersion:
        """Wait until the device is ours, or until a newer base version is worth preparing.

        Returns:
            The base version to train on. If it is not ``base``, prepare it and ask again; once the
            device is held there is no further look, or a turn that downloads for longer than a
            fusion takes would never begin.
        """
        if self.device.is_held:
            return base
        reported = looked = time.monotonic()
        while not self.device.take():
            self._stop_if_asked(checkpoint)
            if self.device.is_in_vain():
                raise DeviceBusy(*self._interrupted(checkpoint).args)
            now = time.monotonic()
            if now - reported >= _REPORT_SECONDS:
                reported = now
                self.report(Phase.WAITING, base.version, None)
            if now - looked >= _LOOK_SECONDS:
                looked = now
                newest = self._newest(base, checkpoint)
                if newest.version != base.version:
                    return newest
            time.sleep(_TRY_SECONDS)
        self._stop_if_asked(checkpoint)
        return self._newest(base, checkpoint)

    def _newest(self, base: BaseVersion, checkpoint: Checkpoint | None) -> BaseVersion:
        """The newest base version, as far as the store answers.

        A checkpoint keeps its own, and so does a submission that names one.
        """
        if checkpoint is None and self.submission.base_version is None:
            with suppress(RetryableError):
                return self.repository.ledger.base_version()
        return base

    def _train(
        self,
        prepared: PreparedFinetune,
        base: BaseVersion,
        keep: KeepCheckpoint | None,
        checkpoint: Checkpoint | None,
    ) -> FinetuneResult:
        from coldfusion_queue.finetune.training import FinetuneInterrupted

        def report(progress: Progress) -> None:
            self.device.tell(progress.seconds_left)
            self.report(Phase.TRAINING, base.version, progress)

        def leave_device() -> None:
            self._log("training_ended")
            self.device.give_up()

        if checkpoint is not None:
            self.report(Phase.RESUMING, base.version, None)
        self._log("training_began", base_version=base.version)
        try:
            return prepared.run(report, leave_device)
        except FinetuneInterrupted as interruption:
            saved = self.checkpoints.save(interruption, keep, checkpoint)
            raise self._interrupted(saved) from interruption

    def _log(self, event: str, **numbers: object) -> None:
        ids = {"contribution": self.name, "event": event}
        log.info("%s", event.replace("_", " "), extra=ids | numbers)

    def _stop_if_asked(self, checkpoint: Checkpoint | None) -> None:
        if self.should_stop():
            raise self._interrupted(checkpoint)

    def _interrupted(self, checkpoint: Checkpoint | None) -> TurnInterrupted:
        if checkpoint is None:
            return TurnInterrupted(self.name, 0, 0)
        return TurnInterrupted(self.name, checkpoint.step, checkpoint.num_steps)

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
