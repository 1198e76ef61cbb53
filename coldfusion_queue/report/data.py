"""What a report holds: plain data, the same for the page and for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from coldfusion_queue.records import (
    EvaluationKind,
    FusedContribution,
    GateReport,
    ModelIdentity,
    Outcome,
    Policy,
)

__all__ = ["Cost", "Decided", "Report", "Score", "Step", "StepKind", "plain", "utc"]

#: What a ledger entry did with a model.
StepKind = Literal["pretrained", "fused", "restored", "withheld"]


@dataclass(frozen=True)
class Step:
    """A ledger entry that published a model or withheld one."""

    sequence: int
    at: datetime
    kind: StepKind
    version: int
    """Its number; of a withheld one the number that it was to get."""
    parent: int | None
    """What it was fused into."""
    restores: int | None
    digest: str
    """Of its parameters."""
    method: str | None
    method_options: Mapping[str, int | float]
    server_learning_rate: float | None
    parts: tuple[FusedContribution, ...]
    """The contributions in it."""
    gate: GateReport | None
    note: str
    """What the ledger says, for people."""


@dataclass(frozen=True)
class Decided:
    """What became of a contribution, and what its own record says."""

    contribution_id: str
    contributor_id: str | None
    """None if its record cannot be read, here and below."""
    dataset_id: str | None
    outcome: Outcome
    rule: str | None
    reason: str
    numbers: Mapping[str, float]
    sequence: int
    version: int | None
    at: datetime
    staleness: int | None
    """None if it was refused before that was of interest."""
    num_examples: int | None
    """Examples of its training split; 0 if unknown."""
    waited_seconds: float | None
    """From its commit to this decision, by the clocks of two machines; at least 0."""


@dataclass(frozen=True)
class Score:
    """How good a model is on a dataset, measured in one way: the mean over the seeds."""

    digest: str
    """Of the model's parameters."""
    dataset_id: str
    way: str
    """Kind of the evaluation and, where that is not all, what else tells it from others."""
    kind: EvaluationKind
    metric: str
    scored_on: str
    score: float
    interval: tuple[float, float]
    """95 percent over examples, the mean of the seeds' own: says nothing of other seeds."""
    deviation: float | None
    """Standard deviation over the seeds; None if there is only one."""
    num_seeds: int
    num_train: int
    num_scored: int


@dataclass(frozen=True)
class Cost:
    """What evaluations of one kind cost, all models and datasets together."""

    kind: EvaluationKind
    num_evaluations: int
    num_failed: int
    seconds: float
    num_train: int
    num_scored: int


@dataclass(frozen=True)
class Report:
    """A repository up to one of its base versions."""

    repository: str
    identity: ModelIdentity
    created_at: datetime
    made_at: datetime
    version: int
    """The last base version that is reported on."""
    num_entries: int
    """Ledger entries up to the next version."""
    policy: Policy
    """At the last of them."""
    num_tried: int | None
    """Contributions of a batch that was withheld and is being tried at the end; None if none is."""
    steps: tuple[Step, ...]
    decisions: tuple[Decided, ...]
    """In the order of the ledger."""
    scores: tuple[Score, ...]
    costs: tuple[Cost, ...]
    failures: Mapping[str, int]
    """How often evaluations failed, by what they say."""
    datasets: Mapping[str, str]
    """Names of the datasets that occur, each of them another, by id."""

    @property
    def published(self) -> tuple[Step, ...]:
        """The base versions, the pretrained model first."""
        return tuple(step for step in self.steps if step.kind != "withheld")

    @property
    def withheld(self) -> tuple[Step, ...]:
        """What the gate did not let pass."""
        return tuple(step for step in self.steps if step.kind == "withheld")


def utc(moment: datetime) -> datetime:
    """A time in UTC; one without a zone, which a stranger's record may have, is taken as UTC."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # on the first or the last day that there is
        return moment.replace(tzinfo=UTC)


def plain(value: Any) -> Any:
    """Dataclasses and records as JSON data; what JSON has no number for becomes null."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return utc(value).isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
