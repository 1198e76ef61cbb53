"""Whether a contribution is fused: its delta among those of others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldfusion_queue.fusion.sketch import SKETCH_SIZE, encode_sketch
from coldfusion_queue.records import Inspection, Policy, Rule
from coldfusion_queue.repository.judging import Update, judge

NOW = datetime(2026, 11, 25, tzinfo=UTC)
FREE = Policy(max_relative_norm=None, max_norm_z=None, min_cosine=None, max_copy_cosine=None)
#: What all honest ones have in common, beside a direction of their own.
COMMON = np.random.default_rng(99).standard_normal(SKETCH_SIZE)


def policy(**limits: float) -> Policy:
    return FREE.model_copy(update=limits)


def update(
    name: str,
    direction: np.ndarray | None = None,
    *,
    norm: float = 0.1,
    contributor: str | None = None,
    seed: int | None = None,
) -> Update:
    """An update of a base version of norm 1; by default half common, half of its own."""
    if direction is None:
        number = sum(map(ord, name)) if seed is None else seed
        direction = COMMON + np.random.default_rng(number).standard_normal(SKETCH_SIZE)
    inspection = Inspection(
        contribution_id=name,
        digest="0" * 64,
        stamp="tag 1",
        norm=norm,
        base_digest="1" * 64,
        base_norm=1.0,
        sketch=encode_sketch(norm * direction / max(np.linalg.norm(direction), 1e-30)),
        created_at=NOW,
        created_by="test",
    )
    return Update(name, contributor or name, inspection)


def updates(**norms: float) -> list[Update]:
    return [update(name, norm=norm) for name, norm in norms.items()]


HONEST = updates(a=8, b=9, c=10, d=10, e=11, f=12, g=13)


def rules(limits: Policy, candidates: Sequence[Update], recent: Sequence[Update] = ()) -> dict:
    verdicts = judge(limits, candidates, recent)
    return {name: item.rule for name, item in verdicts.items() if item.rule is not None}


# --- length -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "is_refused"), [(0.999, False), (1.0, False), (1.001, True)])
def test_a_delta_longer_than_its_base_version_is_refused_alone_too(
    norm: float, is_refused: bool
) -> None:
    found = rules(policy(max_relative_norm=1.0), [update("x", norm=norm)])

    assert found == ({"x": Rule.RELATIVE_NORM} if is_refused else {})


def test_the_robust_z_score_is_that_of_the_logarithm_among_the_others() -> None:
    others = np.log([8, 9, 10, 10, 11, 12, 13])
    deviation = max(1.4826 * np.median(np.abs(others - np.median(others))), 0.25)
    expected = (np.log(50) - np.median(others)) / deviation

    verdict = judge(policy(max_norm_z=6), [update("x", norm=50)], HONEST)["x"]

    assert verdict.numbers["norm_z"] == pytest.approx(expected)
    assert verdict.rule is Rule.NORM_Z
    assert f"norm_z is {expected:.4g}, expected at most 6" in verdict.reason


def test_others_that_differ_much_make_room_for_a_long_one() -> None:
    spread = updates(a=1, b=2, c=4, d=10, e=20, f=50, g=90)

    assert rules(policy(max_norm_z=4), [update("x", norm=200)], spread) == {}
    assert rules(policy(max_norm_z=4), [update("x", norm=200)], HONEST) == {"x": Rule.NORM_Z}


def test_a_short_delta_is_harmless() -> None:
    verdict = judge(policy(max_norm_z=1), [update("x", norm=1e-9)], HONEST)["x"]

    assert verdict.numbers["norm_z"] < -10
    assert verdict.rule is None


@pytest.mark.parametrize(("norm", "is_refused"), [(0.09, False), (0.11, True)])
def test_a_delta_of_ordinary_length_may_be_much_longer_than_others(
    norm: float, is_refused: bool
) -> None:
    short = [update(name, norm=0.0001) for name in "abcdefg"]

    found = rules(policy(max_norm_z=6), [update("x", norm=norm)], short)

    assert found == ({"x": Rule.NORM_Z} if is_refused else {})


def test_two_of_eight_cannot_hide_each_other() -> None:
    scaled = [update("x", norm=1e6), update("y", norm=1e6)]

    assert rules(policy(max_norm_z=6), [*scaled, *HONEST[:6]]) == {
        "x": Rule.NORM_Z,
        "y": Rule.NORM_Z,
    }


@pytest.mark.parametrize(("num_others", "is_compared"), [(3, False), (4, True)])
def test_with_few_others_there_is_nothing_to_compare_with(
    num_others: int, is_compared: bool
) -> None:
    verdict = judge(policy(max_norm_z=2), [update("x", norm=1e6)], HONEST[:num_others])["x"]

    assert ("norm_z" in verdict.numbers) is is_compared
    assert ("cosine" in verdict.numbers) is is_compared
    assert (verdict.rule is Rule.NORM_Z) is is_compared


# --- direction --------------------------------------------------------------------------------


def test_the_cosine_is_that_to_the_mean_direction_of_the_others() -> None:
    other = update("x", norm=3.0)
    sketches = {
        name: COMMON + np.random.default_rng(ord(name)).standard_normal(SKETCH_SIZE)
        for name in "abcdefgx"
    }
    units = {name: value / np.linalg.norm(value) for name, value in sketches.items()}
    mean = sum(units[name] for name in "abcdefg")
    expected = units["x"] @ mean / np.linalg.norm(mean)

    verdict = judge(FREE, [other], HONEST)["x"]

    assert verdict.numbers["cosine"] == pytest.approx(expected, abs=1e-6)


def test_one_that_points_away_from_the_others_is_refused() -> None:
    flipped = update("x", -COMMON + np.random.default_rng(5).standard_normal(SKETCH_SIZE))

    found = judge(policy(min_cosine=-0.1), [*HONEST, flipped], [])

    assert {name for name, item in found.items() if item.rule is Rule.COSINE} == {"x"}
    assert "expected at least -0.1" in found["x"].reason


@pytest.mark.parametrize("num_attackers", [1, 2])
@pytest.mark.parametrize("order", [1, -1])
def test_those_who_work_against_all_others_do_not_get_these_refused(
    num_attackers: int, order: int
) -> None:
    # Honest ones on datasets of their own, at right angles; attackers against their mean
    honest = [update(f"h{seed}", _direction(seed)) for seed in range(8 - num_attackers)]
    against = -np.sum([_direction(seed) for seed in range(8 - num_attackers)], axis=0)
    scale = 0.5 * np.linalg.norm(against) / np.linalg.norm(_direction(0))
    attackers = [
        update(f"a{seed}", against + scale * _direction(100 + seed))  # no copies of each other
        for seed in range(num_attackers)
    ]

    found = rules(policy(min_cosine=-0.5, max_copy_cosine=0.95), [*honest, *attackers][::order])

    assert found == {item.contribution_id: Rule.COSINE for item in attackers}


def test_what_is_refused_is_no_standard_for_the_others() -> None:
    # Three long ones of eight stretch the deviation until they are ordinary, one by one
    candidates = updates(a=1, b=1, c=1, d=1.1, e=0.9, x=1e9, y=1e8, z=1e7)

    verdicts = judge(policy(max_norm_z=6.0), candidates, [])

    assert {name for name, item in verdicts.items() if item.rule} == {"x", "y", "z"}
    honest = judge(FREE, candidates[:5], [])
    assert {name: verdicts[name].numbers for name in honest} == {
        name: pytest.approx(item.numbers) for name, item in honest.items()
    }


def _direction(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SKETCH_SIZE)


def test_a_delta_that_is_nothing_points_nowhere() -> None:
    verdict = judge(policy(min_cosine=-0.1), [update("x", norm=0.0)], HONEST)["x"]

    assert verdict.numbers["cosine"] == 0.0
    assert verdict.rule is None


# --- copies -----------------------------------------------------------------------------------


def test_of_two_copies_the_first_stays() -> None:
    first, second = update("a", seed=1), update("b", seed=1, norm=0.2)

    verdicts = judge(policy(max_copy_cosine=0.99), [first, second], [])

    assert verdicts["a"].rule is None
    assert verdicts["b"].rule is Rule.COPY
    assert verdicts["b"].numbers["copy_cosine"] == pytest.approx(1.0)
    assert "its delta is that of a of a, which came first" in verdicts["b"].reason


def test_a_copy_of_what_was_fused_before_is_found() -> None:
    assert rules(policy(max_copy_cosine=0.99), [update("x", seed=7)], [update("y", seed=7)]) == {
        "x": Rule.COPY
    }


def test_a_contributor_may_repeat_itself() -> None:
    mine = [update(name, seed=1, contributor="me") for name in ("me.1", "me.2")]

    assert rules(policy(max_copy_cosine=0.99), mine) == {}


def test_similar_ones_are_no_copies() -> None:
    direction = COMMON + 0.2 * np.random.default_rng(1).standard_normal(SKETCH_SIZE)
    other = COMMON + 0.2 * np.random.default_rng(2).standard_normal(SKETCH_SIZE)

    verdicts = judge(policy(max_copy_cosine=0.99), [update("a", direction), update("b", other)], [])

    assert 0.9 < verdicts["b"].numbers["copy_cosine"] < 0.99
    assert verdicts["b"].rule is None


# --- laws -------------------------------------------------------------------------------------


@given(order=st.permutations(range(len(HONEST))), recent=st.integers(0, len(HONEST) - 1))
def test_the_order_matters_for_copies_alone(order: list[int], recent: int) -> None:
    shuffled = [HONEST[index] for index in order]
    other = update("x", norm=30)

    first = judge(FREE, [*HONEST, other], [])["x"].numbers
    second = judge(FREE, [*shuffled[recent:], other], shuffled[:recent])["x"].numbers

    assert second == pytest.approx(first)


@pytest.mark.parametrize("factor", [1e-6, 3.0])
def test_scaling_all_changes_no_number_but_the_relative_norm(factor: float) -> None:
    def numbers(scale: float) -> dict[str, float]:
        scaled = [update(name, norm=scale * 0.01 * ord(name)) for name in "abcdefx"]
        return dict(judge(FREE, scaled, [])["x"].numbers)

    before, after = numbers(1.0), numbers(factor)

    assert after.pop("relative_norm") == pytest.approx(factor * before.pop("relative_norm"))
    assert after == pytest.approx(before, abs=1e-6)


def test_without_limits_everything_is_fused_and_the_numbers_are_there() -> None:
    verdicts = judge(FREE, [update("x", -COMMON, norm=1e9), *HONEST, update("y", seed=97)], [])

    assert all(item.rule is None and item.reason == "" for item in verdicts.values())
    assert set(verdicts["y"].numbers) == {"relative_norm", "norm_z", "cosine", "copy_cosine"}
