"""Evaluations of one model and dataset that differ in nothing but their seed, as one number."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from coldfusion_queue.records import Evaluation, EvaluationKind, EvaluationSpec
from coldfusion_queue.report.data import Cost, Score

__all__ = ["by_name", "costs", "failures", "natural", "scores", "unique_names"]

#: Kinds in the order in which people read them, from what is cheap to what is dear.
_KINDS: tuple[EvaluationKind, ...] = ("frozen", "few_shot", "finetuned")
#: Hex digits that tell two ways of measuring apart.
_SHORT = 6


def scores(evaluations: Iterable[Evaluation]) -> list[Score]:
    """What was found, by model and dataset; failed evaluations are left out.

    Two evaluations that differ in more than the seed, such as in the split that is scored or in a
    hyperparameter, are two scores: their numbers cannot be compared.
    """
    groups: dict[tuple[str, str, str], list[Evaluation]] = defaultdict(list)
    for item in evaluations:
        if _is_done(item):
            groups[item.base_digest, item.spec.dataset_id, _settings(item.spec)].append(item)
    ways = _ways(group[0].spec for group in groups.values())
    found = [_score(group, ways[_settings(group[0].spec)]) for group in groups.values()]
    return sorted(found, key=lambda item: (_KINDS.index(item.kind), item.way, item.dataset_id))


def by_name(found: Sequence[Score], names: Mapping[str, str]) -> list[Score]:
    """Scores in the order for people: each way of measuring by itself, datasets by name."""
    ways = {way: number for number, way in enumerate(dict.fromkeys(item.way for item in found))}
    return sorted(found, key=lambda item: (ways[item.way], natural(names[item.dataset_id])))


def natural(name: str) -> list[tuple[int, str]]:
    """What to sort names by so that 10 comes after 9."""
    parts = re.split(r"([0-9]{1,9})", name)
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]


def costs(evaluations: Sequence[Evaluation]) -> list[Cost]:
    """What they cost, the failed ones included."""
    return [
        Cost(
            kind=kind,
            num_evaluations=len(group),
            num_failed=sum(not _is_done(item) for item in group),
            seconds=math.fsum(item.seconds for item in group),
            num_train=sum(item.num_train for item in group),
            num_scored=sum(item.num_scored for item in group),
        )
        for kind in _KINDS
        if (group := [item for item in evaluations if item.spec.kind == kind])
    ]


def failures(evaluations: Iterable[Evaluation]) -> dict[str, int]:
    """How often evaluations failed, by what they say, the most frequent first."""
    said = (
        f"{item.error or 'no score'}: {item.failure or 'no reason was recorded'}"
        for item in evaluations
        if not _is_done(item)
    )
    return dict(Counter(said).most_common())


def unique_names(dataset_ids: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """A name for each dataset that is no other's.

    People know datasets by who submitted them, and one contributor may have submitted several.

    Args:
        dataset_ids: what to name.
        names: what is known, see ``repository.datasets.dataset_names``.
    """
    wanted = sorted(set(dataset_ids))
    counts = Counter(names.get(item) for item in wanted)

    def name_of(dataset_id: str) -> str:
        # The id of a site's dataset is a name already, and its beginning is that of others too.
        short = dataset_id if ":" in dataset_id else dataset_id[:_SHORT]
        name = names.get(dataset_id)
        if name is None:
            return short
        return name if counts[name] == 1 else f"{name} ({short})"

    return {item: name_of(item) for item in wanted}


def _is_done(item: Evaluation) -> bool:
    return item.score is not None and math.isfinite(item.score)


def _score(group: Sequence[Evaluation], way: str) -> Score:
    first = group[0]
    values = [float(item.score or 0.0) for item in group]
    # All seeds are scored on the same examples, so that the interval of their mean is about as
    # wide as each of theirs.
    bounds = [_interval(item, value) for item, value in zip(group, values, strict=True)]
    return Score(
        digest=first.base_digest,
        dataset_id=first.spec.dataset_id,
        way=way,
        kind=first.spec.kind,
        metric=first.metric or "unknown",
        scored_on=first.scored_on,
        score=fmean(values),
        interval=(fmean(low for low, _ in bounds), fmean(high for _, high in bounds)),
        deviation=stdev(values) if len(values) > 1 else None,
        num_seeds=len(values),
        num_train=first.num_train,
        num_scored=first.num_scored,
    )


def _interval(item: Evaluation, value: float) -> tuple[float, float]:
    found = item.interval
    return found if found is not None and all(map(math.isfinite, found)) else (value, value)


def _settings(spec: EvaluationSpec) -> str:
    """The same for evaluations that differ in dataset and seed alone."""
    same = spec.model_copy(update={"dataset_id": "", "seed": 0})
    return hashlib.sha256(same.to_bytes()).hexdigest()


def _ways(specs: Iterable[EvaluationSpec]) -> dict[str, str]:
    """What to call each way of measuring, by its settings."""
    titles = {_settings(spec): _title(spec) for spec in specs}
    counts = Counter(titles.values())
    return {
        settings: title if counts[title] == 1 else f"{title} [{settings[:_SHORT]}]"
        for settings, title in titles.items()
    }


def _title(spec: EvaluationSpec) -> str:
    title = spec.kind if spec.num_shots is None else f"{spec.kind} {spec.num_shots}"
    return title if spec.split == "test" else f"{title}, {spec.split}"
