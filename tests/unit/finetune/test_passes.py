from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.finetune.model import SequenceModel, load_body, load_tokenizer
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.tokens import TokenizedExamples, tokenize
from coldfusion_queue.intake.examples import Examples
from tests.conftest import CORPUS

CPU = torch.device("cpu")


class SmallMemory(SequenceModel):
    """A model that runs out of memory beyond so many tokens of one pass."""

    limit = 10**9

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        if batch["input_ids"].numel() > self.limit:
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(batch)


@pytest.fixture
def model(tiny_model_dir: Path) -> SmallMemory:
    torch.manual_seed(0)
    return SmallMemory(load_body(tiny_model_dir), 3, "mean", 0.0).eval()


@pytest.fixture
def data(tiny_model_dir: Path) -> TokenizedExamples:
    texts = [" ".join(CORPUS[: 1 + index % 4]) for index in range(24)]
    labels = [index % 3 for index in range(24)]
    tokenizer = load_tokenizer(tiny_model_dir, load_body(tiny_model_dir))
    return tokenize(Examples(texts, None, labels), tokenizer, 32)


def gradients(model: SequenceModel, act: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = float(act())
    return loss, {
        name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None
    }


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("budget", [1, 64, 200])
def test_pieces_add_up_to_the_gradients_of_the_batch(
    budget: int, precision: str, model: SmallMemory, data: TokenizedExamples
) -> None:
    indices = [3, 1, 20, 15, 15, 7, 8]
    whole = Passes(model, CPU, precision, 10**6)
    expected_loss, expected = gradients(model, lambda: whole.gradients(data, indices))
    pieces = Passes(model, CPU, precision, budget)

    loss, found = gradients(model, lambda: pieces.gradients(data, indices))

    rough = precision == "bfloat16"
    assert loss == pytest.approx(expected_loss, rel=2e-2 if rough else 1e-5)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        close = torch.nn.functional.cosine_similarity(
            value.flatten(), expected[name].flatten(), dim=0
        )
        assert close > (0.98 if rough else 1 - 1e-5) or expected[name].norm() < 1e-5, name


def test_the_loss_is_the_mean_over_the_examples_and_the_gradients_are_of_that(
    model: SmallMemory, data: TokenizedExamples
) -> None:
    indices = list(range(9))

    def mean_loss() -> Tensor:
        outputs = model(data.batch(indices))
        loss = torch.nn.functional.cross_entropy(outputs, data.labels[indices])
        loss.backward()
        return loss.detach()

    expected_loss, expected = gradients(model, mean_loss)

    loss, found = gradients(
        model, lambda: Passes(model, CPU, "float32", 40).gradients(data, indices)
    )

    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


def test_predictions_do_not_depend_on_the_pieces_and_leave_the_mode(
    model: SmallMemory, data: TokenizedExamples
) -> None:
    model.train()
    one = Passes(model, CPU, "float32", 1).predict(data)
    many = Passes(model, CPU, "float32", 10**6).predict(data)

    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)
    assert model.training


def test_out_of_memory_halves_the_pieces_and_changes_no_gradient(
    model: SmallMemory, data: TokenizedExamples, caplog: pytest.LogCaptureFixture
) -> None:
    indices = list(range(24))
    passes = Passes(model, CPU, "float32", 10**6)
    expected_loss, expected = gradients(model, lambda: passes.gradients(data, indices))
    model.limit = 150

    with caplog.at_level(logging.WARNING):
        loss, found = gradients(model, lambda: passes.gradients(data, indices))

    assert 75 <= passes.token_budget <= 150
    assert "out of memory" in caplog.text
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_predictions_get_over_a_small_memory_as_well(
    model: SmallMemory, data: TokenizedExamples
) -> None:
    expected = Passes(model, CPU, "float32", 10**6).predict(data)
    model.limit = 40

    found = Passes(model, CPU, "float32", 10**6).predict(data)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_memory_that_holds_no_example_ends_the_training_with_a_reason(
    model: SmallMemory, data: TokenizedExamples
) -> None:
    model.limit = 20

    with pytest.raises(TrainingFailedError, match=r"one example of 32 tokens.*max_length"):
        Passes(model, CPU, "float32", 10**6).gradients(data, range(24))


def test_no_gradients_of_a_batch_that_ran_out_of_memory_are_left(
    model: SmallMemory, data: TokenizedExamples
) -> None:
    model.limit = 20
    short = [index for index in range(24) if data.lengths[index] <= 20]
    assert short  # they come first, so that their gradients are there when memory runs out

    with pytest.raises(TrainingFailedError):
        Passes(model, CPU, "float32", 20).gradients(data, range(24))

    assert all(item.grad is None for item in model.parameters())
