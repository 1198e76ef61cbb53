"""Which contributions are made on this machine instead of by workers, and how one is begun."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from coldfusion_queue.experiment.arms import COLD, Arm
from coldfusion_queue.experiment.design import Poison
from coldfusion_queue.experiment.lab import Lab
from coldfusion_queue.experiment.outcomes import contribution_of, submission_of
from coldfusion_queue.experiment.schedule import Fusion, Turn, seed_of
from coldfusion_queue.records import BaseVersion, Hyperparameters
from coldfusion_queue.repository.repository import Repository

__all__ = ["Making", "is_made_here"]


def is_made_here(arm: Arm, turn: Turn, fusion: Fusion) -> bool:
    """Whether no worker makes a contribution: one that does harm, or that nobody learned."""
    poison = arm.design.poison
    is_poisoned = (
        poison is not None
        and arm.role == "cold"
        and turn.contributor == poison.contributor
        and fusion.number >= poison.from_iteration
    )
    return is_poisoned or arm.role in {"multitask", "random_deltas"}


@dataclass(frozen=True)
class Making:
    """One contribution that is made here."""

    lab: Lab
    arm: Arm
    seed: int
    """Of the experiment."""
    repository: Repository
    turn: Turn
    base: BaseVersion
    """That the turn starts from."""
    hyperparameters: Hyperparameters

    def begin(self) -> Future[None] | None:
        """Begin it beside the driver, or answer None while what it needs is not there."""
        if self.arm.role == "multitask":
            return self._multitask()
        if self.arm.role == "random_deltas":
            return self._random()
        poison = self.arm.design.poison
        return None if poison is None else self._poisoned(poison)

    @property
    def _own_seed(self) -> int:
        return seed_of("local", self.seed, self.turn.contributor, self.turn.number)

    def _multitask(self) -> Future[None]:
        from coldfusion_queue.experiment.multitask import contribute_multitask

        name = submission_of(self.turn)
        return self.lab.beside(
            lambda directory: contribute_multitask(
                self.lab, self.repository, self.arm.design, self.seed, name, directory
            )
        )

    def _random(self) -> Future[None] | None:
        from coldfusion_queue.experiment.random_deltas import contribute_random

        cold = Arm(COLD, "cold", self.arm.design, self.arm.fold)
        source = self.lab.repository(cold.repository(self.lab.experiment, self.seed))
        real = source.contributions.find(contribution_of(self.turn))
        if real is None:
            return None
        return self.lab.beside(
            lambda directory: contribute_random(
                self.lab, source, real, self.repository, self.base, self._own_seed, directory
            )
        )

    def _poisoned(self, poison: Poison) -> Future[None]:
        from coldfusion_queue.experiment.poisoning import contribute_poisoned

        name, hyperparameters = submission_of(self.turn), self.hyperparameters
        return self.lab.beside(
            lambda directory: contribute_poisoned(
                *(self.lab, self.repository, self.base, poison, name, hyperparameters),
                *(self._own_seed, directory),
            )
        )
