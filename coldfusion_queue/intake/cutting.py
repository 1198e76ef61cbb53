"""Parts of a prepared dataset: fewer rows of each split, drawn at random and always the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coldfusion_queue.intake.canonical import opened_writer
from coldfusion_queue.intake.prepare import PreparedDataset, PreparedSplit, dataset_id_of, describe

__all__ = ["Cut", "cut_dataset"]


@dataclass(frozen=True)
class Cut:
    """Which rows are taken."""

    limits: Mapping[str, int | None]
    """Rows of each split at most; None, or a split that is not named, takes all."""
    part: tuple[int, int] = (1, 1)
    """(i, n) takes the i-th of n disjoint parts of the training split, before the limit."""
    seed: int = 0
    """Of the draw; the same dataset and seed give the same rows."""


def cut_dataset(prepared: PreparedDataset, cut: Cut, directory: Path) -> PreparedDataset:
    """Write the rows that are taken, in their order, as another dataset.

    Its labels are those of the whole one, also where some have no row any more.

    Args:
        prepared: the whole.
        cut: what to take of it.
        directory: an existing one; gets ``<split>.parquet``.

    Returns:
        What was cut, or the whole if that has no more rows.
    """
    splits = {name: _cut(prepared, name, cut, directory) for name in prepared.splits}
    if splits == dict(prepared.splits):
        return prepared
    name = dataset_id_of(prepared.objective, prepared.is_pair, prepared.labels, splits)
    return replace(prepared, dataset_id=name, splits=splits)


def _cut(prepared: PreparedDataset, name: str, cut: Cut, directory: Path) -> PreparedSplit:
    import pyarrow.parquet as pq

    split = prepared.splits[name]
    index, total = cut.part if name == "train" else (1, 1)
    limit = cut.limits.get(name)
    if total == 1 and (limit is None or limit >= split.num_examples):
        return split
    text = f"{prepared.dataset_id}/{name}/{cut.seed}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    order = np.random.default_rng(seed).permutation(split.num_examples)
    chosen = np.sort(np.array_split(order, total)[index - 1][:limit])
    table = pq.read_table(split.path).take(chosen)
    path = directory / split.path.name
    with opened_writer(path, table.schema) as writer:
        writer.write_table(table, max(1, len(chosen)))
    return describe(path, len(chosen))
