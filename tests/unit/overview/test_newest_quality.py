"""Which scores tell how good the base is."""

from __future__ import annotations

from typing import Any

import pytest

from coldfusion_queue.overview.quality import MAX_DATASETS, QualityReader
from coldfusion_queue.records import BaseVersion, Policy
from coldfusion_queue.repository.gating import gate_specs
from tests.unit.report.history import History, gate_report

Found = dict[tuple[str, str], tuple[float, int]]


@pytest.fixture
def history() -> History:
    return History()


def fuse(history: History) -> BaseVersion:
    return history.fuse([history.contribution("anna")])


@pytest.fixture(params=[False, True], ids=["each version", "all at once"])
def reader(request: pytest.FixtureRequest) -> QualityReader:
    return QualityReader(lists_all=request.param)


def quality(history: History, reader: QualityReader, policy: Policy | None = None) -> Found:
    versions = {
        entry.published.digest: entry.published.version
        for entry in history.entries
        if entry.published is not None
    }
    found = reader.read(history.repository, versions, policy or Policy())
    return {
        (item.dataset_id, item.kind): (pytest.approx(item.score), item.base_version)
        for item in found
    }


def test_the_newest_evaluated_version_of_each_dataset_and_kind_is_told(
    history: History, reader: QualityReader
) -> None:
    history.evaluate(history.base, "d", 0.1)
    history.evaluate(history.base, "e", 0.2)
    first = fuse(history)
    history.evaluate(first, "d", 0.3)
    history.evaluate(first, "d", 0.5, kind="finetuned")
    fuse(history)

    assert quality(history, reader) == {
        ("d", "finetuned"): (0.5, 1),
        ("d", "frozen"): (0.3, 1),
        ("e", "frozen"): (0.2, 0),
    }


def test_seeds_count_together(history: History, reader: QualityReader) -> None:
    for seed, score in enumerate((0.2, 0.4, 0.9)):
        history.evaluate(history.base, "d", score, kind="finetuned", seed=seed)

    assert quality(history, reader) == {("d", "finetuned"): (0.5, 0)}


def test_a_withheld_model_tells_nothing_and_a_restored_one_what_it_restores(
    history: History, reader: QualityReader
) -> None:
    good = fuse(history)
    history.evaluate(good, "d", 0.8)
    withheld = history.withhold([history.contribution("ben")], gate_report(0.1, 0.8))
    history.evaluate(withheld, "d", 0.1)
    bad = fuse(history)
    history.evaluate(bad, "d", 0.3)
    assert quality(history, reader) == {("d", "frozen"): (0.3, 2)}

    history.restore(1)

    assert quality(history, reader) == {("d", "frozen"): (0.8, 3)}


def test_a_failed_evaluation_tells_nothing_until_it_is_made_again(
    history: History, reader: QualityReader
) -> None:
    history.evaluate(history.base, "d", 0.4)
    newer = fuse(history)
    history.evaluate(newer, "d", None)
    assert quality(history, reader) == {("d", "frozen"): (0.4, 0)}

    history.evaluate(newer, "d", 0.6)

    assert quality(history, reader) == {("d", "frozen"): (0.6, 1)}


def test_a_record_that_cannot_be_read_is_passed_over(
    history: History, reader: QualityReader
) -> None:
    history.evaluate(history.base, "d", 0.4)
    damaged = history.evaluate(fuse(history), "d", 0.6)
    history.memory.objects[history.keys.evaluation(damaged.evaluation_id)] = b"{"

    assert quality(history, reader) == {("d", "frozen"): (0.4, 0)}


def test_each_record_is_read_once(history: History, reader: QualityReader) -> None:
    for _ in range(4):
        history.evaluate(fuse(history), "d", 0.5)
    quality(history, reader)
    history.memory.reads.clear()

    assert quality(history, reader) == {("d", "frozen"): (0.5, 4)}
    assert not history.memory.reads


def test_what_is_measured_in_another_way_now_and_then_is_no_fall(
    history: History, reader: QualityReader
) -> None:
    for number in range(6):
        base = fuse(history)
        history.evaluate(base, "d", 0.8)
        if number == 5:
            history.evaluate(base, "d", 0.3, max_scored_examples=5)
    assert quality(history, reader) == {("d", "frozen"): (0.8, 6)}

    history.evaluate(fuse(history), "d", 0.2, max_scored_examples=5)

    assert quality(history, reader) == {("d", "frozen"): (0.8, 6)}


def test_a_new_way_is_told_of_when_most_of_the_last_versions_were_measured_by_it(
    history: History, reader: QualityReader
) -> None:
    for _ in range(20):
        history.evaluate(fuse(history), "d", 0.8)
    for _ in range(9):
        history.evaluate(fuse(history), "d", 0.4, max_scored_examples=5)

    assert quality(history, reader) == {("d", "frozen"): (0.4, 29)}


def test_the_gates_probe_is_told_of_only_where_nothing_else_is_as_frequent(
    history: History, reader: QualityReader
) -> None:
    datasets = ("a", "b", "c", "d", "e", "f")
    policy = Policy(gate_datasets=datasets)

    def probe(base: BaseVersion, score: float) -> None:
        for spec in gate_specs(policy):
            names = ("split", "max_scored_examples", "hyperparameters")
            changes: dict[str, Any] = {name: getattr(spec, name) for name in names}
            history.evaluate(base, spec.dataset_id, score, **changes)

    def expected(score: float, version: int) -> Found:
        return {(name, "frozen"): (score, version) for name in datasets}

    first = fuse(history)
    probe(first, 0.5)
    assert quality(history, reader, policy) == expected(0.5, 1)
    for name in datasets:
        history.evaluate(first, name, 0.9)
    assert quality(history, reader, policy) == expected(0.9, 1)

    probe(fuse(history), 0.6)

    assert quality(history, reader, policy) == expected(0.6, 2)


def test_datasets_beyond_the_limit_are_those_that_were_evaluated_long_ago(
    history: History, reader: QualityReader
) -> None:
    history.evaluate(history.base, "a", 0.1)
    newer = fuse(history)
    for number in range(MAX_DATASETS):
        history.evaluate(newer, f"d{number:02}", 0.5)

    found = quality(history, reader)

    assert len(found) == MAX_DATASETS
    assert ("a", "frozen") not in found
