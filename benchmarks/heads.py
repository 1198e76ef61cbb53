"""Warm or fresh heads: should a contributor's next turn begin with the head of its last one?

The example model is finetuned on real datasets, the deltas are fused with ``mean``, and the next
turns begin with that, for several iterations. ``warm`` begins each turn with the head of the turn
before, ``fresh`` with a new one; both begin with the same base model, see the same examples and go
their own ways. The first turns are the same in both. For each arm and iteration:

    accuracy        of body and head right after the finetune, on rows of the test split
    delta_norm      of the contributions
    probe_seen      of the fused base: linear probe on the datasets that contribute
    probe_unseen    the same on datasets that never do

    python -m benchmarks.heads
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.deltas import (
    RECIPE,
    dataset_names,
    finetuned_accuracies,
    finetuned_deltas,
    head_beside,
    pretrained,
    probe_accuracies,
    with_model,
)
from benchmarks.engine import fuse_files
from benchmarks.reporting import print_report
from coldfusion_queue.demo.recipe import data_dir
from coldfusion_queue.records import Hyperparameters

ARMS = ("warm", "fresh")

#: ``demo`` learns fast and its head faster; ``paper`` has the learning rates that are the defaults.
#: It takes five times the steps, so that about as many are done as with a dataset of 4,000 examples
#: and the paper's batches.
REGIMES: Mapping[str, Hyperparameters] = {
    "demo": RECIPE,
    "paper": Hyperparameters().model_copy(
        update={
            "max_examples": RECIPE.max_examples,
            "max_length": RECIPE.max_length,
            "batch_size": RECIPE.batch_size,
            "epochs": 5,
            "freeze_embeddings": True,
            "max_validation_examples": 0,
        }
    ),
}

#: For each dataset what was measured of it.
Figures = dict[str, float]


@dataclass(frozen=True)
class Setup:
    """What all courses share."""

    seen: Sequence[str]
    unseen: Sequence[str]
    data: Path
    cache: Path
    rows: tuple[int, int]
    work_dir: Path

    def probe(self, base_dir: Path) -> Figures:
        """See ``probe_accuracies``; of all datasets."""
        names = [*self.seen, *self.unseen]
        where = {"base_dir": base_dir, "cache": self.cache, "data": self.data}
        return probe_accuracies(base_dir, names, rows=self.rows, **where)


@dataclass
class Course:
    """One arm with one seed on its way through the iterations."""

    arm: str
    recipe: Hyperparameters
    base_dir: Path
    heads: dict[str, Path] = field(default_factory=dict)
    iterations: list[dict[str, Figures]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For file names and messages."""
        return f"{self.arm}-seed{self.recipe.seed}"


def run_iteration(setup: Setup, course: Course, turn: int, *, probes: bool) -> None:
    """Finetune all, measure what they are, fuse them, and measure that if ``probes``."""
    where: dict[str, Any] = {"base_dir": course.base_dir, "cache": setup.cache, "data": setup.data}
    deltas = finetuned_deltas(
        setup.seen, recipe=course.recipe, turn=turn, heads=course.heads, **where
    )
    found = {
        "accuracy": finetuned_accuracies(deltas, num_rows=setup.rows[1], **where),
        "delta_norm": {name: norm_of(path) for name, path in deltas.items()},
    }
    if course.arm == "warm":
        course.heads = {name: head_beside(path) for name, path in deltas.items()}
    model = setup.work_dir / f"{course.name}-{turn}.safetensors"
    fuse_files(course.base_dir, deltas, model)
    course.base_dir = with_model(course.base_dir, model, setup.work_dir / model.stem)
    if probes:
        accuracies = setup.probe(course.base_dir)
        found["probe_seen"] = {name: accuracies[name] for name in setup.seen}
        found["probe_unseen"] = {name: accuracies[name] for name in setup.unseen}
    shown = {key: round(float(np.mean([*each.values()])), 4) for key, each in found.items()}
    print(f"{course.name}, iteration {turn}: {shown}", file=sys.stderr)
    course.iterations.append(found)


def norm_of(delta: Path) -> float:
    tensors = [tensor for tensor in load_file(delta).values() if tensor.dtype.kind == "f"]
    return math.sqrt(sum(float(np.square(tensor, dtype=np.float64).sum()) for tensor in tensors))


def summary(courses: Sequence[Course], others: Sequence[Course]) -> list[dict[str, Any]]:
    """For each iteration and figure of an arm: mean, and difference to the other arm's.

    ``difference`` is the mean over datasets and seeds, and the standard error of that mean, each
    pair of a dataset and a seed counted as one. Accuracies are in percent.
    """
    iterations = []
    for number in range(len(courses[0].iterations)):
        figures: dict[str, Any] = {"iteration": number + 1}
        for key in courses[0].iterations[number]:
            scale = 1.0 if key == "delta_norm" else 100.0
            mine = scale * values(courses, number, key)
            gaps = mine - scale * values(others, number, key)
            error = float(np.std(gaps, ddof=1)) / math.sqrt(gaps.size) if gaps.size > 1 else 0.0
            figures[key] = round(float(mine.mean()), 3)
            figures[f"{key}_difference"] = [round(float(gaps.mean()), 3), round(error, 3)]
        iterations.append(figures)
    return iterations


def values(courses: Sequence[Course], number: int, key: str) -> np.ndarray[Any, Any]:
    """A figure of each seed and dataset, in one order."""
    found = [course.iterations[number][key] for course in courses]
    return np.array([each[name] for each in found for name in sorted(each)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Warm against fresh heads.")
    parser.add_argument("--data", type=Path, help="folder of datasets, instead of the examples")
    parser.add_argument("--unseen", nargs="+", help="those that never contribute; the last third")
    parser.add_argument("--cache", type=Path, help="where finetunes are kept; a temporary one")
    parser.add_argument("--regime", default="demo", choices=list(REGIMES))
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--probed", type=int, nargs="+", help="iterations; the second and the last")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--probe-rows", type=int, nargs=2, default=(400, 400))
    parser.add_argument("--quick", action="store_true", help="half a minute instead of an hour")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="coldfusion-bench-") as work_dir:
        report(options, Path(work_dir))


def report(options: argparse.Namespace, work_dir: Path) -> None:
    data = options.data or data_dir()
    recipe, names = REGIMES[options.regime], dataset_names(data, 3 if options.quick else None)
    if options.quick:
        recipe = recipe.model_copy(update={"max_examples": 16})
        options.iterations, options.seeds, options.probe_rows = 2, [0], (60, 40)
    unseen = options.unseen or names[-(len(names) // 3) :]
    seen = [name for name in names if name not in unseen]
    cache = options.cache or work_dir / "cache"
    base_dir = pretrained(cache)
    setup = Setup(seen, unseen, data, cache, tuple(options.probe_rows), work_dir)
    before = setup.probe(base_dir)
    courses = {arm: courses_of(arm, recipe, options.seeds, base_dir) for arm in ARMS}
    probed = options.probed or [2, options.iterations]
    for index in range(len(options.seeds)):
        for turn in range(1, options.iterations + 1):
            for arm in ARMS:
                run_iteration(setup, courses[arm][index], turn, probes=turn in probed)
    print_report(
        "heads",
        ("torch", "transformers", "numpy", "scikit-learn"),
        regime=options.regime,
        recipe=recipe.model_dump(mode="json", exclude_defaults=True),
        seen=seen,
        unseen=unseen,
        seeds=options.seeds,
        probe_rows=options.probe_rows,
        probe_pretrained={
            key: round(100 * float(np.mean([before[name] for name in each])), 2)
            for key, each in (("seen", seen), ("unseen", unseen))
        },
        arms={arm: summary(courses[arm], courses["fresh"]) for arm in ARMS},
    )


def courses_of(
    arm: str, recipe: Hyperparameters, seeds: Sequence[int], base_dir: Path
) -> list[Course]:
    return [Course(arm, recipe.model_copy(update={"seed": seed}), base_dir) for seed in seeds]


if __name__ == "__main__":
    main()
