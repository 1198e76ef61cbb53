"""What each method gives, in float64 and one element at a time, from its definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from coldfusion_queue.fusion.methods import Method, make_method

TRIM, SCALE = 0.3, 0.4
NAMES = ("mean", "median", "trimmed_mean", "task_arithmetic")


def a_method(name: str) -> Method:
    return make_method(name, {"trim_fraction": TRIM, "task_arithmetic_scale": SCALE, "other": 1})


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The middle of all minimisers of sum(w * |v - x|), which is convex."""

    def cost(x: float) -> float:
        return math.fsum(w * abs(v - x) for w, v in zip(weights, values, strict=True))

    least = min(map(cost, values))
    best = [v for v in values if math.isclose(cost(v), least, rel_tol=1e-12, abs_tol=1e-300)]
    return (min(best) + max(best)) / 2


def trimmed_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    trimmed = int(TRIM * len(values) + 1e-6)
    pairs = sorted(zip(values, weights, strict=True), key=lambda pair: pair[0])
    kept = pairs[trimmed : len(pairs) - trimmed]
    return mean([value for value, _ in kept], [weight for _, weight in kept])


def task_arithmetic(values: Sequence[float], weights: Sequence[float]) -> float:
    return SCALE * len(values) * mean(values, weights)


ORACLES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "task_arithmetic": task_arithmetic,
}


def oracle(name: str, deltas: Sequence[np.ndarray], coefficients: Sequence[float]) -> np.ndarray:
    """The combined delta; coefficients sum to eta."""
    stacked = np.stack([delta.astype(np.float64).ravel() for delta in deltas])
    eta = math.fsum(coefficients)
    combined = [eta * ORACLES[name](column, coefficients) for column in stacked.T.tolist()]
    return np.array(combined).reshape(deltas[0].shape)


def weights_of(kind: str, number: int, eta: float) -> list[float]:
    """Coefficients of K contributions: all the same, distinct, or with ties among them."""
    weights = {
        "equal": [1.0] * number,
        "distinct": np.random.default_rng(number).uniform(0.2, 1.0, number).tolist(),
        "ties": [float(1 + index % 3) for index in range(number)],
        "one dominates": [1.0] * (number - 1) + [2.0 * number],
    }[kind]
    total = math.fsum(weights)
    return [eta * (weight / total) for weight in weights]


WEIGHTS = ("equal", "distinct", "ties", "one dominates")
