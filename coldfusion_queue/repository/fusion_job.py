"""The work of one fusion, cut into pieces that any fusion worker can do.

A piece is one step of the method (a survey, at the end the fusion itself) for one file of the base
model. Its result is a few bytes, which follow from the plan and the bucket alone. So two workers
at one piece do no harm, and the model has the same bits whoever made it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.errors import ColdFusionError, NotFoundError
from coldfusion_queue.fusion.inputs import FusionInput
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.methods.method import Combination, Survey
from coldfusion_queue.fusion.stream import ContributionFault, Fusion
from coldfusion_queue.records import BaseVersion, FusedFile, FusionPlan
from coldfusion_queue.repository.meter import FusionMeter, Phase
from coldfusion_queue.repository.momentum import open_state
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["Alone", "ContributionFault", "Crew", "FusionJob", "Step", "run_job"]

Step = Survey | Combination


class FusionJob:
    """One fusion into one attempt at the next base version.

    Args:
        repository: where.
        settings: chunk size and threads.
        plan: what is fused into what.
        base: the base version of the plan's ledger entry.
        opener: opens it, and has the meter of the fusion.
        inputs: the plan's contributions.

    Raises:
        ContributionFault: a contribution that cannot be fused.
    """

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        plan: FusionPlan,
        base: BaseVersion,
        opener: Opener,
        inputs: Sequence[FusionInput],
    ) -> None:
        self.plan = plan
        self.num_bytes = sum(item.source.num_bytes for item in inputs)
        """What is read of the contributions."""
        self._store = repository.store
        self._keys = repository.keys
        self._ledger = repository.ledger
        self.meter = opener.meter
        """Of the fusion; of a helper's job, what the helper does of it."""
        self._base = base
        self._method = make_method(plan.method, plan.method_options)
        self._fusion = Fusion(
            opener.model(base),
            inputs,
            method=self._method,
            chunk_bytes=settings.fusion_chunk_bytes,
            read_ahead_bytes=settings.fusion_read_ahead_bytes,
            threads=settings.fusion_threads,
            waiting=partial(self.meter.during, Phase.READ),
        )

    @classmethod
    def planned(
        cls,
        repository: Repository,
        settings: Settings,
        attempt: str,
        meter: FusionMeter | None = None,
    ) -> Self | None:
        """A job that another worker planned; None if it is over.

        Args:
            repository: where.
            settings: chunk size and threads.
            attempt: see ``FusionJob.attempt``.
            meter: of what is done here.

        Raises:
            ContributionFault, NotFoundError: of a contribution or base version, perhaps because
                the job ended meanwhile.
        """
        key = repository.keys.fusion_plan(attempt)
        data = repository.store.find(key)
        if data is None:
            return None
        plan = FusionPlan.from_bytes(data, key)
        if repository.ledger.exists(plan.sequence + 1):
            return None
        newest = repository.ledger.entry(plan.sequence)
        opener = Opener(repository, newest, meter)
        inputs = []
        for name, coefficient in plan.coefficients.items():
            contribution = repository.contributions.find(name)
            inspection = repository.contributions.inspection(name)
            if contribution is None or inspection is None:
                raise NotFoundError("contribution", name, "the fusion's plan names it")
            inputs.append(opener.inspected(contribution, inspection, coefficient))
        return cls(repository, settings, plan, newest.after.base, opener, inputs)

    @property
    def attempt(self) -> str:
        """``<version>-<attempt>`` of the directory that is being made."""
        return self.plan.prefix.removeprefix(self._keys.bases).rstrip("/")

    @property
    def num_files(self) -> int:
        """Pieces of each step."""
        return self._fusion.num_files

    @property
    def first_step(self) -> Step:
        """What the method begins with."""
        return self._fusion.first_step

    def do(self, step: Step, file: int) -> bytes:
        """Do a piece.

        Idempotent: done again, it gives the same and writes the same.
        Writes: after the surveys, one file of the new base version and its state.

        Raises:
            ContributionFault: a contribution that cannot be fused.
            DigestMismatchError, InvalidTensorFileError, StoreUnavailableError: see ``Fusion``.
        """
        if isinstance(step, Survey):
            return _packed(self._fusion.survey(step, file))
        made = self._upload(step, file)
        self.meter.on_written(made.model.num_bytes + (made.state.num_bytes if made.state else 0))
        return made.to_bytes()

    def after(self, step: Survey, results: Sequence[bytes]) -> Step:
        """The step after a survey whose pieces are done, given their results in order.

        Raises:
            ContributionFault: a contribution whose deltas cannot be counted.
        """
        return step.result([_unpacked(result) for result in results])

    def find_step(self, number: int) -> Step | None:
        """A step by its number, made of the kept results of those before; None if some are gone.

        Raises:
            ContributionFault: see ``after``.
        """
        step = self.first_step
        for before in range(number):
            results = [self.find(before, file) for file in range(self.num_files)]
            found = [result for result in results if result is not None]
            if not isinstance(step, Survey) or len(found) < self.num_files:
                return None
            step = self.after(step, found)
        return step

    def publish_plan(self) -> None:
        """Let other workers do pieces. Idempotent."""
        self._store.create(self._keys.fusion_plan(self.attempt), self.plan.to_bytes())

    def is_over(self) -> bool:
        """Whether nobody wants pieces any more: it ended, or died and another one decided."""
        is_planned = self._store.stat(self._keys.fusion_plan(self.attempt)) is not None
        return not is_planned or self._ledger.exists(self.plan.sequence + 1)

    def find(self, number: int, file: int) -> bytes | None:
        """The result of a piece that was kept, if there is one yet."""
        return self._store.find(self._keys.fusion_result(self.attempt, number, file))

    def keep(self, number: int, file: int, result: bytes) -> None:
        """Keep a result for the other workers, unless the job is over. Idempotent."""
        if not self.is_over():
            self._store.create(self._keys.fusion_result(self.attempt, number, file), result)

    def close(self) -> None:
        """Delete the plan and what was kept; what is left is collected as garbage."""
        with suppress(ColdFusionError):
            prefix = self._keys.fusion(self.attempt)
            self._store.delete([self._keys.fusion_plan(self.attempt)])
            self._store.delete([item.key for item in self._store.list(prefix)])

    def _upload(self, combination: Combination, file: int) -> FusedFile:
        name = self._base.model_names[file]
        key = self.plan.prefix + name
        if self._method.decay is None:
            parts = self.meter.each(Phase.COMPUTE, self._fusion.fuse(file, None, combination))
            with self.meter.during(Phase.WRITE):
                model = self._store.put_stream(key, parts)
            return FusedFile(model=model, state=None)
        return self._upload_with_state(combination, file, key)

    def _upload_with_state(self, combination: Combination, file: int, key: str) -> FusedFile:
        name, meter = self._base.model_names[file], self.meter
        state_key = self.plan.prefix + self._base.state_name(name)
        with (
            meter.during(Phase.WRITE),
            self._store.open_upload(state_key, num_at_once=2) as state,
            self._store.open_upload(key, num_at_once=2) as model,
        ):

            def write(part: bytes) -> None:
                with meter.during(Phase.WRITE):
                    state.write(part)

            before = open_state(self._store, self._base, name, write, meter.on_read)
            for part in meter.each(Phase.COMPUTE, self._fusion.fuse(file, before, combination)):
                model.write(part)
            return FusedFile(model=model.finish(), state=state.finish())


class Crew(Protocol):
    """Who does the pieces of a job."""

    def share(self, job: FusionJob, number: int, step: Step) -> Sequence[bytes]:
        """Get a step done.

        Args:
            job: whose.
            number: which of its steps, from 0.
            step: the same, ready to be done.

        Returns:
            The results of all files, in order.

        Raises:
            All that ``FusionJob.do`` does.
        """

    def leave(self, job: FusionJob) -> None:
        """The job is over; what was kept for it may go."""


class Alone:
    """Does everything in this process."""

    def share(self, job: FusionJob, number: int, step: Step) -> Sequence[bytes]:
        """See ``Crew.share``."""
        del number
        return [job.do(step, file) for file in range(job.num_files)]

    def leave(self, job: FusionJob) -> None:
        """See ``Crew.leave``."""


def run_job(job: FusionJob, crew: Crew) -> list[FusedFile]:
    """Do all of a job.

    Returns:
        The files of the new model, in the order of the base model's.

    Raises:
        All that ``FusionJob.do`` does; what was uploaded is the caller's to delete.
    """
    try:
        with job.meter.during(Phase.COMPUTE):
            number, step = 0, job.first_step
            while isinstance(step, Survey):
                step = job.after(step, crew.share(job, number, step))
                number += 1
            results = crew.share(job, number, step)
    finally:
        crew.leave(job)
    return [FusedFile.from_bytes(result, job.plan.prefix) for result in results]


def _packed(counts: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, counts, allow_pickle=False)
    return file.getvalue()


def _unpacked(data: bytes) -> NDArray[Any]:
    counts: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return counts
