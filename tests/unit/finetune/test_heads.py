"""Whether the head of an earlier turn fits a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coldfusion_queue.finetune.files import LabelScale, load_head, save_head
from coldfusion_queue.finetune.model import SequenceModel, load_body

LABELS = ("no", "yes")


@pytest.fixture
def make_model(tiny_model_dir: Path) -> Callable[..., SequenceModel]:
    return lambda pooling="mean": SequenceModel(load_body(tiny_model_dir), 2, pooling, 0.1)


@pytest.fixture
def path(make_model: Callable[..., SequenceModel], tmp_path: Path) -> Path:
    """A head of two classes that sees the mean."""
    save_head(make_model(), LABELS, LabelScale(), tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def test_a_head_of_the_same_labels_and_pooling_is_put_in_place(
    make_model: Callable[..., SequenceModel], path: Path
) -> None:
    model = make_model()

    assert load_head(model, LABELS, path)
    assert torch.equal(model.head.weight, load_file(path)["weight"])


@pytest.mark.parametrize(
    ("labels", "pooling"),
    [
        pytest.param(("no", "perhaps"), "mean", id="another-label"),
        pytest.param(("yes", "no"), "mean", id="another-order"),
        pytest.param(LABELS, "last", id="another-pooling"),
    ],
)
def test_a_head_of_other_outputs_leaves_the_fresh_one(
    labels: tuple[str, ...],
    pooling: str,
    make_model: Callable[..., SequenceModel],
    path: Path,
) -> None:
    model = make_model(pooling)
    before = model.head.weight.detach().clone()

    assert not load_head(model, labels, path)
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("damage", ["nan", "no-meaning", "another-number"])
def test_a_head_that_cannot_be_used_leaves_the_fresh_one(
    damage: str, make_model: Callable[..., SequenceModel], path: Path
) -> None:
    model = make_model()
    before = model.head.weight.detach().clone()
    head = load_file(path)
    if damage == "nan":
        head["weight"][1, 3] = torch.nan
        save_head_like(path, head)
    elif damage == "no-meaning":
        save_file(head, path)
    else:
        save_head_like(path, {name: value[:1].clone() for name, value in head.items()})

    assert not load_head(model, LABELS, path)
    assert torch.equal(model.head.weight, before)


def save_head_like(path: Path, head: dict[str, torch.Tensor]) -> None:
    """Write other tensors with the same meaning."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        meaning = file.metadata()
    save_file(head, path, metadata=meaning)
