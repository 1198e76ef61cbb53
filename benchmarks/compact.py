"""What do compact contributions cost in accuracy?

The example model is finetuned on real datasets, and the deltas are written in each dtype by the
worker's own code and fused by the engine with ``mean``. Each scheme goes its own way for several
rounds: the next finetunes begin with what its last fusion gave. ``quantised_no_feedback`` is a
contributor whose residual is lost after each turn. For each scheme and round:

    relative_error, cosine      of the fused delta, to the mean of the same deltas in float64
    sum_relative_error          the same for the sum over all rounds, where feedback shows
    probe                       mean over the datasets of a linear probe on rows of the test split

    python -m benchmarks.compact
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

from benchmarks.deltas import (
    PROBE_ROWS,
    RECIPE,
    dataset_names,
    finetuned_deltas,
    head_beside,
    pretrained,
    probe_accuracies,
    with_model,
)
from benchmarks.engine import fuse_files
from benchmarks.reporting import print_report
from coldfusion_queue.demo.recipe import data_dir
from coldfusion_queue.finetune.files import save_shared
from coldfusion_queue.finetune.quantising import save_quantised
from coldfusion_queue.records import BaseVersion, Hyperparameters

SCHEMES = ("float32", "bfloat16", "float16", "quantised", "quantised_no_feedback")

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Setup:
    """What all schemes share."""

    names: Sequence[str]
    data: Path
    cache: Path
    recipe: Hyperparameters
    rows: tuple[int, int]
    work_dir: Path
    zeros: Path
    """A base version whose parameters are all 0, so that a delta is its own delta, exactly."""

    def deltas(self, base_dir: Path, turn: int, heads: Mapping[str, Path]) -> dict[str, Path]:
        """See ``finetuned_deltas``."""
        return finetuned_deltas(
            self.names,
            base_dir=base_dir,
            cache=self.cache,
            data=self.data,
            recipe=self.recipe,
            turn=turn,
            heads=heads,
        )

    def probe(self, base_dir: Path) -> dict[str, float]:
        """See ``probe_accuracies``."""
        return probe_accuracies(
            base_dir,
            self.names,
            base_dir=base_dir,
            cache=self.cache,
            data=self.data,
            rows=self.rows,
        )


@dataclass
class Course:
    """One scheme on its way through the rounds."""

    scheme: str
    base_dir: Path
    heads: dict[str, Path] = field(default_factory=dict)
    residuals: dict[str, Path] = field(default_factory=dict)
    moved: Vector | None = None
    """Sum over the rounds of what was fused."""
    meant: Vector | None = None
    """Sum over the rounds of the means of the deltas."""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0


def write(setup: Setup, course: Course, name: str, delta: Path, turn: int) -> Path:
    """Write a contribution as a worker would."""
    parameters = load_torch(delta)
    path = setup.work_dir / f"{course.scheme}-{name}-{turn}.safetensors"
    if not course.scheme.startswith("quantised"):
        dtype: Any = course.scheme
        save_shared(parameters, setup.zeros, "delta", path, dtype=dtype)
        return path
    residual = path.with_suffix(".residual")
    last = course.residuals.get(name)
    save_quantised(parameters, setup.zeros, path, last_residual=last, residual=residual)
    if course.scheme == "quantised":
        course.residuals[name] = residual
    return path


def mean_of(paths: Sequence[Path]) -> Vector:
    """Mean of the float parameters of files, in the order of their names."""
    total: Vector = np.zeros(1)
    for path in paths:
        tensors = load_file(path)
        names = [name for name in sorted(tensors) if tensors[name].dtype.kind == "f"]
        total = total + np.concatenate([tensors[name].ravel() for name in names])
    return total / len(paths)


def run_round(setup: Setup, course: Course, turn: int, *, probes: bool) -> None:
    """One iteration of a scheme: finetune, write, fuse, measure."""
    deltas = setup.deltas(course.base_dir, turn, course.heads)
    files = {name: write(setup, course, name, path, turn) for name, path in deltas.items()}
    form: Literal["delta", "quantised"] = (
        "quantised" if course.scheme.startswith("quantised") else "delta"
    )
    model = setup.work_dir / f"{course.scheme}-{turn}.safetensors"
    fuse_files(course.base_dir, files, model, form=form)
    moved = mean_of([model]) - mean_of([course.base_dir / BaseVersion.MODEL_FILE])
    meant = mean_of(list(deltas.values()))
    course.moved = moved if course.moved is None else course.moved + moved
    course.meant = meant if course.meant is None else course.meant + meant
    course.base_dir = with_model(course.base_dir, model, setup.work_dir / model.stem)
    course.heads = {name: head_beside(path) for name, path in deltas.items()}
    course.num_bytes = next(iter(files.values())).stat().st_size
    figures = {
        **likeness(moved, meant),
        **{f"sum_{key}": value for key, value in likeness(course.moved, course.meant).items()},
        "probe": setup.probe(course.base_dir) if probes else None,
    }
    print(f"{course.scheme}, round {turn}: {figures}", file=sys.stderr)
    course.rounds.append(figures)


def likeness(got: Vector, wanted: Vector) -> dict[str, float]:
    """How far a vector is from another, relative to that one, and the cosine between them."""
    norm = float(np.linalg.norm(wanted))
    cosine = float(got @ wanted) / (norm * float(np.linalg.norm(got)))
    return {"relative_error": float(np.linalg.norm(got - wanted)) / norm, "cosine": cosine}


def summary(course: Course, reference: Course, float32_bytes: int) -> dict[str, Any]:
    """The figures of a scheme, accuracies in percent; ``reference`` is float32's course."""
    rounds = []
    for mine, other in zip(course.rounds, reference.rounds, strict=True):
        figures = {key: round(mine[key], 6) for key in mine if key != "probe"}
        if mine["probe"] is not None:
            figures["probe"] = mean(mine["probe"])
            figures["probe_minus_float32"], figures["standard_error"] = difference(
                mine["probe"], other["probe"]
            )
        rounds.append(figures)
    ratio = course.num_bytes / float32_bytes
    return {"contribution_bytes_ratio": round(ratio, 4), "rounds": rounds}


def mean(accuracies: Mapping[str, float]) -> float:
    return round(100 * sum(accuracies.values()) / len(accuracies), 2)


def difference(mine: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """Mean over the datasets of the difference in points, and its standard error."""
    gaps = [100 * (mine[name] - other[name]) for name in mine]
    spread = np.std(gaps, ddof=1) if len(gaps) > 1 else 0.0
    return round(sum(gaps) / len(gaps), 2), round(float(spread) / math.sqrt(len(gaps)), 2)


def zero_model(base_dir: Path, directory: Path) -> Path:
    directory.mkdir(parents=True)
    tensors = load_file(base_dir / BaseVersion.MODEL_FILE)
    zeros = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    save_file(zeros, directory / BaseVersion.MODEL_FILE)
    return directory


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Accuracy and size of compact contributions.")
    parser.add_argument("--data", type=Path, help="folder of datasets, instead of the examples")
    parser.add_argument("--datasets", nargs="+", help="some of them; by default the first eight")
    parser.add_argument("--cache", type=Path, help="where finetunes are kept; a temporary one")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--examples", type=int, default=RECIPE.max_examples, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probed-rounds", type=int, nargs="+", help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds instead of half an hour")
    options = parser.parse_args(arguments)
    if options.quick:
        options.examples, options.rounds = 16, 2
    with tempfile.TemporaryDirectory(prefix="coldfusion-bench-") as work_dir:
        report(options, Path(work_dir))


def report(options: argparse.Namespace, work_dir: Path) -> None:
    data = options.data or data_dir()
    cache = options.cache or work_dir / "cache"
    base_dir = pretrained(cache)
    names = options.datasets or dataset_names(data, 2 if options.quick else 8)
    recipe = RECIPE.model_copy(update={"max_examples": options.examples, "seed": options.seed})
    rows = (60, 40) if options.quick else PROBE_ROWS
    zeros = zero_model(base_dir, work_dir / "zeros")
    setup = Setup(names, data, cache, recipe, rows, work_dir, zeros)
    before = setup.probe(base_dir)
    courses = {scheme: Course(scheme, base_dir) for scheme in options.schemes}
    for turn in range(1, options.rounds + 1):
        for course in courses.values():
            probes = options.probed_rounds is None or turn in options.probed_rounds
            run_round(setup, course, turn, probes=probes)
    reference = courses[options.schemes[0]]
    size = (base_dir / BaseVersion.MODEL_FILE).stat().st_size
    print_report(
        "compact",
        ("torch", "transformers", "numpy", "scikit-learn"),
        datasets=names,
        examples=options.examples,
        seed=options.seed,
        probe_rows=rows,
        reference=reference.scheme,
        probe_pretrained=mean(before),
        schemes={scheme: summary(course, reference, size) for scheme, course in courses.items()},
    )


if __name__ == "__main__":
    main()
