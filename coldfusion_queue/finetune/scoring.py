"""The score of a dataset's task: accuracy, F1, Matthews or Spearman correlation."""

from __future__ import annotations

from torch import Tensor

from coldfusion_queue.records import Metric

__all__ = ["score"]


def score(outputs: Tensor, targets: Tensor, metric: Metric) -> float:
    """How good the outputs of a model are; more is better.

    Args:
        outputs: (N, C) float32 scores of the classes, or (N, 1) of numbers.
        targets: (N,) int64 classes, or float32 numbers.
        metric: of the task; F1 is of class 1 where there are two classes, else the plain mean
            over the classes (macro).

    Returns:
        0 to 1, or -1 to 1 for a correlation; 0 for a correlation with something constant.
    """
    if metric == "spearman":
        return _spearman(outputs.squeeze(-1), targets)
    predicted = outputs.argmax(dim=1)
    if metric == "accuracy":
        return float((predicted == targets).double().mean())
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == "matthews":
        if _is_constant(predicted) or _is_constant(targets):
            return 0.0
        return float(matthews_corrcoef(targets.numpy(), predicted.numpy()))
    average = "binary" if outputs.shape[1] == 2 else "macro"
    return float(f1_score(targets.numpy(), predicted.numpy(), average=average, zero_division=0))


def _spearman(predicted: Tensor, targets: Tensor) -> float:
    from scipy.stats import spearmanr

    if _is_constant(predicted) or _is_constant(targets):
        return 0.0
    return float(spearmanr(predicted.numpy(), targets.numpy()).statistic)


def _is_constant(values: Tensor) -> bool:
    return bool((values == values[0]).all())
