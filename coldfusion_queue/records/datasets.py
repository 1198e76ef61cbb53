"""Records of datasets."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field

from coldfusion_queue.records.record import FileRecord, Record

__all__ = ["DatasetRecord", "Objective", "SplitRecord"]


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
