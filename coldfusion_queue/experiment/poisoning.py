"""A contributor that does harm: it learns on a machine of its own and hands in something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from coldfusion_queue.experiment.design import Poison
from coldfusion_queue.experiment.handing_in import hand_in
from coldfusion_queue.experiment.lab import Lab
from coldfusion_queue.intake.prepare import PreparedDataset, describe
from coldfusion_queue.records import BaseVersion, Hyperparameters
from coldfusion_queue.repository.repository import Repository

__all__ = ["contribute_poisoned", "flip_labels"]


def contribute_poisoned(
    lab: Lab,
    repository: Repository,
    base: BaseVersion,
    poison: Poison,
    submission_id: str,
    hyperparameters: Hyperparameters,
    seed: int,
    directory: Path,
) -> None:
    """Finetune as a contributor would, and hand in what it would not.

    Args:
        lab: where.
        repository: to contribute to.
        base: its version that the turn starts from.
        poison: who, and how.
        submission_id: of the turn.
        hyperparameters: of the turn.
        seed: of random numbers that are handed in.
        directory: an empty one.
    """
    from coldfusion_queue.experiment.tensors import change_delta, noise_like, scaled
    from coldfusion_queue.finetune.request import FinetuneRequest
    from coldfusion_queue.finetune.run import finetune

    dataset = lab.datasets[poison.contributor]
    if poison.kind == "label_flip":
        dataset = flip_labels(dataset, directory)
    change = {
        "label_flip": scaled(poison.factor),
        "sign_flip": scaled(-poison.factor),
        "noise": noise_like(seed, poison.factor),
    }[poison.kind]
    shared = directory / "poisoned.safetensors"
    with lab.base_dir(repository, base.version) as base_dir:
        request = FinetuneRequest(
            base_dir=base_dir,
            dataset=dataset.record(),
            splits={name: split.path for name, split in dataset.splits.items()},
            cache=lab.cache,
            hyperparameters=hyperparameters,
            turn=1,
            previous_head=None,
            form="delta",
            dtype="bfloat16",
            last_residual=None,
            keeps_residual=False,
            checkpoint=None,
            should_stop=lab.closing.is_set,
            keep=None,
        )
        result = finetune(request, lab.settings, directory, lambda _: None)
        change_delta(result.shared, base_dir, result.form, change, shared)
    hand_in(repository, base, poison.contributor, submission_id, shared)


def flip_labels(dataset: PreparedDataset, directory: Path) -> PreparedDataset:
    """The same dataset with wrong labels to train on.

    Each class is replaced by the next one; numbers are mirrored within their range.

    Args:
        dataset: the right one.
        directory: gets the training split.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from coldfusion_queue.intake.canonical import opened_writer

    split = dataset.splits["train"]
    table = pq.read_table(split.path)
    place = table.schema.get_field_index("label")
    labels: list[Any] = table["label"].to_pylist()
    if dataset.labels:
        wrong = [(label + 1) % len(dataset.labels) for label in labels]
    else:
        low, high = min(labels), max(labels)
        wrong = [low + high - label for label in labels]
    field = table.schema.field(place)
    flipped = table.set_column(place, field, pa.array(wrong, field.type))
    path = directory / "flipped-train.parquet"
    with opened_writer(path, table.schema) as writer:
        writer.write_table(flipped, max(1, len(labels)))
    return replace(dataset, splits={**dataset.splits, "train": describe(path, split.num_examples)})
