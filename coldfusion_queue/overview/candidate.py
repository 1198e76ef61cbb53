"""What waits for the gate, and how many of its probes are missing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from coldfusion_queue.overview.overview import StoreOverview
from coldfusion_queue.repository.gating import gate_specs
from coldfusion_queue.repository.repository import Repository

__all__ = ["CandidateOverview", "read_candidate"]


@dataclass(frozen=True)
class CandidateOverview:
    """A fused model that is published when the gate lets it pass."""

    version: int
    """Base version that it would be."""
    since: datetime
    num_probes: int
    missing: tuple[str, ...]
    """Ids of those that are not done."""
    missing_on: tuple[str, ...]
    """Ids of the datasets that these are on."""
    failures: tuple[str, ...]
    """Why probes failed: while there is one, nobody knows whether the model is good."""
    without: str | None
    """Contribution of the batch that was left out to see whether it is at fault."""


def read_candidate(repository: Repository, store: StoreOverview) -> CandidateOverview | None:
    """What waits; None if nothing does.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    if not store.is_candidate_waiting:
        return None
    newest = store.newest
    found = repository.candidates.find(newest.sequence + 1)
    if found is None or found.entry.published is None:  # it was judged a moment ago
        return None
    wanted = {
        spec.evaluation_id(model.digest): spec.dataset_id
        for spec in gate_specs(newest.after.policy)
        for model in (*found.models, newest.after.base)
    }
    probes = {name: repository.evaluations.find(name) for name in wanted}
    missing = tuple(name for name, probe in probes.items() if probe is None)
    return CandidateOverview(
        version=found.entry.published.version,
        since=found.entry.created_at,
        num_probes=len(wanted),
        missing=missing,
        missing_on=tuple(dict.fromkeys(wanted[name] for name in missing)),
        failures=tuple(item.failure for item in probes.values() if item and item.failure),
        without=found.suspect,
    )
