"""Scores against values that were worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from coldfusion_queue.errors import UsageError
from coldfusion_queue.finetune.scoring import score
from coldfusion_queue.records import Hyperparameters, Metric, Objective


def one_hot(classes: list[int], number: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), number).float()


def test_accuracy_is_the_share_of_hits() -> None:
    outputs = one_hot([0, 1, 2, 2, 1], 3)

    assert score(outputs, torch.tensor([0, 1, 2, 0, 0]), "accuracy") == pytest.approx(0.6)


def test_f1_of_two_classes_is_that_of_class_one() -> None:
    # two true positives, one false positive, two false negatives
    outputs, targets = one_hot([1, 1, 1, 0, 0, 0], 2), torch.tensor([1, 1, 0, 1, 1, 0])

    assert score(outputs, targets, "f1") == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))


def test_f1_of_more_classes_is_the_plain_mean_over_them() -> None:
    outputs, targets = one_hot([0, 0, 1, 2], 4), torch.tensor([0, 1, 1, 2])

    # class 0: 2/3, class 1: 2/3, class 2: 1; class 3 occurs nowhere
    assert score(outputs, targets, "f1") == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_matthews_correlation_is_the_one_of_the_counts() -> None:
    outputs, targets = one_hot([1, 1, 1, 0, 0, 0], 2), torch.tensor([1, 1, 0, 1, 1, 0])
    tp, tn, fp, fn = 2, 1, 1, 2
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))

    assert score(outputs, targets, "matthews") == pytest.approx(expected)


def test_spearman_looks_at_ranks_alone() -> None:
    targets = torch.tensor([1.0, 2.0, 3.0, 4.0])

    assert score(torch.tensor([[0.1], [0.2], [30.0], [31.0]]), targets, "spearman") == 1
    assert score(torch.tensor([[4.0], [3.0], [2.0], [-1.0]]), targets, "spearman") == -1
    # one swap of neighbours: 1 - 6 * 2 / (4 * 15)
    swapped = torch.tensor([[1.0], [3.0], [2.0], [4.0]])
    assert score(swapped, targets, "spearman") == pytest.approx(0.8)


@pytest.mark.parametrize("number", [1, 5])
def test_what_is_constant_correlates_with_nothing(number: int) -> None:
    constant = torch.full((number, 1), 2.0)

    assert score(constant, torch.arange(number).float(), "spearman") == 0
    assert score(one_hot([0] * number, 2), torch.tensor([0] * number), "matthews") == 0


@pytest.mark.parametrize(
    ("metric", "objective", "expected"),
    [
        ("auto", Objective.CLASSIFICATION, "accuracy"),
        ("auto", Objective.REGRESSION, "spearman"),
        ("f1", Objective.CLASSIFICATION, "f1"),
        ("spearman", Objective.REGRESSION, "spearman"),
    ],
)
def test_the_metric_follows_from_the_task(
    metric: Metric, objective: Objective, expected: str
) -> None:
    assert Hyperparameters(metric=metric).metric_of(objective) == expected


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_a_metric_of_classes_does_not_score_numbers(metric: Metric) -> None:
    with pytest.raises(UsageError, match=r"expected spearman, the labels are numbers"):
        Hyperparameters(metric=metric).metric_of(Objective.REGRESSION)


def test_a_correlation_does_not_score_classes() -> None:
    with pytest.raises(UsageError, match=r"expected accuracy, f1 or matthews"):
        Hyperparameters(metric="spearman").metric_of(Objective.CLASSIFICATION)
