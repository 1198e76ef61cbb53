from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coldfusion_queue.finetune import attention
from coldfusion_queue.finetune.attention import use_fast_attention
from coldfusion_queue.finetune.model import load_body


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 9, dtype=torch.int64)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def hidden(body: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = body(**inputs).last_hidden_state
    return found


def test_the_outputs_are_those_of_the_stock_attention(tiny_model_dir: Path) -> None:
    body = load_body(tiny_model_dir).eval()
    inputs = batch()
    expected = hidden(body, inputs)
    alone = hidden(body, {"input_ids": inputs["input_ids"][1:2, :6]})

    use_fast_attention(body)

    tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(hidden(body, inputs)[tokens], expected[tokens])
    torch.testing.assert_close(hidden(body, inputs)[1:2, :6], alone)


@torch.no_grad()
def test_with_dropout_the_mean_over_many_passes_is_the_output_without(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body: Any = load_body(tiny_model_dir)
    use_fast_attention(body)
    layer = body.encoder.layer[0].attention.self
    inputs = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    mask[1, :, :, 5:] = False
    expected = layer.eval()(inputs, mask)[0]
    torch.manual_seed(0)

    means = torch.stack([layer.train()(inputs, mask)[0] for _ in range(2000)])

    error = (means.mean(dim=0) - expected).abs()
    assert (error < 5 * means.std(dim=0) / 2000**0.5 + 1e-6).all()
    assert float(means.std(dim=0).mean()) > 0
    monkeypatch.setattr(attention, "fast_dropout", lambda weights, _: weights)
    torch.testing.assert_close(layer(inputs, mask)[0], expected)


def test_a_batch_without_padding_needs_no_mask(tiny_model_dir: Path) -> None:
    body = load_body(tiny_model_dir).eval()
    use_fast_attention(body)
    ids = batch()["input_ids"]

    without = hidden(body, {"input_ids": ids})

    all_ones = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.testing.assert_close(without, hidden(body, all_ones))


def test_a_model_whose_attention_cannot_be_chosen_is_left_alone() -> None:
    body = nn.Linear(2, 2)

    use_fast_attention(body)

    assert not hasattr(body, "config")
