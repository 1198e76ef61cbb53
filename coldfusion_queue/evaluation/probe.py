"""Linear probe: how much a frozen body's features tell about a dataset's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldfusion_queue.evaluation.features import Features
from coldfusion_queue.finetune.scoring import score

__all__ = ["probe_accuracy", "probe_outputs"]

#: Inverse strength of the regularisation, the same for all datasets and models.
_C = 0.01
_MAX_ITERATIONS = 300


def probe_outputs(train: Features, targets: Tensor, scored: Features, num_classes: int) -> Tensor:
    """Fit a linear model on features of one split and apply it to those of another.

    Logistic regression for classes, ridge regression for numbers; features are standardised by
    those that are fitted on.

    Args:
        train: (N, H) features to fit on.
        targets: (N,) int64 classes or float32 numbers.
        scored: (M, H) features to apply it to.
        num_classes: 0 for numbers.

    Returns:
        (M, num_classes) float32 log-probabilities, or (M, 1) numbers. A class that does not occur
        in ``targets`` is never the most probable.

    Source: Don-Yehiya et al. 2023, section 4.4, "ColD-Frozen".
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels: NDArray[Any] = targets.numpy()
    if num_classes == 0:
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=1 / _C))
        numbers = ridge.fit(train, labels).predict(scored)
        return torch.from_numpy(numbers.astype(np.float32)[:, None])
    outputs = np.full((len(scored), num_classes), -np.inf, dtype=np.float32)
    occurring = np.unique(labels)
    if len(occurring) == 1:
        outputs[:, occurring] = 0.0
    else:
        logistic = LogisticRegression(C=_C, max_iter=_MAX_ITERATIONS)
        probe = make_pipeline(StandardScaler(), logistic).fit(train, labels)
        outputs[:, occurring] = probe.predict_log_proba(scored)
    return torch.from_numpy(outputs)


def probe_accuracy(
    train: Features,
    train_labels: Sequence[int],
    test: Features,
    test_labels: Sequence[int],
) -> float:
    """Accuracy of ``probe_outputs`` for class indices, 0 to 1."""
    num_classes = 1 + max(*train_labels, *test_labels)
    outputs = probe_outputs(train, torch.tensor(train_labels), test, num_classes)
    return score(outputs, torch.tensor(test_labels), "accuracy")
