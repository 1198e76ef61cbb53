"""Gathers what an experiment found from the records of its repositories alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.experiment.arms import Arm, arms_of, datasets_of, wanted
from coldfusion_queue.experiment.outcomes import outcomes
from coldfusion_queue.experiment.results import Results, Row, Version
from coldfusion_queue.experiment.spec import Experiment
from coldfusion_queue.records import BaseVersion
from coldfusion_queue.repository.datasets import find_dataset
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.store import Store

__all__ = ["gather"]


def gather(experiment: Experiment, store: Store) -> Results:
    """Read what an experiment found so far.

    Args:
        experiment: which.
        store: of the bucket.
    """
    rows: list[Row] = []
    versions: list[Version] = []
    num_missing = 0
    for arm in arms_of(experiment):
        for seed in experiment.seeds:
            repository = Repository(store, arm.repository(experiment, seed))
            if store.stat(repository.keys.repository_record) is None:
                continue
            ids = _dataset_ids(repository, datasets_of(experiment, arm))
            for version, base, is_last in _versions(arm, seed, repository):
                if version.iteration > 0:
                    versions.append(version)
                if version.iteration == 0 and arm.role != "pretrained":
                    continue
                found, missing = _rows(
                    experiment, arm, version, base, repository, ids, is_last=is_last
                )
                rows += found
                num_missing += missing
    return Results(experiment, tuple(rows), tuple(versions), num_missing)


def _versions(
    arm: Arm, seed: int, repository: Repository
) -> Iterator[tuple[Version, BaseVersion, bool]]:
    fusions = arm.fusions(seed)

    def version(iteration: int, time: float, base: BaseVersion, num_refused: int) -> Version:
        lines = tuple(
            (line.contributor_id, line.coefficient, line.staleness) for line in base.fused
        )
        return Version(
            *(arm.name, seed, iteration, time, base.version, base.digest, num_refused, lines),
            repository.name,
        )

    first = repository.ledger.entry(0).after.base
    yield version(0, 0.0, first, 0), first, not fusions
    for outcome in outcomes(repository, fusions):
        if outcome.base is not None:
            number = outcome.fusion.number
            found = version(number, outcome.fusion.time, outcome.base, outcome.num_refused)
            yield found, outcome.base, number == len(fusions)


def _dataset_ids(repository: Repository, names: Iterable[str]) -> dict[str, str]:
    """Ids of datasets by name; those that are not uploaded yet have none that anything has."""
    ids = {}
    for name in names:
        try:
            ids[name] = find_dataset(repository, name)
        except NotFoundError:
            ids[name] = "0" * 32
    return ids


def _rows(
    experiment: Experiment,
    arm: Arm,
    version: Version,
    base: BaseVersion,
    repository: Repository,
    ids: dict[str, str],
    *,
    is_last: bool,
) -> tuple[list[Row], int]:
    """What was found of one version, and how much is missing."""
    done = {item.evaluation_id: item for item in repository.evaluations.of(base.digest)}
    rows = []
    asked = wanted(experiment, arm, version.seed, version.iteration, ids, is_last=is_last)
    for item in asked:
        name = item.spec.evaluation_id(base.digest)
        if name not in done:
            continue
        found = done[name]
        rows.append(
            Row(
                arm=arm.name,
                column=arm.column,
                fold=arm.fold,
                seed=version.seed,
                dataset=item.dataset,
                is_seen=arm.is_seen(item.dataset),
                kind=item.spec.kind,
                evaluation_seed=item.spec.seed,
                iteration=version.iteration,
                is_last=is_last,
                time=version.time,
                score=None if found.score is None else 100 * found.score,
                failure=found.failure,
                metric=found.metric,
                base_version=base.version,
                repository=repository.name,
                evaluation=name,
            )
        )
    return rows, len(asked) - len(rows)
