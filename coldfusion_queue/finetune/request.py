"""What a finetune needs and what it gives: files on this machine and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.finetune.data import Scored
from coldfusion_queue.finetune.saving import Keep
from coldfusion_queue.records import ContributionForm, DatasetRecord, Hyperparameters, Metric
from coldfusion_queue.settings import ContributionChoice, ContributionDtype

__all__ = ["FinetuneRequest", "FinetuneResult", "Predictions"]


@dataclass(frozen=True)
class FinetuneRequest:
    """What one finetune needs: files on this machine and numbers."""

    base_dir: Path
    """Directory of the base version."""
    dataset: DatasetRecord
    splits: Mapping[str, Path]
    """Parquet file of each split."""
    cache: LocalCache
    """Where tokenised splits are kept for the next turn."""
    hyperparameters: Hyperparameters
    turn: int
    previous_head: Path | None
    """Head of an earlier turn; None starts with a fresh one."""
    form: ContributionChoice
    dtype: ContributionDtype
    """In what a delta is written; of no meaning for factors and the full form."""
    last_residual: Path | None
    """What quantising cut off the last turn; None if it is lost or there was none."""
    keeps_residual: bool
    """Whether to write what quantising cuts off this turn."""
    checkpoint: Path | None
    """State that an interrupted finetune of the same turn left; None begins at the first step."""
    should_stop: Callable[[], bool]
    """Asked after each optimizer step but the last."""
    keep: Keep | None
    """Takes the checkpoints that are made every ``checkpoint_seconds``. None makes none, also when
    it is told to stop."""
    scored: Scored | None = None
    """What is to be scored when it is trained; None where it is trained to be contributed."""
    is_private: bool = False
    """The data is a site's: nothing is written that was worked out from its labels but weights."""


@dataclass(frozen=True)
class FinetuneResult:
    """Files to contribute, and figures."""

    shared: Path
    form: ContributionForm
    """What ``shared`` is."""
    residual: Path | None
    """What quantising cut off; None if there is nothing to keep."""
    head: Path
    metrics: Mapping[str, float]
    environment: Mapping[str, str]
    """Versions and hardware, to repeat it with."""
    head_was_taken: bool
    """Whether it began with the previous head, because there was one and it fitted."""


@dataclass(frozen=True)
class Predictions:
    """What a finetuned model says of examples that it was not trained on."""

    outputs: Tensor
    """(N, C) float32 scores of the classes, or (N, 1) of numbers."""
    targets: Tensor
    """(N,) int64 classes, or float32 numbers in the scale of the outputs."""
    metric: Metric
    """Of the task."""
    num_train: int
    """Examples that it was trained on."""
    environment: Mapping[str, str]
    """Versions and hardware."""
