"""What became of the fusions of a schedule, read from the records of a repository."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coldfusion_queue.experiment.schedule import Fusion, Turn
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import BaseVersion, Outcome
from coldfusion_queue.repository.repository import Repository

__all__ = ["FusionOutcome", "contribution_of", "outcome_of", "outcomes", "submission_of"]


@dataclass(frozen=True)
class FusionOutcome:
    """What the ledger says of the contributions of one fusion."""

    fusion: Fusion
    undecided: tuple[str, ...]
    """Ids of contributions that no entry decided yet."""
    num_decided: int
    num_refused: int
    base: BaseVersion | None
    """The base version after the last of these decisions; None while one is missing."""


def submission_of(turn: Turn) -> str:
    """Id of the submission of a turn, the same in every run."""
    return f"{turn.contributor}-i{turn.number:04d}"


def contribution_of(turn: Turn) -> str:
    """Id of a turn's contribution."""
    return contribution_id(submission_of(turn), 1)


def outcome_of(repository: Repository, fusion: Fusion) -> FusionOutcome:
    """Look at the decisions of a fusion."""
    names = [contribution_of(turn) for turn in fusion.turns]
    found = {name: repository.contributions.decision(name) for name in names}
    undecided = tuple(name for name, decision in found.items() if decision is None)
    decisions = [decision for decision in found.values() if decision is not None]
    base = None
    if not undecided:
        last = max(decision.sequence for decision in decisions)
        base = repository.ledger.entry(last).after.base
    num_refused = sum(1 for decision in decisions if decision.outcome is not Outcome.FUSED)
    return FusionOutcome(fusion, undecided, len(decisions), num_refused, base)


def outcomes(repository: Repository, fusions: Iterable[Fusion]) -> Iterator[FusionOutcome]:
    """Those of all fusions in order, up to the first that is not over."""
    for fusion in fusions:
        outcome = outcome_of(repository, fusion)
        if outcome.base is None:
            return
        yield outcome
