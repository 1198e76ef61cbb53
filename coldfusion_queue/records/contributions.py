"""Records of contributions: what was committed, found out and decided about them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from coldfusion_queue.records.record import Digest, FileRecord, Record

__all__ = [
    "Collection",
    "Contribution",
    "ContributionForm",
    "Decision",
    "Inspection",
    "Outcome",
    "Override",
    "Rule",
]

#: What the numbers of a contribution are, and how they are written.
ContributionForm = Literal["delta", "full", "quantised", "low_rank"]


class Contribution(Record):
    """Commit point of a finetune: one set of shared parameters and where it came from."""

    contribution_id: str
    submission_id: str
    contributor_id: str
    dataset_id: str | None
    turn: int = Field(ge=1)
    attempt: str
    base_version: int = Field(ge=0)
    """Version that the finetune started from (tau in the formulae)."""
    base_digest: Digest
    """Digest of that version's model file."""
    form: ContributionForm
    """``delta``: finetuned minus base. ``full``: the finetuned parameters. ``quantised``: a delta
    of 3 bits an element. ``low_rank``: a delta's factors. ``docs/fusion.md`` describes them."""
    shared: FileRecord
    """The shared parameters, in ``delta`` and ``full`` under the base model's tensor names."""
    head: FileRecord | None
    """The dataset's own head; never fused."""
    previous_head: str | None = None
    """Contribution whose head this finetune began with; None if with a fresh one, or if the record
    is from before this was recorded."""
    num_examples: int = Field(ge=0)
    """Examples in the training split; 0 if unknown."""
    metrics: Mapping[str, float]
    environment: Mapping[str, str] = Field(default_factory=dict)
    """Versions and hardware of the finetune; empty if it was done elsewhere."""
    created_at: datetime
    created_by: str
    traceparent: str | None = Field(
        None, pattern=r"^[0-9a-f]{2}(-[0-9a-f]+){3}$", exclude_if=lambda value: value is None
    )
    """Span of its commit, in the form of W3C Trace Context. Left out if nothing is traced, so that
    a program from before there were traces reads the record."""


class Inspection(Record):
    """What a contribution's shared parameters were found to be before it could be fused.

    It follows from the files alone, so that it could be made anew.
    """

    contribution_id: str
    digest: Digest
    """Of the shared parameters that were looked at."""
    stamp: str
    """The store's tag and time of that object, which change when it is overwritten."""
    norm: float = Field(ge=0, allow_inf_nan=False)
    """Euclidean norm of the delta."""
    base_digest: Digest
    """Of the parameters of the base version that was the newest then."""
    base_norm: float = Field(ge=0, allow_inf_nan=False)
    """Euclidean norm of those."""
    sketch: str
    """The delta's count sketch, see ``fusion.sketch``: base64 of little-endian float32."""
    created_at: datetime
    created_by: str

    @property
    def relative_norm(self) -> float:
        """How long the delta is, as a multiple of the base model."""
        return min(self.norm / max(self.base_norm, sys.float_info.min), sys.float_info.max)


class Override(Record):
    """An operator's word that a contribution may be fused whatever the policy's limits say."""

    contribution_id: str
    reason: str = Field(min_length=1)
    refused_id: str | None
    """The refused contribution whose files these are; None if they are its own."""
    created_at: datetime
    created_by: str


class Collection(Record):
    """Says before it is done that files of a contribution or base version are deleted."""

    keys: tuple[str, ...]
    """Object keys of the files; they may be there still."""
    reason: str
    created_at: datetime
    created_by: str


class Outcome(StrEnum):
    """How a ledger entry decided a contribution."""

    #: Its delta is part of a base version.
    FUSED = "fused"
    #: It cannot be fused, for the recorded reason.
    REFUSED = "refused"
    #: Its base version is older than ``max_staleness`` allows.
    EXPIRED = "expired"


class Rule(StrEnum):
    """What a contribution was refused for."""

    #: Its record cannot be read.
    RECORD = "record"
    #: Its file, or its base version, is gone, damaged, or not the recorded one.
    FILE = "file"
    #: It does not fit the base model: other tensors, another base version, too large numbers.
    MODEL = "model"
    #: It holds NaN or infinities.
    FINITE = "finite"
    #: ``max_relative_norm``.
    RELATIVE_NORM = "relative_norm"
    #: ``max_norm_z``.
    NORM_Z = "norm_z"
    #: ``min_cosine``.
    COSINE = "cosine"
    #: ``max_copy_cosine``.
    COPY = "copy"
    #: ``gate_tolerance`` or ``gate_max_drift``: the base model is worse with it.
    GATE = "gate"


class Decision(Record):
    """What became of a contribution. The ledger entry is the truth, this its copy."""

    contribution_id: str
    outcome: Outcome
    reason: str
    rule: Rule | None = None
    """What it was refused for."""
    sequence: int
    """Ledger entry that decided it."""
    version: int | None
    """Base version it was fused into."""
    numbers: Mapping[str, float] = Field(default_factory=dict)
    """Figures behind the decision: staleness, coefficient, and those of ``repository.judging``."""
