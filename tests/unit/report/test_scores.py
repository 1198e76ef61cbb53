"""Evaluations as scores: what may be averaged, and what may not."""

from __future__ import annotations

from statistics import mean, stdev

import pytest

from coldfusion_queue.report.gather import gather
from coldfusion_queue.report.quality import common_datasets, gate_means
from coldfusion_queue.report.scores import natural
from tests.unit.report.history import History, gate_report

FIRST, SECOND = "a" * 32, "b" * 32


def test_seeds_are_averaged() -> None:
    history = History()
    values = [0.71, 0.74, 0.68]
    for seed, value in enumerate(values):
        interval = (value - 0.01 * (seed + 1), value + 0.02)
        history.evaluate(history.base, FIRST, value, kind="finetuned", seed=seed, interval=interval)

    (score,) = gather(history.repository).scores

    assert (score.way, score.num_seeds) == ("finetuned", 3)
    assert score.score == pytest.approx(mean(values))
    assert score.deviation == pytest.approx(stdev(values))
    assert score.interval == pytest.approx((mean(values) - 0.02, mean(values) + 0.02))


def test_one_seed_has_no_deviation() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5)

    (score,) = gather(history.repository).scores

    assert score.deviation is None


def test_what_is_measured_in_another_way_is_another_score() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5)
    history.evaluate(history.base, FIRST, 0.6, split="validation")
    history.evaluate(history.base, FIRST, 0.7, kind="few_shot", num_shots=10)
    history.evaluate(history.base, FIRST, 0.8, kind="few_shot", num_shots=100)

    found = {item.way: item.score for item in gather(history.repository).scores}

    assert found == {
        "frozen": 0.5,
        "frozen, validation": 0.6,
        "few_shot 10": 0.7,
        "few_shot 100": 0.8,
    }


def test_ways_that_would_have_one_name_are_told_apart() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5)
    history.evaluate(history.base, FIRST, 0.6, max_scored_examples=10)

    ways = [item.way for item in gather(history.repository).scores]

    assert len(set(ways)) == 2
    assert all(way.startswith("frozen [") for way in ways)


def test_failed_seeds_are_left_out() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5, kind="finetuned", seed=0)
    history.evaluate(history.base, FIRST, None, kind="finetuned", seed=1)
    history.evaluate(history.base, SECOND, None)

    scores = gather(history.repository).scores

    assert [(item.dataset_id, item.num_seeds) for item in scores] == [(FIRST, 1)]


def test_means_are_over_datasets_that_are_measured_at_every_version() -> None:
    history = History()
    for dataset in (FIRST, SECOND):
        history.evaluate(history.base, dataset, 0.5)
    base = history.fuse([history.contribution("x")])
    history.evaluate(base, FIRST, 0.6)
    history.fuse([history.contribution("x")])  # measured nowhere, which hides nothing

    assert common_datasets(gather(history.repository).scores) == {"frozen": {FIRST}}


def test_the_gate_knows_the_pretrained_model_and_what_is_restored() -> None:
    history = History()
    history.fuse([history.contribution("x")], gate=gate_report(0.55, 0.5))
    history.withhold([history.contribution("x")], gate_report(0.3, 0.55))
    history.fuse([history.contribution("y")], gate=gate_report(0.58, 0.55))
    history.restore(1)

    means = gate_means(gather(history.repository).steps)

    assert {version: value for version, (value, _) in means.items()} == {
        0: 0.5,
        1: 0.55,
        2: 0.58,
        3: 0.55,
    }


def test_names_are_sorted_as_people_count() -> None:
    names = ["d10", "d9", "d", "e1", "٣" * 5000, "d9-2"]

    assert sorted(names, key=natural) == ["d", "d9", "d9-2", "d10", "e1", "٣" * 5000]
