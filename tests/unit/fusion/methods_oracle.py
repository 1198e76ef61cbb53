"""What each method gives, in float64, from its definition."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from coldfusion_queue.fusion.methods import Method, make_method
from coldfusion_queue.fusion.methods.method import Block, Combination, Survey

TRIM, SCALE = 0.3, 0.4
CLIP, ITERATIONS = 1.1, 2
DENSITY, TIES_SCALE = 0.4, 1.3
DROP = 0.6
MOMENTUM = 0.7
OPTIONS = {
    "trim_fraction": TRIM,
    "task_arithmetic_scale": SCALE,
    "clip_factor": CLIP,
    "clip_iterations": ITERATIONS,
    "ties_density": DENSITY,
    "ties_scale": TIES_SCALE,
    "dare_drop": DROP,
    "momentum": MOMENTUM,
    "other": 1,
}


def a_method(name: str) -> Method:
    return make_method(name, OPTIONS)


# --- a method without the engine ----------------------------------------------------------------


def ids_of(number: int) -> list[str]:
    return [f"c{index}" for index in range(number)]


def surveyed(
    method: Method, deltas: Sequence[np.ndarray], coefficients: Sequence[float], ids: Sequence[str]
) -> Combination:
    """What a method has after it was shown all deltas."""
    step = method.begin(ids, coefficients)
    while isinstance(step, Survey):
        tally = step.begin()
        size, stacked = step.block_elements, np.stack(deltas).astype(step.dtype)
        for first in range(0, stacked.shape[1], size):
            tally.observe(stacked[:, first : first + size])
        step = step.result([tally.counts()])
    return step


def combined(
    method: Method,
    deltas: Sequence[np.ndarray],
    coefficients: Sequence[float],
    ids: Sequence[str] | None = None,
    size: int | None = None,
) -> np.ndarray:
    """The combined delta of one model, computed in pieces of so many elements."""
    ids = ids or ids_of(len(deltas))
    combination = surveyed(method, deltas, coefficients, ids)
    size = size or len(deltas[0])

    def pieces() -> Iterator[np.ndarray]:
        for first in range(0, len(deltas[0]), size):
            cut = [delta[first : first + size] for delta in deltas]
            yield combination.combine(Block(iter(cut), coefficients, ids, first))

    return np.concatenate(list(pieces()))


# --- element by element -------------------------------------------------------------------------


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


# --- of whole deltas, of shape (K, P), with weights that sum to 1 -------------------------------


def norm(vector: np.ndarray) -> float:
    return math.sqrt(math.fsum(x * x for x in vector.tolist()))


def clipped(vector: np.ndarray, limit: float) -> np.ndarray:
    length = norm(vector)
    return vector if length <= limit else vector * (limit / length)


def limit_of(deltas: np.ndarray) -> float:
    return CLIP * statistics.median(norm(delta) for delta in deltas)


def clipped_mean(deltas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    limit = limit_of(deltas)
    return np.sum([w * clipped(d, limit) for d, w in zip(deltas, weights, strict=True)], axis=0)


def centered_clip(deltas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    limit, center = limit_of(deltas), np.zeros(deltas.shape[1])
    for _ in range(ITERATIONS):
        moves = [w * clipped(d - center, limit) for d, w in zip(deltas, weights, strict=True)]
        center = center + np.sum(moves, axis=0)
    return center


def geometric_median(deltas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A delta that outweighs the pull of all others, or else where the pulls cancel."""
    for index, delta in enumerate(deltas):
        away = [j for j in range(len(deltas)) if norm(deltas[j] - delta) > 0]
        pull = sum((weights[j] * (deltas[j] - delta) / norm(deltas[j] - delta) for j in away), 0.0)
        same = sum(weights[j] for j in range(len(deltas)) if j not in away)
        if np.linalg.norm(pull) < same * (1 - 1e-9):
            return deltas[index]
    point = weights @ deltas
    for _ in range(100_000):
        shares = weights / np.linalg.norm(deltas - point, axis=1)
        moved = shares @ deltas / shares.sum()
        if np.abs(moved - point).max() < 1e-14:
            break
        point = moved
    return point


def ties(deltas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    kept = max(1, round(DENSITY * deltas.shape[1]))
    sizes = np.abs(deltas.astype(np.float32))
    trimmed = np.where(sizes >= np.sort(sizes, axis=1)[:, -kept, np.newaxis], deltas, 0.0)

    def elected(values: list[float]) -> float:
        total = math.fsum(w * v for w, v in zip(weights, values, strict=True))
        pairs = [(v, w) for v, w in zip(values, weights, strict=True) if v * total > 0]
        return mean([v for v, _ in pairs], [w for _, w in pairs]) if pairs else 0.0

    return TIES_SCALE * np.array([elected(column) for column in trimmed.T.tolist()])


def dare(deltas: np.ndarray, weights: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    total = np.zeros(deltas.shape[1])
    for delta, weight, name in zip(deltas, weights, ids, strict=True):
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
        words = np.random.Philox(key=key).random_raw(len(delta)).tolist()
        halves = [half for word in words for half in (word % 2**32, word // 2**32)]
        for index, value in enumerate(delta.tolist()):
            if halves[index] / 2**32 >= DROP:
                total[index] += weight * value / (1 - DROP)
    return total


ELEMENT: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "task_arithmetic": task_arithmetic,
    "nesterov": mean,
}
WHOLE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "clipped_mean": clipped_mean,
    "centered_clip": centered_clip,
    "geometric_median": geometric_median,
    "ties": ties,
}
NAMES = (*ELEMENT, *WHOLE, "dare")
#: How far a model goes with the combined delta, if there was no momentum before.
STEPS = {"nesterov": 1 + MOMENTUM}
#: Methods that find factors of whole deltas: those are rounded to float32.
FACTORED = ("clipped_mean", "centered_clip", "geometric_median")
AVERAGES = ("mean", "median", "trimmed_mean", *FACTORED)


def tolerance_of(name: str, rounding: float) -> float:
    """How far a method may be from its definition, relative to the size of the deltas."""
    smoothed = {"geometric_median": 3e-5}
    return max(rounding, smoothed.get(name, 1e-6 if name in FACTORED else 0.0))


def oracle(
    name: str,
    deltas: Sequence[np.ndarray],
    coefficients: Sequence[float],
    ids: Sequence[str] | None = None,
) -> np.ndarray:
    """The combined delta of whole models of shape (P,); coefficients sum to eta."""
    stacked = np.stack([delta.astype(np.float64) for delta in deltas])
    eta = math.fsum(coefficients)
    weights = np.array(coefficients) / eta
    if name in ELEMENT:
        return eta * np.array([ELEMENT[name](each, coefficients) for each in stacked.T.tolist()])
    if name in WHOLE:
        return eta * WHOLE[name](stacked, weights)
    return eta * dare(stacked, weights, ids or ids_of(len(deltas)))


# --- weights ------------------------------------------------------------------------------------


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
