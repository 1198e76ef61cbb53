"""Records of what contributors asked for, and of what interrupted it."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal

from pydantic import Field

from coldfusion_queue.errors import UsageError
from coldfusion_queue.records.datasets import Objective
from coldfusion_queue.records.record import Digest, FileRecord, Record

__all__ = [
    "Cancellation",
    "Checkpoint",
    "Failure",
    "Hyperparameters",
    "Metric",
    "SiteData",
    "Submission",
]

#: How a dataset is scored; ``auto`` is accuracy for classes and Spearman for numbers.
Metric = Literal["auto", "accuracy", "f1", "matthews", "spearman"]


class Hyperparameters(Record):
    """How a contribution is finetuned. Defaults: Don-Yehiya et al. 2023, appendix B."""

    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate of AdamW."""
    head_learning_rate_factor: float = Field(1.0, gt=0)
    """The head's learning rate as a multiple; short turns need a head that learns faster."""
    warmup_fraction: float = Field(0.0006, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it then falls linearly to 0."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay."""
    batch_size: int = Field(256, ge=1)
    """Examples per optimizer step."""
    epochs: int = Field(10, ge=1)
    """Passes over the training split."""
    max_examples: int | None = Field(None, ge=1)
    """Examples of one turn at most, drawn anew each turn; None takes the whole split."""
    max_length: int = Field(250, ge=4)
    """Tokens per example; the rest is cut off."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout before the head."""
    freeze_embeddings: bool = False
    """Leave the token embeddings as they are in the base, which saves time on a CPU."""
    adapter: Literal["lora"] | None = None
    """What is trained of the body: with ``lora`` a low-rank adapter of each linear layer, the rest
    is frozen; None trains all of it. The head is always trained."""
    lora_rank: int = Field(8, ge=1, le=256)
    """Rank of the adapters; linear layers too small for it to save anything get none."""
    lora_alpha: float = Field(16.0, gt=0)
    """The adapters' product is multiplied by this over the rank."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    lora_learning_rate_factor: float = Field(10.0, gt=0)
    """The adapters' learning rate as a multiple, so that ``learning_rate`` suits both kinds."""
    head: Literal["warm", "fresh"] = "warm"
    """What a turn's head begins with: the newest of the same contributor and dataset, if there is
    one, or random numbers."""
    pooling: Literal["mean", "first", "last"] = "mean"
    """What the head sees: the mean over tokens, or the first or last token's hidden state."""
    metric: Metric = "auto"
    """How the development split is scored; auto is accuracy for classes, Spearman for numbers."""
    validate_every_examples: int = Field(12_800, ge=1)
    """Examples trained on between two validations."""
    patience_examples: int | None = Field(256_000, ge=1)
    """Stop when so many examples gained less than min_gain; None trains all epochs."""
    min_gain: float = Field(0.001, ge=0)
    """What the best score has to gain within the patience."""
    max_validation_examples: int = Field(1000, ge=0)
    """Examples of the development split that are scored; 0 cuts none off and scores nothing."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of everything random; turn and dataset are mixed in."""

    @property
    def body_learning_rate_factor(self) -> float:
        """The learning rate of what is trained of the body, as a multiple."""
        return self.lora_learning_rate_factor if self.adapter == "lora" else 1.0

    def metric_of(self, objective: Objective) -> Metric:
        """How a dataset of this kind is scored.

        Raises:
            UsageError: the metric is for the other kind.
        """
        is_regression = objective is Objective.REGRESSION
        if self.metric == "auto":
            return "spearman" if is_regression else "accuracy"
        if (self.metric == "spearman") != is_regression:
            expected = (
                "spearman, the labels are numbers"
                if is_regression
                else ("accuracy, f1 or matthews, the labels are classes")
            )
            raise UsageError("metric", self.metric, expected)
        return self.metric


class SiteData(Record):
    """Private data that a submission names and does not have: where it is, and how it is read.

    All of it is what the contributor said; nothing of it was read from the data.
    """

    site: str = Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")
    """Whose workers alone finetune on it."""
    path: str
    """File or folder within the site's data directory, with ``/`` between its parts."""
    text: str | None = None
    """Column of the texts; None to guess it, here and below."""
    text_pair: str | None = None
    label: str | None = None
    split: str | None = None
    """Split to train on; None for the training split."""
    objective: Literal["auto", "classification", "regression"] = "auto"

    @property
    def dataset_id(self) -> str:
        """What contributions say that they were finetuned on: a name, no digest of the content.

        Of a digest anybody who has a guess of the data could say whether it is right.
        """
        return f"site:{self.site}/{self.path}"


class Submission(Record):
    """What a contributor asked for; each of its turns becomes one contribution."""

    submission_id: str
    contributor_id: str
    """The party whose dataset it is."""
    kind: Literal["finetune", "recycled", "held_out"]
    """``recycled`` was finetuned elsewhere and is contributed once, as it is. ``held_out`` names a
    dataset that is measured on and never contributes."""
    dataset_id: str | None
    """An uploaded dataset; None if recycled, or if the data stays at a site."""
    turns: int | None = Field(ge=1)
    """Number of contributions; None goes on until it is cancelled."""
    hyperparameters: Hyperparameters
    created_at: datetime
    created_by: str
    """Host, process and program version that wrote it."""
    site_data: SiteData | None = None
    """Private data that stays at a site; None for an uploaded dataset."""
    base_version: int | None = Field(None, ge=0)
    """Version that its turns are finetuned from; None is the newest when a turn begins."""

    @property
    def site(self) -> str | None:
        """The site whose workers alone may run its turns; None if any worker may."""
        return None if self.site_data is None else self.site_data.site

    @property
    def task(self) -> str | None:
        """The same for all submissions whose heads mean the same; None if there is no head.

        It is the id of the uploaded dataset. Of private data it is a digest of what was said of it,
        since the same file may be submitted with another column as its label.
        """
        if self.site_data is None:
            return self.dataset_id
        return hashlib.sha256(self.site_data.to_bytes()).hexdigest()[:32]


class Cancellation(Record):
    """A submission whose further turns are not wanted; what was committed stays."""

    submission_id: str
    created_at: datetime


class Failure(Record):
    """A turn that ended without a contribution, and with it the submission."""

    submission_id: str
    turn: int
    error: str
    """Class of the error."""
    reason: str
    created_at: datetime


class Checkpoint(Record):
    """Commit point of an interrupted finetune: where another worker goes on with it."""

    contribution_id: str
    attempt: str
    base_version: int = Field(ge=0)
    """Version that the finetune started from, and goes on from."""
    base_digest: Digest
    """Digest of that version's model file."""
    step: int = Field(ge=1)
    """Optimizer steps done."""
    num_steps: int
    previous_head: str | None = None
    """Contribution whose head the finetune was given to begin with; None if none."""
    file: FileRecord
    """Parameters, optimizer and random state, as safetensors."""
    created_at: datetime
    created_by: str
