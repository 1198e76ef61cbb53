"""The gate: is a fused model as good as what is published, by probes on datasets of the policy.

It knows what is measured and what the figures mean. Who measures is none of its business: it
asks for what is missing (``Evaluations.want``) and judges when everything is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from coldfusion_queue.errors import UnusableModelError
from coldfusion_queue.records import (
    BaseVersion,
    EvaluationRequest,
    EvaluationSpec,
    GateReport,
    Hyperparameters,
    LedgerEntry,
    Policy,
)
from coldfusion_queue.repository.repository import Repository

__all__ = ["Gate", "Standing", "gate_specs"]

log = logging.getLogger(__name__)

#: Published versions that a model is compared with, the newest one included, and ledger entries
#: that are read for them.
_LOOK_BACK = 10
_MAX_ENTRIES = 200

#: The score of a model that gives no numbers, on any dataset: no tolerance lets that pass.
_UNUSABLE = -1.0


def gate_specs(policy: Policy) -> list[EvaluationSpec]:
    """What the gate measures of a model: a linear probe for each gate dataset.

    Scored is the validation split, so that the test split stays a test.
    """
    hyperparameters = Hyperparameters(max_examples=policy.gate_max_examples)
    return [
        EvaluationSpec(
            dataset_id=dataset_id,
            kind="frozen",
            split="validation",
            max_scored_examples=policy.gate_max_examples,
            hyperparameters=hyperparameters,
        )
        for dataset_id in policy.gate_datasets
    ]


@dataclass(frozen=True)
class Standing:
    """How a published version stands."""

    base: BaseVersion
    mean: float
    """Over the gate datasets."""


class Gate:
    """The gate of a repository, as the policy of a ledger entry sets it.

    Args:
        repository: where.
        newest: its newest ledger entry.
    """

    def __init__(self, repository: Repository, newest: LedgerEntry) -> None:
        self._repository = repository
        self._newest = newest
        self._policy = newest.after.policy
        self._specs = gate_specs(self._policy)
        self._wanted: dict[str, EvaluationRequest] = {}

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return bool(self._specs)

    @property
    def wanted(self) -> tuple[EvaluationRequest, ...]:
        """What was found missing; somebody has to send it."""
        return tuple(self._wanted.values())

    def ask(self, base: BaseVersion) -> Mapping[str, float | None] | None:
        """Scores of a model by dataset; None for one on which it cannot be measured.

        Writes: ``wanted/<evaluation_id>.json`` of what is missing.

        Returns:
            None if not everything is measured yet; see ``wanted``.
        """
        scores = self._scores(base)
        if scores is None:
            for request in self._repository.evaluations.want(base, self._specs):
                self._wanted[request.evaluation_id] = request
        return scores

    def ask_for_reference(self) -> None:
        """Have the published version measured while nothing is to be fused; see ``wanted``."""
        if self.is_set:
            self.ask(self._newest.after.base)

    def judge(self, candidate: BaseVersion) -> GateReport | None:
        """Compare a fused model with what is published.

        Returns:
            None if something is not measured yet, or a gate dataset cannot be measured at all:
            then nobody knows whether the candidate is good, so it is not published.
        """
        published = self._newest.after.base
        scores, reference = self.ask(candidate), self.ask(published)
        if scores is None or reference is None:
            return None
        found, known = _known(scores), _known(reference)
        if len(found) < len(scores) or len(known) < len(reference):
            self._complain(sorted({*scores} - {*found} | {*reference} - {*known}))
            return None
        mean, reference_mean = fmean(found.values()), fmean(known.values())
        # Its probes may have come in since the standings were looked at.
        standings = [Standing(published, reference_mean), *self._standings]
        best = max(standings, key=lambda item: item.mean)
        floor = reference_mean - self._policy.gate_tolerance
        if self._policy.gate_max_drift is not None:
            floor = max(floor, best.mean - self._policy.gate_max_drift)
        return GateReport(
            scores=found,
            reference=known,
            mean=mean,
            reference_mean=reference_mean,
            best_mean=best.mean,
            best_version=best.base.version,
            floor=floor,
        )

    def regression(self) -> tuple[Standing, Standing] | None:
        """The published version, if it is found to be too bad, and the best one to go back to.

        What was measured counts, whenever that was; nothing is asked for.
        """
        limit = self._policy.gate_max_drift
        if limit is None or not self.is_set or not self._standings:
            return None
        current, *earlier = self._standings
        if current.base.version != self._newest.after.base.version:  # it is not measured yet
            return None
        worse = [item for item in earlier if item.mean - current.mean > limit]
        return (current, max(worse, key=lambda item: item.mean)) if worse else None

    def failed(self, base: BaseVersion) -> list[str]:
        """Why a model cannot be measured, one sentence for each dataset."""
        find = self._repository.evaluations.find
        found = [(spec, find(spec.evaluation_id(base.digest))) for spec in self._specs]
        return [
            f"dataset {spec.dataset_id}: {item.failure}"
            for spec, item in found
            if item is not None and item.failure is not None
        ]

    @cached_property
    def _standings(self) -> list[Standing]:
        """The last published versions that count and were measured, the newest first."""
        found = []
        for base in self._that_count():
            known = _known(self._scores(base) or {})
            if known and len(known) == len(self._specs):
                found.append(Standing(base, fmean(known.values())))
        return found

    def _scores(self, base: BaseVersion) -> dict[str, float | None] | None:
        find = self._repository.evaluations.find
        scores: dict[str, float | None] = {}
        for spec in self._specs:
            found = find(spec.evaluation_id(base.digest))
            if found is None:
                return None
            # Of a failure only this one is the model's; any other says nothing of it.
            is_unusable = found.error == UnusableModelError.__name__
            scores[spec.dataset_id] = _UNUSABLE if is_unusable else found.score
        return scores

    def _that_count(self) -> Iterator[BaseVersion]:
        """Versions that a model is compared with, and can be rolled back to; the newest first.

        What an operator published knowingly, by a rollback, an override, or a fusion without the
        gate, is a new beginning: what was before is no standard for it.
        """
        entry, oldest = self._newest, self._newest.sequence - _MAX_ENTRIES
        num_versions = 0
        while True:
            if entry.published is not None:
                if num_versions == 0 or self._is_there(entry.published):
                    yield entry.published
                num_versions += 1
                if num_versions == _LOOK_BACK or _is_a_beginning(entry):
                    return
            if entry.sequence <= max(0, oldest):
                return
            entry = self._repository.ledger.entry(entry.sequence - 1)

    def _is_there(self, base: BaseVersion) -> bool:
        stat = self._repository.store.stat
        return all(stat(file.key) is not None for file in base.model_files)

    def _complain(self, dataset_ids: Sequence[str]) -> None:
        names = ", ".join(dataset_ids)
        remedy = "see 'coldfusion status'; 'coldfusion evaluate --gate --again' tries once more"
        log.error(
            "the gate cannot measure dataset %s, so nothing is published: %s",
            *(names, remedy),
            extra={"event": "gate_stuck"},
        )


def _is_a_beginning(entry: LedgerEntry) -> bool:
    """Whether an operator published something knowingly, whatever the gate says."""
    assert entry.published is not None  # noqa: S101 - the caller looked
    if entry.published.restores is not None:
        return True
    if entry.gate is not None:
        return not entry.gate.passed
    return bool(entry.after.policy.gate_datasets)


def _known(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if score is not None}
