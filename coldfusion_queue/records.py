"""The records that are kept in the object store, as frozen pydantic models in JSON.

A record is created once and never changed. ``extra="forbid"`` makes a reader refuse what it does
not know; ``RepositoryRecord.format_version`` says whether it may try.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coldfusion_queue.errors import InvalidRecordError

__all__ = [
    "FORMAT_VERSION",
    "BaseVersion",
    "Cancellation",
    "Checkpoint",
    "Collection",
    "Contribution",
    "ContributionForm",
    "DatasetRecord",
    "Decision",
    "Failure",
    "FileRecord",
    "FusedContribution",
    "FusedFile",
    "FusionPlan",
    "Hyperparameters",
    "Inspection",
    "LedgerEntry",
    "ModelIdentity",
    "Objective",
    "Outcome",
    "Override",
    "Policy",
    "Record",
    "RepositoryRecord",
    "Rule",
    "SplitRecord",
    "State",
    "Submission",
]

#: Version of the layout and the records; a repository of another version is refused.
FORMAT_VERSION = 1

#: What the numbers of a contribution are, and how they are written.
ContributionForm = Literal["delta", "full", "quantised"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of all records: frozen, strict about its fields, JSON in one canonical form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_bytes(self) -> bytes:
        """The record as UTF-8 JSON with sorted keys; equal records give equal bytes."""
        data = self.model_dump(mode="json")
        return (json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read a record.

        Args:
            data: JSON as ``to_bytes`` writes it.
            name: the object key, for the message.

        Raises:
            InvalidRecordError: the bytes are no such record.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = f"{where}: {first['msg']}" if where else first["msg"]
            raise InvalidRecordError(name, cls.__name__, problem) from error


class FileRecord(Record):
    """An object whose bytes were digested as they were written."""

    key: str
    """Object key within the bucket."""
    digest: Digest
    """sha256 of the bytes, lower-case hex."""
    num_bytes: int = Field(ge=0)
    """Size in bytes."""


class Objective(StrEnum):
    """What a dataset's head predicts."""

    #: One of a fixed set of labels; cross entropy, accuracy.
    CLASSIFICATION = "classification"
    #: A number; mean squared error, Spearman correlation.
    REGRESSION = "regression"


class SplitRecord(Record):
    """One split of an uploaded dataset: a Parquet file with text, text_pair and label."""

    file: FileRecord
    num_examples: int = Field(ge=1)


class DatasetRecord(Record):
    """An uploaded dataset; its id is the digest of its content."""

    dataset_id: str
    objective: Objective
    is_pair: bool
    """Each example has two texts."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of their indices; empty for regression."""
    splits: Mapping[str, SplitRecord]
    """``train`` always; ``validation`` and ``test`` when they were given."""


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


class Submission(Record):
    """What a contributor asked for; each of its turns becomes one contribution."""

    submission_id: str
    contributor_id: str
    """The party whose dataset it is."""
    kind: Literal["finetune", "recycled"]
    """``recycled`` was finetuned elsewhere and is contributed once, as it is."""
    dataset_id: str | None
    turns: int | None = Field(ge=1)
    """Number of contributions; None goes on until it is cancelled."""
    hyperparameters: Hyperparameters
    created_at: datetime
    created_by: str
    """Host, process and program version that wrote it."""


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
    of 3 bits an element, as ``docs/fusion.md`` describes."""
    shared: FileRecord
    """The shared parameters, under the base model's tensor names unless they are quantised."""
    head: FileRecord | None
    """The dataset's own head; never fused."""
    num_examples: int = Field(ge=0)
    """Examples in the training split; 0 if unknown."""
    metrics: Mapping[str, float]
    created_at: datetime
    created_by: str


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


class FusedContribution(Record):
    """One line of a base version's lineage."""

    contribution_id: str
    contributor_id: str
    dataset_id: str | None
    base_version: int
    staleness: int = Field(ge=0)
    coefficient: float
    """The scalar c_k of theta_{t+1} = theta_t + sum_k c_k * Delta_k, where the method is the mean;
    for other methods, the weight with which the method counted it. They sum to eta."""
    override: str | None = None
    """Why it was fused although it exceeded a limit of the policy, in the operator's words."""


class ModelIdentity(Record):
    """What makes two models fusable: architecture, tokenizer and tensor layout."""

    model_type: str
    hub_id: str
    """Hub id or directory name that the pretrained model came from."""
    tokenizer_digest: Digest | None
    """sha256 of the tokenizer's vocabulary; None if the model has none."""
    num_parameters: int


class BaseVersion(Record):
    """A base model: a directory that transformers loads, and its lineage."""

    version: int = Field(ge=0)
    prefix: str
    """Key prefix of its directory, ending in ``/``."""
    files: Mapping[str, FileRecord]
    """File name within the directory to its record."""
    parent: int | None
    """Version it was made from; None for the pretrained model."""
    method: str | None
    method_options: Mapping[str, int | float] = Field(default_factory=dict)
    """The policy's fields that the method takes, and their values."""
    server_learning_rate: float | None
    fused: tuple[FusedContribution, ...]
    state: Mapping[str, FileRecord] | None = None
    """What the next fusion with momentum needs: the model without momentum, by file name. These
    lie in the directory, but are none of its files: nobody finetunes on them."""

    MODEL_FILE: ClassVar[str] = "model.safetensors"
    INDEX_FILE: ClassVar[str] = "model.safetensors.index.json"

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the files that hold the parameters: one, or the shards in order."""
        return tuple(name for name in sorted(self.files) if name.endswith(".safetensors"))

    @property
    def model_files(self) -> tuple[FileRecord, ...]:
        """Records of these files."""
        return tuple(self.files[name] for name in self.model_names)

    @staticmethod
    def state_name(model_name: str) -> str:
        """Name of the state's file that goes with one of the model."""
        return model_name.replace("model", "without_momentum", 1)

    @property
    def objects(self) -> tuple[FileRecord, ...]:
        """Everything that was uploaded of it: its files, and the state if there is one."""
        return (*self.files.values(), *(self.state or {}).values())

    @property
    def digest(self) -> str:
        """Digest that identifies the parameters: the file's, or one over those of all shards."""
        digests = [file.digest for file in self.model_files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


class FusedFile(Record):
    """One of the files of a base version that is being made, uploaded."""

    model: FileRecord
    state: FileRecord | None
    """Of a method with momentum."""


class FusionPlan(Record):
    """What is fused into what, for the workers that help with a large fusion.

    Everything that they write follows from it, to the bit, so it does not matter who does what.
    """

    sequence: int = Field(ge=0)
    """The newest ledger entry: into the base version after it is fused."""
    prefix: str
    """Key prefix of the directory that is being made, ending in ``/``."""
    coefficients: Mapping[str, float]
    """Of every contribution that is fused, by its id."""
    method: str
    method_options: Mapping[str, int | float]


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
    retain_base_versions: int | None = Field(10, ge=1)
    """Newest base versions whose files are kept, as targets of a rollback; None keeps all. Version
    0 and what a pending contribution or a checkpoint needs are kept in any case."""
    retain_contributions: int | None = Field(2, ge=0)
    """Base versions for which the files of a decided contribution are kept after the one that it
    was decided at; None keeps all. Heads are kept in any case."""


class RepositoryRecord(Record):
    """Written by ``init``; says what this repository is."""

    format_version: int
    name: str
    identity: ModelIdentity
    created_at: datetime
    created_by: str


class State(Record):
    """What holds after a ledger entry: the fold of the ledger up to it."""

    base: BaseVersion
    policy: Policy


class LedgerEntry(Record):
    """Commit point of every decision. Entry n + 1 is created by a reader of entry n."""

    sequence: int = Field(ge=0)
    token: str
    """Unique per writer, so that a lost answer can be told from a lost race."""
    created_at: datetime
    actor: str
    """Host and process that wrote it, and its program version."""
    published: BaseVersion | None
    """Base version that this entry publishes."""
    decisions: tuple[Decision, ...]
    policy: Policy | None
    """New policy, when this entry changes it."""
    note: str
    after: State
    """The state from here on, so that a reader needs the newest entry alone."""
