"""How sure a score is: a 95 percent confidence interval over the examples that were scored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from coldfusion_queue.finetune.scoring import score
from coldfusion_queue.records import Metric

__all__ = ["score_interval"]

_CONFIDENCE = 0.95
_NUM_RESAMPLES = 500


def score_interval(outputs: Tensor, targets: Tensor, metric: Metric) -> tuple[float, float]:
    """Bounds between which a score lies with 95 percent confidence, other examples drawn.

    Of an accuracy Wilson's interval, which holds for few examples and near 0 and 1; of other
    metrics the percentiles of 500 bootstrap resamples, drawn in the same way each time. Either
    holds the score itself.

    Args:
        outputs: see ``scoring.score``, as the next two.
        targets: (N,) of the examples, N at least 1.
        metric: of the task.

    Source: Wilson 1927; Efron 1979.
    """
    if metric == "accuracy":
        from scipy.stats import binomtest

        hits = int((outputs.argmax(dim=1) == targets).sum())
        found = binomtest(hits, len(targets)).proportion_ci(_CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)
    generator = np.random.default_rng(0)
    scores = []
    for _ in range(_NUM_RESAMPLES):
        draw = torch.from_numpy(generator.integers(0, len(targets), len(targets)))
        scores.append(score(outputs[draw], targets[draw], metric))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    point = score(outputs, targets, metric)
    return min(float(low), point), max(float(high), point)
