"""What an experiment found: its numbers, and the means, gains and curves that they make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Self

from coldfusion_queue.experiment.arms import PRETRAINED, arms_of
from coldfusion_queue.experiment.spec import Experiment

__all__ = ["Curve", "Estimate", "Results", "Row", "Version"]


@dataclass(frozen=True)
class Row:
    """One number, and where it is from."""

    arm: str
    column: str
    fold: int | None
    seed: int
    dataset: str
    is_seen: bool
    """Whether the dataset contributed to the arm."""
    kind: str
    evaluation_seed: int
    iteration: int
    """Fusions before; 0 is the pretrained model."""
    is_last: bool
    time: float
    """Virtual, at which that base version was there."""
    score: float | None
    """In percent; None if the evaluation failed."""
    failure: str | None
    metric: str | None
    base_version: int
    repository: str
    evaluation: str
    """Id of the record."""


@dataclass(frozen=True)
class Version:
    """What one fusion of an arm did: the lineage, in short."""

    arm: str
    seed: int
    iteration: int
    time: float
    base_version: int
    base_digest: str
    num_refused: int
    contributions: tuple[tuple[str, float, int], ...]
    """Of the version: contributor, coefficient and staleness."""
    repository: str


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is."""

    mean: float
    error: float | None
    """Standard error of the mean; None of a single number."""
    number: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Of numbers, each counted once; None of none."""
        found = list(values)
        if not found:
            return None
        error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
        return cls(fmean(found), error, len(found))


Curve = list[tuple[int, float, Estimate]]
"""Iteration, virtual time, and what was found there."""


@dataclass(frozen=True)
class Results:
    """Everything that an experiment found so far."""

    experiment: Experiment
    rows: tuple[Row, ...]
    versions: tuple[Version, ...]
    num_missing: int
    """Evaluations that are wanted and not done."""

    def columns(self) -> tuple[str, ...]:
        """Of the tables, the pretrained model's first."""
        return tuple(dict.fromkeys(arm.column for arm in arms_of(self.experiment)))

    def of(self, column: str, kind: str, *, is_seen: bool) -> list[Row]:
        """The last numbers of an arm on datasets that it saw, or that it did not see."""
        if column == PRETRAINED:
            return [row for row in self.rows if (row.column, row.kind) == (column, kind)]
        return [
            row
            for row in self.rows
            if (row.column, row.kind, row.is_seen, row.is_last) == (column, kind, is_seen, True)
        ]

    def score(self, column: str, kind: str, dataset: str, *, is_seen: bool) -> Estimate | None:
        """Of one dataset, over seeds and folds."""
        rows = self.of(column, kind, is_seen=is_seen)
        return Estimate.of(
            row.score for row in rows if row.dataset == dataset and row.score is not None
        )

    def mean_score(
        self, column: str, kind: str, datasets: Sequence[str], *, is_seen: bool
    ) -> Estimate | None:
        """Mean over datasets, of each of which the mean over seeds and folds counts once.

        The error is that of the means over datasets, see ``_over_runs``.
        """
        rows = [
            row
            for row in self.of(column, kind, is_seen=is_seen)
            if row.dataset in datasets and row.score is not None
        ]
        each = [
            fmean(row.score for row in rows if row.dataset == name and row.score is not None)
            for name in dict.fromkeys(row.dataset for row in rows)
        ]
        if not each:
            return None
        over_runs = _over_runs(rows)
        return Estimate(fmean(each), over_runs.error if over_runs else None, len(each))

    def gain(
        self,
        column: str,
        kind: str,
        datasets: Sequence[str],
        *,
        is_seen: bool,
        over: str = PRETRAINED,
    ) -> Estimate | None:
        """How much better one arm is than another, paired by dataset, seed and fold.

        Each pair of a dataset and a run counts as one number, in the mean and in its standard
        error.
        """
        others = self._paired(over, kind, is_seen=is_seen)
        gains = []
        for key, score in self._paired(column, kind, is_seen=is_seen).items():
            other = others.get(key)
            if other is None and over == PRETRAINED:
                other = others.get((*key[:-1], None))
            if key[0] in datasets and other is not None:
                gains.append(score - other)
        return Estimate.of(gains)

    def curve(self, column: str, kind: str, *, is_seen: bool, dataset: str | None = None) -> Curve:
        """Means over datasets after each fusion, with their errors, see ``_over_runs``.

        Begins with the pretrained model, measured on the same datasets.

        Args:
            column: of the arm.
            kind: of the evaluation.
            is_seen: on which datasets.
            dataset: on this one alone.
        """
        rows = [
            row
            for row in self.rows
            if (row.column, row.kind, row.is_seen) == (column, kind, is_seen)
            and row.score is not None
            and dataset in {None, row.dataset}
        ]
        names = {row.dataset for row in rows}
        start = self.mean_score(PRETRAINED, kind, sorted(names), is_seen=is_seen)
        found = [] if start is None else [(0, 0.0, start)]
        for iteration in sorted({row.iteration for row in rows}):
            here = [row for row in rows if row.iteration == iteration]
            estimate = _over_runs(here)
            if estimate is not None:
                found.append((iteration, fmean(row.time for row in here), estimate))
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return {
            "experiment": self.experiment.without_paths().model_dump(
                mode="json", exclude_unset=True
            ),
            "missing": self.num_missing,
            "versions": [asdict(version) for version in self.versions],
            "numbers": [asdict(row) for row in self.rows],
        }

    def _paired(
        self, column: str, kind: str, *, is_seen: bool
    ) -> dict[tuple[str, int, int, int | None], float]:
        return {
            (row.dataset, row.seed, row.evaluation_seed, row.fold): row.score
            for row in self.of(column, kind, is_seen=is_seen)
            if row.score is not None
        }


def _over_runs(rows: Sequence[Row]) -> Estimate | None:
    """Mean over runs of the means over datasets.

    A run is a seed and a fold, or a seed where the folds are not of the same datasets: how much
    those differ from each other says nothing of the base.
    """
    scored = [row for row in rows if row.score is not None]
    by_fold: dict[object, list[Row]] = {}
    by_seed: dict[object, list[Row]] = {}
    for row in scored:
        by_fold.setdefault((row.seed, row.fold), []).append(row)
        by_seed.setdefault(row.seed, []).append(row)
    datasets = {frozenset(row.dataset for row in run) for run in by_fold.values()}
    runs = by_fold if len(datasets) == 1 else by_seed
    return Estimate.of(
        fmean(row.score for row in run if row.score is not None) for run in runs.values()
    )
