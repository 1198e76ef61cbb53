from __future__ import annotations

import pytest
import torch
from torch import nn

from coldfusion_queue.finetune.dropout import FastDropout, dropout, use_fast_dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.937])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_many_elements_are_dropped_as_asked_and_the_mean_stays(
    probability: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    number = 1_000_003  # no multiple of the elements that share a draw

    dropped = dropout(torch.ones(number, dtype=dtype), probability)

    deviation = (probability * (1 - probability) / number) ** 0.5
    assert abs(float((dropped == 0).double().mean()) - probability) < 5 * deviation + 2**-17
    kept = dropped[dropped != 0].double()
    assert kept.unique().numel() == 1
    assert float(kept[0]) == pytest.approx(1 / (1 - probability), rel=2**-8)


def test_elements_are_dropped_independently_of_their_neighbours() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double() - 0.3

    for distance in (1, 2, 3, 4, 5, 8, 16):
        product = float((dropped[distance:] * dropped[:-distance]).mean()) / (0.3 * 0.7)
        assert abs(product) < 5 / 400_000**0.5


def test_gradients_flow_where_values_do() -> None:
    torch.manual_seed(0)
    values = torch.randn(33, 7, requires_grad=True)

    dropped = dropout(values, 0.4)
    dropped.sum().backward()

    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), dropped.detach())


def test_the_ends_of_the_range_keep_all_and_nothing() -> None:
    values = torch.randn(10)

    assert dropout(values, 0.0) is values
    assert dropout(values, 1.0).eq(0).all()
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_the_same_seed_drops_the_same_elements_and_the_next_call_others() -> None:
    values = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(3)

    assert dropout(values, 0.5).equal(first)
    assert not second.equal(first)


def test_modules_are_replaced_and_drop_only_in_training() -> None:
    special = nn.AlphaDropout(0.2)
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.25), special)).eval()
    values = torch.ones(100)

    use_fast_dropout(model)

    fast = model[1][0]
    assert isinstance(fast, FastDropout)
    assert (fast.p, model[1][1]) == (0.25, special)
    assert fast(values) is values
    assert (fast.train()(values) == 0).any()
