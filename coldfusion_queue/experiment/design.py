"""What may differ between arms of an experiment: who contributes, when, under what policy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from pydantic import Field

from coldfusion_queue.records import Hyperparameters, Policy
from coldfusion_queue.records.record import Record

__all__ = ["Design", "Gate", "Poison", "Schedule", "check_design"]

#: Fields of the policy that the driver sets itself.
_OURS = ("min_contributions", "max_contributions", "max_wait_seconds", "gate_datasets")


class Schedule(Record):
    """Who waits for whom; in virtual time, whatever the workers need."""

    kind: Literal["barrier", "asynchronous"] = "barrier"
    """``barrier``: an iteration ends when all of its contributors have, as in the paper."""
    speeds: tuple[float, ...] | Mapping[str, float] = (1.0,)
    """How long a turn takes relative to the fastest: by dataset, or dealt out to the seen datasets
    in their order, over and over."""
    min_contributions: int | None = Field(None, ge=1)
    """Contributions that make a fusion, where it is asynchronous."""

    def duration(self, name: str, position: int) -> float:
        """Of a turn of the seen dataset that has this position among them."""
        if isinstance(self.speeds, Mapping):
            return self.speeds[name]
        return self.speeds[position % len(self.speeds)]


class Gate(Record):
    """What a fused model has to be good at before it is published."""

    datasets: tuple[str, ...] = Field(min_length=1)
    tolerance: float | None = Field(None, ge=0, lt=1)
    """See ``gate_tolerance`` of the policy; None is what that says."""


class Poison(Record):
    """A contributor that does harm from some iteration on."""

    contributor: str
    from_iteration: int = Field(1, ge=1)
    """Counted in fusions: the first whose contribution of this contributor is poisoned."""
    kind: Literal["label_flip", "sign_flip", "noise"] = "label_flip"
    """``label_flip``: it finetunes with each label replaced by the next one. ``sign_flip``: it
    hands in the opposite of what it learned. ``noise``: random numbers instead, of each tensor as
    long as what it learned."""
    factor: float = Field(1.0, gt=0)
    """What it hands in is multiplied by this."""


class Design(Record):
    """An arm of an experiment."""

    seen: tuple[str, ...] = ()
    """Datasets that contribute."""
    unseen: tuple[str, ...] = ()
    """Datasets that are measured on and never contribute."""
    contributors_per_iteration: int = Field(8, ge=1)
    """Sampled of the seen datasets; asynchronously so many are at work at any time."""
    iterations: int = Field(10, ge=1)
    """In total there are so many turns times ``contributors_per_iteration``."""
    schedule: Schedule = Field(default_factory=Schedule)
    policy: Policy = Field(default_factory=Policy)
    """How contributions are fused; when they are, the schedule says."""
    gate: Gate | None = None
    poison: Poison | None = None
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)
    """Of the contributions. Heads are fresh each turn, as in the paper."""

    @property
    def num_turns(self) -> int:
        """Contributions in total."""
        return self.iterations * self.contributors_per_iteration


def check_design(design: Design, datasets: Collection[str]) -> Iterator[str]:
    """What is wrong with a design, one sentence for each.

    Args:
        design: each field by itself is as it should be.
        datasets: names of those that there are.
    """
    for field, names in (
        ("seen", design.seen),
        ("unseen", design.unseen),
        ("gate.datasets", design.gate.datasets if design.gate else ()),
    ):
        yield from (
            f"{field}: there is no dataset {name!r}"
            for name in dict.fromkeys(names)
            if name not in datasets
        )
        yield from (
            f"{field}: {name!r} is there {names.count(name)} times"
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        )
    for name in sorted({*design.seen} & {*design.unseen}):
        yield f"unseen: {name!r} is seen too"
    if not design.seen:
        yield "seen: expected at least one dataset"
    elif design.contributors_per_iteration > len(design.seen):
        yield (
            f"contributors_per_iteration: got {design.contributors_per_iteration}, expected at "
            f"most the {len(design.seen)} datasets that are seen"
        )
    if design.poison is not None and design.poison.contributor not in design.seen:
        yield f"poison.contributor: {design.poison.contributor!r} is none of the seen datasets"
    yield from _schedule_problems(design)
    for name in _OURS:
        if name in design.policy.model_fields_set:
            yield f"policy.{name}: the experiment sets it itself"
    for name in ("seed", "head"):
        if name in design.hyperparameters.model_fields_set:
            yield f"hyperparameters.{name}: the experiment sets it itself"


def _schedule_problems(design: Design) -> Iterator[str]:
    schedule, speeds = design.schedule, design.schedule.speeds
    if isinstance(speeds, Mapping):
        missing = [name for name in design.seen if name not in speeds]
        if missing:
            yield f"schedule.speeds: nothing for {', '.join(missing)}"
    values = [*speeds.values()] if isinstance(speeds, Mapping) else [*speeds]
    if not values or min(values) <= 0:
        yield "schedule.speeds: expected numbers above 0"
    if (schedule.kind == "asynchronous") != (schedule.min_contributions is not None):
        yield "schedule.min_contributions: for an asynchronous schedule, which needs it"
    elif (schedule.min_contributions or 0) > design.num_turns:
        yield (
            f"schedule.min_contributions: got {schedule.min_contributions}, expected at most the "
            f"{design.num_turns} turns that there are"
        )
