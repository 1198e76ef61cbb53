"""Linear probes of every base version on the example datasets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from coldfusion_queue.demo.recipe import DATASETS, data_dir
from coldfusion_queue.evaluation.features import Embedder
from coldfusion_queue.evaluation.probe import probe_accuracy
from coldfusion_queue.intake.examples import Examples, load_examples
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.repository.repository import Repository

__all__ = ["ProbeTable", "probe_versions"]

#: Rows of each split that are looked at, so that a version takes seconds.
_TRAIN_ROWS = 600
_TEST_ROWS = 400


@dataclass(frozen=True)
class ProbeTable:
    """Probe accuracies in percent: one row a dataset, one column a base version."""

    datasets: tuple[str, ...]
    versions: tuple[int, ...]
    accuracies: dict[tuple[str, int], float]

    def mean(self, version: int) -> float:
        """Mean over the datasets."""
        return sum(self.accuracies[name, version] for name in self.datasets) / len(self.datasets)


def probe_versions(
    repository: Repository, last_version: int, on_version: Callable[[int], None]
) -> ProbeTable:
    """Probe the base versions up to one, the pretrained model first.

    Args:
        repository: where they were published.
        last_version: later ones are not looked at.
        on_version: called before each.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    splits = {name: _load(name) for name in DATASETS}
    accuracies: dict[tuple[str, int], float] = {}
    for version in range(last_version + 1):
        on_version(version)
        with tempfile.TemporaryDirectory(prefix="coldfusion-") as directory:
            repository.base_versions.download(
                repository.ledger.base_version(version), Path(directory)
            )
            embedder = Embedder(Path(directory), torch.device("cpu"), max_length=48)
            for name, (train, test) in splits.items():
                accuracy = probe_accuracy(
                    embedder.embed(train), _classes(train), embedder.embed(test), _classes(test)
                )
                accuracies[name, version] = 100 * accuracy
    return ProbeTable(tuple(DATASETS), tuple(range(last_version + 1)), accuracies)


def _load(name: str) -> tuple[Examples, Examples]:
    with tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
        prepared = prepare_dataset(str(data_dir() / name), work_dir=Path(work_dir))
        train = load_examples(prepared.splits["train"].path)
        test = load_examples(prepared.splits["test"].path)
    return train.subset(range(min(_TRAIN_ROWS, len(train)))), test.subset(
        range(min(_TEST_ROWS, len(test)))
    )


def _classes(examples: Examples) -> list[int]:
    return [int(label) for label in examples.labels]
