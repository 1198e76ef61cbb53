from __future__ import annotations

import pytest

from coldfusion_queue.finetune.early_stopping import EarlyStopping


def stopping(scores: list[float], min_gain: float = 0.01) -> EarlyStopping:
    """A score every 10 examples, and a patience of 30."""
    found = EarlyStopping(min_gain, 30, 10)
    found.scores += [(10 * (index + 1), score) for index, score in enumerate(scores)]
    return found


@pytest.mark.parametrize(
    ("scores", "stops"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.5, 0.5], False),  # 20 examples without gain
        ([0.5, 0.5, 0.5, 0.5], True),  # 30
        ([0.5, 0.5, 0.51, 0.5], False),
        ([0.5, 0.509, 0.509, 0.509], True),
        ([0.5, 0.6, 0.6, 0.6], False),  # the gain is within the patience
        ([0.5, 0.6, 0.6, 0.6, 0.6], True),
        ([0.5, 0.504, 0.508, 0.512, 0.516, 0.520], False),  # small gains add up
        ([0.9, 0.1, 0.2, 0.3, 0.4], True),  # what counts is the best, not the last
        ([-0.5, -0.4, -0.3, -0.2], False),
    ],
)
def test_a_training_stops_when_its_best_score_gained_too_little(
    scores: list[float], stops: bool
) -> None:
    assert stopping(scores).should_stop() is stops


def test_no_gain_wanted_never_stops_what_does_not_fall() -> None:
    assert not stopping([0.5] * 9, min_gain=0.0).should_stop()


def test_no_patience_never_stops() -> None:
    endless = EarlyStopping(0.01, None, 10, [(10 * step, 0.5) for step in range(1, 99)])

    assert not endless.should_stop()
    assert not endless.can_matter(10**9)


def test_a_short_training_needs_no_validation_on_its_way() -> None:
    papers = EarlyStopping(0.001, 256_000, 12_800)

    assert not papers.can_matter(10 * 25_600)  # ten epochs of less can never stop early
    assert not papers.can_matter(256_000 + 12_800)
    assert papers.can_matter(256_000 + 12_801)


def test_validations_are_due_once_an_interval_whatever_the_batch_size() -> None:
    rule = EarlyStopping(0.001, 256_000, 12_800)
    for batch_size in (1, 7, 256, 12_800, 5000):
        seen = range(0, 128_000 + batch_size, batch_size)
        due = sum(map(rule.is_due, seen, seen[1:]))
        assert due == seen[-1] // 12_800
