"""Records of base models: identity, files and lineage, and the plan of the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from coldfusion_queue.records.record import Digest, FileRecord, Record

__all__ = ["BaseVersion", "FusedContribution", "FusedFile", "FusionPlan", "ModelIdentity"]


class ModelIdentity(Record):
    """What makes two models fusable: architecture, tokenizer and tensor layout."""

    model_type: str
    hub_id: str
    """Hub id or directory name that the pretrained model came from."""
    tokenizer_digest: Digest | None
    """sha256 of the tokenizer's vocabulary; None if the model has none."""
    num_parameters: int


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


class BaseVersion(Record):
    """A base model: a directory that transformers loads, and its lineage."""

    version: int = Field(ge=0)
    prefix: str
    """Key prefix of its directory, ending in ``/``."""
    files: Mapping[str, FileRecord]
    """File name within the directory to its record."""
    parent: int | None
    """Version before it, which it was fused into; None for the pretrained model."""
    method: str | None
    method_options: Mapping[str, int | float] = Field(default_factory=dict)
    """The policy's fields that the method takes, and their values."""
    server_learning_rate: float | None
    fused: tuple[FusedContribution, ...]
    restores: int | None = None
    """Version whose parameters these are, if the one before it was rolled back."""
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
