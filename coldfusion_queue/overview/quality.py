"""How good the base is: the newest scores on each dataset.

A dataset may be measured in several ways of one kind, such as by the gate on its validation split
and by an operator on its test split. Their numbers cannot be compared, so one way is told of: the
one by which most of the newest versions were measured. What is measured seldom does not disturb it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.overview.overview import Quality
from coldfusion_queue.records import Evaluation, EvaluationSpec, Policy
from coldfusion_queue.repository.gating import gate_specs
from coldfusion_queue.repository.repository import Repository

__all__ = ["MAX_DATASETS", "QualityReader"]

#: Datasets that are told of; those that were evaluated last come first.
MAX_DATASETS = 50
#: Newest versions that were measured on a dataset, by which the way is chosen.
_LOOK_BACK = 16
_NUM_THREADS = 8


@dataclass(frozen=True)
class _Key:
    """An evaluation, as far as its object key tells it."""

    object_key: str
    dataset_id: str
    name: str
    """See ``EvaluationSpec.name``."""
    version: int

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


class QualityReader:
    """Reads each record once, because none changes; not to be shared between threads.

    A model that was withheld is no published version and is left out. A version that restores an
    older one has the scores of that.

    Args:
        lists_all: whether all evaluations are listed, because most of them are wanted; else those
            of each version by itself.
    """

    def __init__(self, *, lists_all: bool = False) -> None:
        self._known: dict[str, Evaluation] = {}
        self._lists_all = lists_all

    def read(
        self, repository: Repository, versions: Mapping[str, int], policy: Policy
    ) -> tuple[Quality, ...]:
        """Quality by dataset and kind.

        Args:
            repository: where.
            versions: base versions by the digest of their parameters.
            policy: of two ways that are as frequent, the one that is not its gate's is told of.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        groups: dict[tuple[str, str], list[_Key]] = defaultdict(list)
        for key in self._keys(repository, versions):
            groups[key.dataset_id, key.kind].append(key)
        gate = {(spec.dataset_id, spec.name) for spec in gate_specs(policy)}
        reading = _Reading(repository, self._known, gate)
        with ThreadPoolExecutor(_NUM_THREADS, "quality") as threads:
            found = [item for item in threads.map(reading.newest, groups.values()) if item]
        self._known = reading.used
        return _of_last_datasets(found)

    def _keys(self, repository: Repository, versions: Mapping[str, int]) -> Iterator[_Key]:
        """Evaluations of these versions."""
        keys, store = repository.keys, repository.store
        by_prefix = {keys.evaluations(digest): version for digest, version in versions.items()}
        prefixes = [keys.all_evaluations] if self._lists_all else list(by_prefix)
        with ThreadPoolExecutor(_NUM_THREADS, "quality") as threads:
            for found in threads.map(lambda prefix: list(store.list(prefix)), prefixes):
                for item in found:
                    model, dataset_id, name = item.key.rsplit("/", 2)
                    version = by_prefix.get(f"{model}/")
                    if version is not None:
                        yield _Key(item.key, dataset_id, name.removesuffix(".json"), version)


class _Reading:
    """One pass over the evaluations; keeps the records that it used."""

    def __init__(
        self, repository: Repository, known: Mapping[str, Evaluation], gate: set[tuple[str, str]]
    ) -> None:
        self._repository = repository
        self._known = known
        self._gate = gate
        self.used: dict[str, Evaluation] = {}

    def newest(self, keys: Sequence[_Key]) -> Quality | None:
        """Of one dataset and kind: the newest version with a score, measured in the usual way."""
        by_version: dict[int, list[_Key]] = defaultdict(list)
        for key in keys:
            by_version[key.version].append(key)
        last = sorted(by_version, reverse=True)[:_LOOK_BACK]
        counts = Counter((key.dataset_id, key.name) for item in last for key in by_version[item])
        for _, name in sorted(counts, key=lambda way: (-counts[way], way in self._gate, way)):
            for version in last:
                evaluations = self._measured_as(name, by_version[version])
                if evaluations:
                    spec, score = evaluations[0].spec, fmean(_scores(evaluations))
                    return Quality(spec.dataset_id, spec.kind, score, version)
        return None

    def _measured_as(self, name: str, keys: Sequence[_Key]) -> list[Evaluation]:
        """Those that differ from the one of this name by the seed; none if it has no score."""
        first = next((self._record(key) for key in keys if key.name == name), None)
        if first is None:
            return []
        others = (self._record(key) for key in keys)
        return [item for item in others if item and _but_the_seed(item) == _but_the_seed(first)]

    def _record(self, key: _Key) -> Evaluation | None:
        """The record, if it can be read and has a score: a failure may be made anew."""
        found = self._known.get(key.object_key) or self.used.get(key.object_key)
        if found is None:
            data = self._repository.store.find(key.object_key)
            try:
                found = Evaluation.from_bytes(data, key.object_key) if data is not None else None
            except InvalidRecordError:
                return None
        if found is None or found.score is None:
            return None
        self.used[key.object_key] = found
        return found


def _but_the_seed(evaluation: Evaluation) -> EvaluationSpec:
    return evaluation.spec.model_copy(update={"seed": 0})


def _scores(evaluations: Sequence[Evaluation]) -> Iterator[float]:
    return (item.score for item in evaluations if item.score is not None)


def _of_last_datasets(found: Sequence[Quality]) -> tuple[Quality, ...]:
    """Those of the datasets that were evaluated last, by dataset and kind."""
    last: dict[str, int] = {}
    for item in found:
        last[item.dataset_id] = max(item.base_version, last.get(item.dataset_id, 0))
    kept = sorted(last, key=lambda name: (-last[name], name))[:MAX_DATASETS]
    told = (item for item in found if item.dataset_id in kept)
    return tuple(sorted(told, key=lambda item: (item.dataset_id, item.kind)))
