"""Poisoned contributions: what a faulty or hostile contributor may hand in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["ATTACKS", "Crowd", "flip_labels"]

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Crowd:
    """What an attacker knows, which is everything."""

    own: Tensors
    """What it would have contributed if it were honest."""
    flipped: Tensors
    """What it finetuned on its own data with wrong labels."""
    honest: Sequence[Tensors]
    """What the others contribute."""
    generator: np.random.Generator


def _scaled(crowd: Crowd, factor: float) -> Tensors:
    return {name: np.float32(factor) * value for name, value in crowd.own.items()}


def _noise(crowd: Crowd, factor: float) -> Tensors:
    """Gaussian, ``factor`` times as long as the attacker's own delta."""
    noise = {
        name: crowd.generator.standard_normal(value.shape, np.float32)
        for name, value in crowd.own.items()
    }
    scale = np.float32(factor * _norm(crowd.own) / _norm(noise))
    return {name: scale * value for name, value in noise.items()}


def _nan(crowd: Crowd) -> Tensors:
    poisoned = dict(crowd.own)
    name = max(poisoned, key=lambda each: poisoned[each].size)
    poisoned[name] = poisoned[name].copy()
    poisoned[name].flat[0] = np.nan
    return poisoned


def _opposite(crowd: Crowd) -> Tensors:
    """Against the mean of the honest, as long as an honest one: it cancels what they share."""
    mean = {name: sum(each[name] for each in crowd.honest) for name in crowd.own}
    scale = np.float32(-_norm(crowd.own) / _norm(mean))
    return {name: scale * value for name, value in mean.items()}


def _norm(tensors: Tensors) -> float:
    return float(
        np.sqrt(sum(np.vdot(value, value).astype(np.float64) for value in tensors.values()))
    )


#: What each of them hands in.
ATTACKS: Mapping[str, Callable[[Crowd], Tensors]] = {
    "sign_flip": lambda crowd: _scaled(crowd, -1),
    "opposite": _opposite,
    "scaled_30": lambda crowd: _scaled(crowd, 30),
    "scaled_1e9": lambda crowd: _scaled(crowd, 1e9),
    "gaussian_30": lambda crowd: _noise(crowd, 30),
    "random": lambda crowd: _noise(crowd, 1),
    "nan": _nan,
    "label_flip": lambda crowd: crowd.flipped,
    "copy": lambda crowd: dict(crowd.honest[0]),
}


def flip_labels(source: Path, target: Path) -> None:
    """Write a folder with a dataset whose training labels are each the next one's."""
    target.mkdir(parents=True)
    for path in source.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.stem == "train":
            labels = sorted({row["label"] for row in rows})
            following = dict(zip(labels, labels[1:] + labels[:1], strict=True))
            rows = [row | {"label": following[row["label"]]} for row in rows]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (target / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
