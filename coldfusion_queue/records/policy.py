"""The policy: when to fuse, what, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coldfusion_queue.records.record import Record

__all__ = ["Policy"]


class Policy(Record):
    """When to fuse, what, and how; the same for every process of a repository."""

    min_contributions: int = Field(8, ge=1)
    """Pending contributions that make a fusion worth running (the paper's 8)."""
    max_wait_seconds: float = Field(900, ge=0)
    """Seconds after which fewer are fused, counted from the oldest pending one's arrival."""
    max_contributions: int = Field(64, ge=1)
    """Contributions of one fusion at most; one of each contributor goes before anybody's second."""
    max_staleness: int | None = Field(None, ge=0)
    """Contributions with more staleness than this expire; None keeps all."""
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    """Shape of f(s), the factor for stale contributions."""
    staleness_exponent: float = Field(0.5, ge=0)
    """a in f(s) = (1 + s)^-a, and the slope of the hinge."""
    staleness_grace: int = Field(4, ge=0)
    """b of the hinge: no discount up to this staleness."""
    importance: Literal["uniform", "examples", "capped"] = "uniform"
    """Factor for a dataset's size; ``capped`` counts examples up to ``importance_cap``."""
    importance_cap: int = Field(10_000, ge=1)
    """Examples beyond which a dataset counts no more, if ``importance`` is ``capped``."""
    balance: Literal["contributions", "contributors"] = "contributions"
    """``contributors``: who contributes seldom counts more when it does, and who is in a fusion
    more than once counts once."""
    balance_limit: int = Field(8, ge=1)
    """Fusions of absence that are made up for at most, if ``balance`` is ``contributors``."""
    server_learning_rate: float = Field(1.0, gt=0)
    """eta: how far the base model moves along the averaged delta."""
    method: Literal[
        "mean",
        "median",
        "trimmed_mean",
        "task_arithmetic",
        "nesterov",
        "clipped_mean",
        "centered_clip",
        "geometric_median",
        "ties",
        "dare",
    ] = "mean"
    """How deltas are combined; ``docs/fusion.md`` says what each method does."""
    trim_fraction: float = Field(0.2, ge=0, lt=0.5)
    """Share of the contributions that ``trimmed_mean`` leaves out at either end of each element."""
    task_arithmetic_scale: float = Field(0.3, gt=0)
    """What ``task_arithmetic`` multiplies the sum of the deltas by; 1 / K would give the mean."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """mu of ``nesterov``: how much of the last fusion's displacement the next one repeats."""
    clip_factor: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Where ``clipped_mean`` and ``centered_clip`` clip, as a multiple of the median norm."""
    clip_iterations: int = Field(3, ge=1, le=1000)
    """Steps of ``centered_clip`` towards its center, from zero; one gives ``clipped_mean``."""
    ties_density: float = Field(0.2, gt=0, le=1)
    """Share of each contribution's numbers, the largest, that ``ties`` keeps."""
    ties_scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    """What ``ties`` multiplies the mean of the agreeing numbers by."""
    dare_drop: float = Field(0.9, ge=0, lt=1)
    """Probability with which ``dare`` drops a number; the others are divided by 1 minus it."""
    max_relative_norm: float | None = Field(1.0, gt=0)
    """Norm of a contribution's delta at most, as a multiple of the base model's norm; None sets no
    limit."""
    max_norm_z: float | None = Field(6.0, gt=0)
    """How far above the others' the logarithm of that may be if it is above 0.1, in robust standard
    deviations; None sets no limit."""
    min_cosine: float | None = Field(-0.5, ge=-1, lt=1)
    """Cosine of a contribution's delta to the mean direction of the others' at least; None sets no
    limit."""
    max_copy_cosine: float | None = Field(0.95, gt=0, le=1)
    """Cosine to another contributor's delta at most; what is more is refused as a copy of the
    earlier one. None takes copies."""
    gate_datasets: tuple[str, ...] = ()
    """Ids of the datasets that a fused model is probed on before it is published; without any it is
    published at once."""
    gate_tolerance: float = Field(0.01, ge=0, lt=1)
    """How far the mean score of the probes may be below that of the version fused into."""
    gate_max_drift: float | None = Field(0.02, ge=0, lt=1)
    """How far it may be below that of the best of the last ten versions; a published version that
    is found to be further below is rolled back. None sets no limit and rolls nothing back."""
    gate_max_examples: int | None = Field(1000, ge=1)
    """Examples of a gate dataset that a probe is fitted on, and scored on, at most."""
    gate_leave_out: bool = False
    """Whether each fusion is also made without the contribution that agrees least with the others,
    which is refused if the mean score is higher without it by more than the tolerance."""
    gate_max_trials: int = Field(16, ge=1)
    """Fusions that are tried without a suspect, at most, when one was withheld."""
    retain_base_versions: int | None = Field(10, ge=1)
    """Newest base versions whose files are kept, as targets of a rollback; None keeps all. Version
    0 and what a pending contribution or a checkpoint needs are kept in any case."""
    retain_contributions: int | None = Field(2, ge=0)
    """Base versions for which the files of a decided contribution are kept after the one that it
    was decided at; None keeps all. Heads are kept in any case."""
