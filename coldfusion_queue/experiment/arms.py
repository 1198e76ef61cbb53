"""What is run for an experiment: the arms, and what is measured of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coldfusion_queue.experiment.design import Design
from coldfusion_queue.experiment.schedule import Fusion, Turn, all_at_once, alone, plan
from coldfusion_queue.experiment.spec import Experiment, Fold, Measure
from coldfusion_queue.names import check_name
from coldfusion_queue.records import EvaluationKind, EvaluationSpec

__all__ = ["COLD", "PRETRAINED", "Arm", "Wanted", "arms_of", "datasets_of", "wanted"]

Role = Literal["pretrained", "cold", "fused_once", "multitask", "random_deltas", "alone"]

#: Columns that others are compared with, or are compared.
PRETRAINED, COLD = "pretrained", "cold"


@dataclass(frozen=True)
class Arm:
    """One arm; with each seed of the experiment it is a repository."""

    column: str
    """Of the tables: arms that differ in their fold alone, or in who is alone, share it."""
    role: Role
    design: Design
    fold: int | None = None
    """From 1; None if there is one division."""
    own: str | None = None
    """The one dataset of who trains alone."""

    @property
    def name(self) -> str:
        """Unique within the experiment."""
        parts = [self.column, self.own, None if self.fold is None else f"f{self.fold}"]
        return "-".join(part for part in parts if part is not None)

    def repository(self, experiment: Experiment, seed: int) -> str:
        """Name of its repository.

        Raises:
            UsageError: with the experiment's name it is too long.
        """
        return check_name("repository", f"{experiment.name}-{self.name}-s{seed}")

    def fusions(self, seed: int) -> tuple[Fusion, ...]:
        """What is fused, in order."""
        if self.role == "pretrained":
            return ()
        if self.role == "multitask":
            return (Fusion(1, 0.0, (Turn(1, "multitask", 0, 0.0, 0.0),)),)
        if self.role == "fused_once":
            return all_at_once(self.design)
        if self.own is not None:
            return alone(self.design, self.own)
        return plan(self.design, seed)

    def is_seen(self, dataset: str) -> bool:
        """Whether a dataset contributes to it."""
        return dataset == self.own if self.own is not None else dataset in self.design.seen


@dataclass(frozen=True)
class Wanted:
    """One evaluation that an arm wants of a base version."""

    dataset: str
    """Its name."""
    spec: EvaluationSpec


def arms_of(experiment: Experiment) -> tuple[Arm, ...]:
    """All arms of an experiment, the pretrained model first.

    Raises:
        UsageError: a repository would have a name that it cannot have.
    """
    arms = [Arm(PRETRAINED, "pretrained", _everything(experiment))]
    for number, fold in enumerate(experiment.folds or (None,), start=1):
        arms += _of_fold(experiment, fold, None if fold is None else number)
    for arm in arms:
        for seed in experiment.seeds:
            arm.repository(experiment, seed)
    return tuple(arms)


def wanted(
    experiment: Experiment, arm: Arm, seed: int, version: int, ids: dict[str, str], *, is_last: bool
) -> list[Wanted]:
    """The evaluations of one base version of an arm.

    Args:
        experiment: says what is measured.
        arm: whose version.
        seed: of the experiment; finetunes have seeds that follow from it.
        version: number of the version.
        ids: id of each dataset, by name.
        is_last: whether it is the arm's last version.
    """
    found = []
    for kind, measure in _measures(experiment):
        # Nobody compares what is on the way of those who train alone.
        if arm.own is not None and not is_last:
            continue
        if not (version == 0 or _counts(measure, version, is_last=is_last)):
            continue
        for name in _measured(arm, measure):
            seeds = 1 if kind == "frozen" else measure.seeds
            for number in range(seeds):
                spec = EvaluationSpec(
                    dataset_id=ids[name],
                    kind=kind,
                    seed=0 if kind == "frozen" else (seed * seeds + number) % 2**32,
                    num_shots=measure.num_shots,
                    max_scored_examples=measure.max_scored_examples,
                    hyperparameters=measure.hyperparameters,
                )
                found.append(Wanted(name, spec))
    return found


def _measured(arm: Arm, measure: Measure) -> tuple[str, ...]:
    """Names of the datasets that an arm is measured on."""
    seen, unseen = arm.design.seen, arm.design.unseen
    if isinstance(measure.datasets, tuple):
        names = measure.datasets
    else:
        names = {"all": (*seen, *unseen), "seen": seen, "unseen": unseen}[measure.datasets]
    return tuple(name for name in dict.fromkeys(names) if arm.own in {None, name})


def datasets_of(experiment: Experiment, arm: Arm) -> tuple[str, ...]:
    """Names of the datasets that an arm needs: those that contribute, are measured or gate."""
    names = [] if arm.role == "pretrained" else [arm.own] if arm.own else [*arm.design.seen]
    for _, measure in _measures(experiment):
        names += _measured(arm, measure)
    if arm.design.gate is not None and arm.role in {"cold", "random_deltas"}:
        names += arm.design.gate.datasets
    return tuple(dict.fromkeys(names))


def _of_fold(experiment: Experiment, fold: Fold | None, number: int | None) -> Iterator[Arm]:
    design = experiment.design(None, fold)
    if "multitask" in experiment.baselines:
        yield Arm("multitask", "multitask", design, number)
    if "fused_once" in experiment.baselines:
        yield Arm("fused-once", "fused_once", design, number)
    yield Arm(COLD, "cold", design, number)
    for variant in experiment.variants:
        yield Arm(variant, "cold", experiment.design(variant, fold), number)
    if "random_deltas" in experiment.controls:
        yield Arm("random-deltas", "random_deltas", design, number)
    if "alone" in experiment.controls:
        for name in design.seen:
            yield Arm("alone", "alone", design, number, name)


def _everything(experiment: Experiment) -> Design:
    """Of the pretrained model, which is measured on whatever an arm is measured on.

    What is seen in one fold and not in another one is both here.
    """
    designs = [
        experiment.design(variant, fold)
        for fold in experiment.folds or (None,)
        for variant in (None, *experiment.variants)
    ]
    seen = dict.fromkeys(name for each in designs for name in each.seen)
    unseen = dict.fromkeys(name for each in designs for name in each.unseen)
    return designs[0].model_copy(update={"seen": (*seen,), "unseen": (*unseen,), "gate": None})


def _measures(experiment: Experiment) -> Iterator[tuple[EvaluationKind, Measure]]:
    kinds: tuple[EvaluationKind, ...] = ("frozen", "finetuned", "few_shot")
    for kind in kinds:
        measure: Measure | None = getattr(experiment.evaluation, kind)
        if measure is not None:
            yield kind, measure


def _counts(measure: Measure, version: int, *, is_last: bool) -> bool:
    if measure.versions == "all":
        return True
    return is_last if measure.versions == "last" else version in measure.versions
