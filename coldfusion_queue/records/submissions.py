"""Records of what contributors asked for, and of what interrupted it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from coldfusion_queue.records.record import Digest, FileRecord, Record

__all__ = ["Cancellation", "Checkpoint", "Failure", "Hyperparameters", "SiteData", "Submission"]


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
    pooling: Literal["mean", "first", "last"] = "mean"
    """What the head sees: the mean over tokens, or the first or last token's hidden state."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of everything random; turn and dataset are mixed in."""


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
    kind: Literal["finetune", "recycled"]
    """``recycled`` was finetuned elsewhere and is contributed once, as it is."""
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

    @property
    def site(self) -> str | None:
        """The site whose workers alone may run its turns; None if any worker may."""
        return None if self.site_data is None else self.site_data.site


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
    file: FileRecord
    """Parameters, optimizer and random state, as safetensors."""
    created_at: datetime
    created_by: str
