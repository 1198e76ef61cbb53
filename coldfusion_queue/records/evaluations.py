"""Records of evaluations: what is measured of a base model, and what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from coldfusion_queue.records.base_versions import BaseVersion
from coldfusion_queue.records.record import Digest, Record
from coldfusion_queue.records.submissions import Hyperparameters, Metric

__all__ = ["Evaluation", "EvaluationKind", "EvaluationRequest", "EvaluationSpec"]

#: How a base model is measured; see ``EvaluationSpec.kind``.
EvaluationKind = Literal["frozen", "finetuned", "few_shot"]

#: Hex digits of a model's digest in keys and ids.
_DIGEST_DIGITS = 32


class EvaluationSpec(Record):
    """What is measured of a base model: on which dataset, how, and with which seed.

    Source: Don-Yehiya et al. 2023, section 4.4 (ColD, ColD-Frozen) and 5.3 (few-shot).
    """

    dataset_id: str
    kind: EvaluationKind
    """``frozen``: a linear probe on the frozen body. ``finetuned``: a full finetune from the base
    model. ``few_shot``: the same on ``num_shots`` examples."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of all that is random; nothing is in a frozen one, whose seed is 0."""
    split: Literal["test", "validation"] = "test"
    """What is scored on. What a dataset lacks, the next one replaces: its validation split, then
    what the finetune would cut from the training split for development."""
    num_shots: int | None = Field(None, ge=1)
    """Training examples of a few-shot evaluation, drawn at random; none are cut off for
    development."""
    max_scored_examples: int | None = Field(None, ge=1)
    """Examples that are scored at most, evenly spaced; None scores all."""
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)
    """Of the finetune; a frozen one takes ``max_length``, ``pooling``, ``max_examples`` and
    ``metric`` from them."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.kind == "few_shot") != (self.num_shots is not None):
            raise ValueError("num_shots is for few_shot, which needs it")
        if self.kind == "frozen" and self.seed != 0:
            raise ValueError("a frozen evaluation has no randomness, its seed is 0")
        return self

    @property
    def name(self) -> str:
        """``<kind>-<seed>-<digest>``; two that differ in anything have different names."""
        digest = hashlib.sha256(self.to_bytes()).hexdigest()[:8]
        return f"{self.kind}-{self.seed}-{digest}"

    def evaluation_id(self, base_digest: str) -> str:
        """Names the evaluation of one model; a function of what is measured of which bytes."""
        return f"{base_digest[:_DIGEST_DIGITS]}.{self.dataset_id}.{self.name}"


class EvaluationRequest(Record):
    """An evaluation that is wanted and not done yet."""

    spec: EvaluationSpec
    base: BaseVersion
    """What is measured: a published version, or one that is to be published if it is good."""
    requested_at: datetime
    requested_by: str

    @property
    def evaluation_id(self) -> str:
        """See ``EvaluationSpec.evaluation_id``."""
        return self.spec.evaluation_id(self.base.digest)


class Evaluation(Record):
    """What an evaluation found; made once for the parameters of a base model."""

    spec: EvaluationSpec
    base_version: int = Field(ge=0)
    """Number of the version that was measured; one that was withheld has it from what it was to
    become."""
    base_digest: Digest
    """Of its parameters, which is what was measured."""
    scored_on: Literal["test", "validation", "train"]
    """The split that was scored on; ``train`` is what was cut from that for development."""
    metric: Metric | None
    """None if it failed, here and below."""
    score: float | None
    """More is better; 0 to 1, or -1 to 1 for a correlation."""
    interval: tuple[float, float] | None
    """95 percent confidence interval over examples; says nothing of other seeds."""
    num_train: int = Field(ge=0)
    """Examples that were trained on."""
    num_scored: int = Field(ge=0)
    """Examples that were scored."""
    error: str | None = None
    """Class of the error, if it could not be done."""
    failure: str | None = None
    """What it says."""
    seconds: float = Field(ge=0)
    """What it cost: wall time on the worker, downloads not counted."""
    environment: Mapping[str, str] = Field(default_factory=dict)
    """Versions and hardware."""
    created_at: datetime
    created_by: str

    @property
    def evaluation_id(self) -> str:
        """See ``EvaluationSpec.evaluation_id``."""
        return self.spec.evaluation_id(self.base_digest)
