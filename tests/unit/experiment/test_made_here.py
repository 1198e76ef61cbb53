"""Contributions that an experiment makes itself: random numbers, wrong labels, one body for all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.experiment.design import Design
from coldfusion_queue.experiment.multitask import batches_of, examples_of
from coldfusion_queue.experiment.poisoning import flip_labels
from coldfusion_queue.experiment.schedule import plan
from coldfusion_queue.experiment.tensors import change_delta, noise_like, scaled
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset
from coldfusion_queue.records import Hyperparameters
from tests.rows import rows, write_rows

BASE = {"a": torch.full((40, 50), 2.0), "b": torch.zeros(70), "n": torch.arange(3)}
DELTA = {
    "a": torch.randn(40, 50, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "b": torch.linspace(-1e-3, 1e-3, 70).bfloat16(),
    "n": torch.arange(3),
}


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "base"
    directory.mkdir()
    save_file(BASE, directory / "model.safetensors")
    return directory


def changed(tmp_path: Path, base_dir: Path, change: Any, form: str = "delta") -> dict[str, Any]:
    tensors = DELTA
    if form == "full":
        tensors = {"n": DELTA["n"]} | {name: BASE[name] + DELTA[name].float() for name in "ab"}
    save_file(tensors, tmp_path / "real.safetensors")
    target = tmp_path / "changed.safetensors"
    change_delta(tmp_path / "real.safetensors", base_dir, form, change, target)
    # Copied, because the file is mapped and the next one is written in its place.
    return {name: value.clone() for name, value in load_file(target).items()}


@pytest.mark.parametrize("form", ["delta", "full"])
def test_random_deltas_are_as_long_as_real_ones_tensor_by_tensor_and_like_nothing(
    base_dir: Path, tmp_path: Path, form: str
) -> None:
    noise = changed(tmp_path, base_dir, noise_like(3), form)

    for name in "ab":
        real, made = DELTA[name].float().flatten(), noise[name].float().flatten()
        assert float(made.norm() / real.norm()) == pytest.approx(1, rel=0.01)
        assert abs(float(torch.cosine_similarity(real, made, dim=0))) < 0.3
    assert torch.equal(noise["n"], DELTA["n"])


def test_random_deltas_follow_from_their_seed(base_dir: Path, tmp_path: Path) -> None:
    found = [changed(tmp_path, base_dir, noise_like(seed))["a"] for seed in (3, 3, 4)]

    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_delta_times_a_number(base_dir: Path, tmp_path: Path) -> None:
    made = changed(tmp_path, base_dir, scaled(-2.0))

    assert torch.equal(made["a"], -2 * DELTA["a"])
    assert torch.equal(made["n"], DELTA["n"])


def test_a_form_whose_numbers_are_not_there_is_refused(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleModelError, match="low_rank"):
        change_delta(tmp_path / "x", base_dir, "low_rank", scaled(1.0), tmp_path / "y")


def prepared(tmp_path: Path, kind: str) -> PreparedDataset:
    data = write_rows(tmp_path / "train.jsonl", rows(kind, 30))
    work_dir = tmp_path / "prepared"
    work_dir.mkdir()
    return prepare_dataset(str(data), work_dir=work_dir)


def labels(dataset: PreparedDataset) -> list[Any]:
    return list(pq.read_table(dataset.splits["train"].path)["label"].to_pylist())


def test_flipped_classes_are_each_the_next_one(tmp_path: Path) -> None:
    right = prepared(tmp_path, "single")

    wrong = flip_labels(right, tmp_path)

    assert labels(wrong) == [(label + 1) % 3 for label in labels(right)]
    assert wrong.splits["train"].digest != right.splits["train"].digest
    assert wrong.dataset_id == right.dataset_id


def test_flipped_numbers_are_mirrored(tmp_path: Path) -> None:
    right = prepared(tmp_path, "regression")

    wrong = flip_labels(right, tmp_path)

    np.testing.assert_allclose(labels(wrong), labels(right)[::-1])


DESIGN = Design(seen=("a", "b", "c"), contributors_per_iteration=2, iterations=5)


def test_multitask_trains_on_as_many_examples_as_the_contributions_together() -> None:
    recipe = Hyperparameters(epochs=3, max_examples=50)
    turns = Counter(turn.contributor for fusion in plan(DESIGN, 0) for turn in fusion.turns)

    counts = examples_of(DESIGN, 0, {"a": 20, "b": 50, "c": 80}, recipe)

    assert counts == {"a": turns["a"] * 60, "b": turns["b"] * 150, "c": turns["c"] * 150}
    assert sum(turns.values()) == 10


def test_multitask_batches_are_of_one_dataset_each_and_mixed() -> None:
    sizes, counts = {"a": 10, "b": 33}, {"a": 25, "b": 99}
    data: Any = {
        name: SimpleNamespace(train=SimpleNamespace(lengths=np.arange(size)))
        for name, size in sizes.items()
    }

    batches = batches_of(data, counts, 8, seed=0)

    found = {name: Counter[int]() for name in sizes}
    for name, indices in batches:
        found[name].update(indices)
    assert {name: sum(each.values()) for name, each in found.items()} == counts
    assert set(found["b"].values()) == {3}  # three whole passes
    assert set(found["a"].values()) == {2, 3}
    order = [name for name, _ in batches]
    assert order != sorted(order)
    assert batches_of(data, counts, 8, seed=0) == batches
    assert batches_of(data, counts, 8, seed=1) != batches
