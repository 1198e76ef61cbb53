"""Records of the gate: what it found of a fused model, and what it tries when that is worse."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from coldfusion_queue.records.record import Record

__all__ = ["GateReport", "Trial"]


class GateReport(Record):
    """Probes of a fused model beside those of the version that it was fused into.

    Means are over the gate datasets, as are the policy's ``gate_tolerance`` and ``gate_max_drift``.
    """

    scores: Mapping[str, float]
    """Of the fused model, by dataset; -1 where it gives features that are not finite."""
    reference: Mapping[str, float]
    """Of the version that it was fused into."""
    mean: float
    reference_mean: float
    best_mean: float
    """Of the best of the versions that are looked back at."""
    best_version: int
    floor: float
    """Least mean that passes."""

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return self.mean >= self.floor

    @property
    def is_clear(self) -> bool:
        """Whether nothing at all was lost."""
        return self.passed and self.mean >= self.reference_mean


class Trial(Record):
    """A batch whose fusion was withheld, and what is known about it so far.

    The batch is fused again without one suspect at a time (leave-one-out); see
    ``repository.trials``.
    """

    members: tuple[str, ...]
    """Contributions of the batch, by id."""
    suspects: tuple[str, ...]
    """Those of them that may be left out, the one that agrees least with the others first."""
    withheld_mean: float
    """Mean of the gate's scores with all of them."""
    means: Mapping[str, float] = Field(default_factory=dict)
    """The same without one of them, by its id."""
    excluded: tuple[str, ...] = ()
    """What is left out in any case, because no single one was enough."""
    num_trials: int = Field(0, ge=0)
    """Fusions that were tried."""
