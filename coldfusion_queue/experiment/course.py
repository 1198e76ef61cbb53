"""One arm with one seed on its way: turns, fusions and evaluations, each asked for and waited for.

A course is a generator that yields whenever it has to wait, so that many can share one thread. It
looks at the bucket before each step and skips what is there: one that was broken off anywhere goes
on when it is begun again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from coldfusion_queue.errors import AlreadyExistsError, SubmissionFailedError
from coldfusion_queue.experiment.arms import Arm, datasets_of, wanted
from coldfusion_queue.experiment.lab import Lab
from coldfusion_queue.experiment.making import Making, is_made_here
from coldfusion_queue.experiment.outcomes import contribution_of, outcome_of, submission_of
from coldfusion_queue.experiment.policies import policy_of
from coldfusion_queue.experiment.schedule import Fusion, Turn, seed_of
from coldfusion_queue.records import BaseVersion, EvaluationRequest, Hyperparameters
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository

__all__ = ["Course"]

#: Until a fusion that was asked for is asked for again: with a gate one call is not enough.
_FUSE_AGAIN_SECONDS = 2.0

#: Without any movement for so long, messages may have been lost.
_RECONCILE_SECONDS = 60.0

_CHANGED = "the experiment's file was changed since it was begun: give it another name"


@dataclass
class _Local:
    """A contribution that is made on this machine."""

    turn: Turn
    future: Future[None] | None = None
    """None until what it needs is there."""


class Course:
    """See the module.

    Args:
        lab: where.
        arm: which arm.
        seed: of the experiment.
    """

    def __init__(self, lab: Lab, arm: Arm, seed: int) -> None:
        self._lab = lab
        self._arm = arm
        self._seed = seed
        self._fusions = arm.fusions(seed)
        self._repository: Repository = lab.repository(arm.repository(lab.experiment, seed))
        self._bases: list[BaseVersion] = []
        self._requests: list[EvaluationRequest] = []
        self._moved = time.monotonic()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self._arm.name}, seed {self._seed}"

    def steps(self) -> Iterator[None]:
        """Go through all of it.

        Raises:
            SubmissionFailedError: a turn failed for good.
            AlreadyExistsError: what is in the bucket is of another experiment.
            ColdFusionError: of store, broker, or what is trained on this machine.
        """
        self._open()
        if self._arm.role == "pretrained":
            self._measure(0, is_last=True)
        for fusion in self._fusions:
            yield from self._contribute(fusion)
            yield from self._fuse(fusion)
            self._measure(fusion.number, is_last=fusion.number == len(self._fusions))
        yield from self._await_evaluations()
        self._tell("done")

    def _open(self) -> None:
        """Have the repository and its datasets."""
        lab, names = self._lab, datasets_of(self._lab.experiment, self._arm)
        sizes = [len(fusion.turns) for fusion in self._fusions] or [1]
        self._repository = lab.create(
            self._repository.name, policy_of(self._arm, lab.ids, sizes[0], max(sizes))
        )
        self._bases = [self._repository.ledger.base_version(0)]
        contributors = {
            turn.contributor
            for fusion in self._fusions
            for turn in fusion.turns
            if not is_made_here(self._arm, turn, fusion)
        }
        for name in names:
            lab.upload(self._repository, name)
            # What contributes is named by its submissions, what is measured on by one of its own.
            held_out = f"{name}-data"
            if name not in contributors and self._repository.submissions.find(held_out) is None:
                self._repository.submissions.create(
                    name, kind="held_out", dataset_id=lab.ids[name], submission_id=held_out
                )

    # --- contributions ------------------------------------------------------------------------

    def _contribute(self, fusion: Fusion) -> Iterator[None]:
        """Have every contribution of a fusion committed."""
        contributions = self._repository.contributions
        missing = [turn for turn in fusion.turns if contributions.find(_id(turn)) is None]
        if missing:
            # Whoever asks for a fusion meanwhile shall not fuse a part of what belongs together.
            self._want_contributions(len(fusion.turns))
        local = {turn: _Local(turn) for turn in missing if is_made_here(self._arm, turn, fusion)}
        for turn in fusion.turns:
            if not is_made_here(self._arm, turn, fusion):
                self._submit(turn)
                if turn in missing:
                    self._lab.turns(self._repository).send(submission_of(turn), 1)
        while missing:
            for turn in missing:
                self._look_after(turn, local.get(turn))
            left = [turn for turn in missing if contributions.find(_id(turn)) is None]
            if len(left) < len(missing):
                self._moved = time.monotonic()
            missing = left
            if missing:
                yield from self._pause()

    def _look_after(self, turn: Turn, local: _Local | None) -> None:
        """Begin what can be begun by now; raise what went wrong."""
        if local is None:
            failure = self._repository.submissions.failure(submission_of(turn))
            if failure is not None:
                raise SubmissionFailedError(failure.submission_id, failure.turn, failure.reason)
        elif local.future is None:
            local.future = self._begin(turn)
        elif local.future.done():
            local.future.result()

    def _begin(self, turn: Turn) -> Future[None] | None:
        """Begin a contribution that is made on this machine, if what it needs is there."""
        hyperparameters = self._hyperparameters(turn)
        making = Making(
            *(self._lab, self._arm, self._seed, self._repository),
            *(turn, self._base_of(turn), hyperparameters),
        )
        return making.begin()

    def _submit(self, turn: Turn) -> None:
        """Have a turn's submission, as this experiment would make it."""
        submissions, name = self._repository.submissions, submission_of(turn)
        base_version = self._base_of(turn).version
        found = submissions.find(name)
        if found is None:
            found = submissions.create(
                turn.contributor,
                dataset_id=self._lab.ids[turn.contributor],
                hyperparameters=self._hyperparameters(turn),
                submission_id=name,
                base_version=base_version,
            )
        if (found.dataset_id, found.hyperparameters, found.base_version) != (
            self._lab.ids[turn.contributor],
            self._hyperparameters(turn),
            base_version,
        ):
            raise AlreadyExistsError("submission", name, _CHANGED)

    def _hyperparameters(self, turn: Turn) -> Hyperparameters:
        seed = seed_of("turn", self._seed, turn.contributor, turn.number)
        update = {"head": "fresh", "seed": seed}
        return self._arm.design.hyperparameters.model_copy(update=update)

    def _base_of(self, turn: Turn) -> BaseVersion:
        return self._bases[turn.base]

    # --- fusions ------------------------------------------------------------------------------

    def _fuse(self, fusion: Fusion) -> Iterator[None]:
        """Have everything of a fusion decided, and note what the base is then."""
        asked, last, num_decided = 0.0, self._bases[-1].version, 0
        while (outcome := outcome_of(self._repository, fusion)).undecided:
            if outcome.num_decided > num_decided:
                self._moved, num_decided = time.monotonic(), outcome.num_decided
            if time.monotonic() - asked >= _FUSE_AGAIN_SECONDS:
                # What was refused leaves fewer, and those are to be fused.
                self._want_contributions(len(outcome.undecided))
                self._lab.fuse(self._repository)
                asked = time.monotonic()
            yield from self._pause()
        assert outcome.base is not None  # noqa: S101 - nothing is undecided
        self._bases.append(outcome.base)
        self._moved = time.monotonic()
        what = f"base version {outcome.base.version}"
        if outcome.base.version == last:
            what = f"nothing new, {what} stays"
        refused = f", {outcome.num_refused} refused" if outcome.num_refused else ""
        names = ", ".join(turn.contributor for turn in fusion.turns)
        number = f"fusion {fusion.number} of {len(self._fusions)}"
        self._tell(f"{number}: {what} from {names}{refused}")

    def _want_contributions(self, number: int) -> None:
        """Have the policy wait for so many."""
        if self._repository.ledger.newest().after.policy.min_contributions != number:
            change_policy(self._repository, {"min_contributions": number})

    # --- evaluations --------------------------------------------------------------------------

    def _measure(self, iteration: int, *, is_last: bool) -> None:
        """Ask for the evaluations of the newest base version."""
        lab = self._lab
        specs = [
            item.spec
            for item in wanted(
                lab.experiment, self._arm, self._seed, iteration, lab.ids, is_last=is_last
            )
        ]
        requests = self._repository.evaluations.want(self._bases[-1], specs)
        sender = lab.evaluations(self._repository)
        for request in requests:
            sender.send(request.evaluation_id)
        self._requests += requests

    def _await_evaluations(self) -> Iterator[None]:
        evaluations = self._repository.evaluations
        left = self._requests
        while left := [item for item in left if evaluations.find(item.evaluation_id) is None]:
            if len(left) < len(self._requests):
                self._moved = time.monotonic()
            self._requests = left
            yield from self._pause()

    # --- waiting ------------------------------------------------------------------------------

    def _pause(self) -> Iterator[None]:
        if time.monotonic() - self._moved >= _RECONCILE_SECONDS:
            self._lab.reconcile(self._repository)
            self._moved = time.monotonic()
        yield

    def _tell(self, event: str) -> None:
        self._lab.tell(f"{self.name}: {event}")


def _id(turn: Turn) -> str:
    return contribution_of(turn)
