"""Who contributes when, in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldfusion_queue.experiment.design import Design, Schedule
from coldfusion_queue.experiment.schedule import Fusion, Turn, all_at_once, alone, plan

NAMES = tuple("abcdefghijkl")


def design(
    num_seen: int = 12,
    at_work: int = 8,
    iterations: int = 6,
    speeds: tuple[float, ...] = (1.0,),
    enough: int | None = None,
) -> Design:
    kind = "barrier" if enough is None else "asynchronous"
    return Design(
        seen=NAMES[:num_seen],
        contributors_per_iteration=at_work,
        iterations=iterations,
        schedule=Schedule(kind=kind, speeds=speeds, min_contributions=enough),
    )


@st.composite
def designs(draw: st.DrawFn, *, is_asynchronous: bool) -> Design:
    num_seen = draw(st.integers(1, 12))
    at_work, iterations = draw(st.integers(1, num_seen)), draw(st.integers(1, 5))
    speeds = draw(st.lists(st.sampled_from([1.0, 1.5, 2.0, 4.0]), min_size=1, max_size=4))
    enough = draw(st.integers(1, at_work * iterations)) if is_asynchronous else None
    return design(num_seen, at_work, iterations, tuple(speeds), enough)


def turns_of(fusions: tuple[Fusion, ...]) -> list[Turn]:
    return [turn for fusion in fusions for turn in fusion.turns]


def stalenesses(fusions: tuple[Fusion, ...]) -> list[int]:
    return [fusion.number - 1 - turn.base for fusion in fusions for turn in fusion.turns]


@given(designs(is_asynchronous=False), st.integers(0, 3))
def test_behind_a_barrier_nothing_is_stale_and_the_slowest_sets_the_pace(
    given_design: Design, seed: int
) -> None:
    fusions = plan(given_design, seed)

    assert len(fusions) == given_design.iterations
    assert set(stalenesses(fusions)) == {0}
    now = 0.0
    for fusion in fusions:
        names = [turn.contributor for turn in fusion.turns]
        assert len(set(names)) == len(names) == given_design.contributors_per_iteration
        assert {turn.start for turn in fusion.turns} == {now}
        now = now + max(turn.end - turn.start for turn in fusion.turns)
        assert fusion.time == now


@given(designs(is_asynchronous=True), st.integers(0, 3))
def test_an_asynchronous_schedule_loses_no_turn_and_keeps_as_many_at_work_as_it_says(
    given_design: Design, seed: int
) -> None:
    fusions = plan(given_design, seed)
    turns = turns_of(fusions)
    enough, at_work = (
        given_design.schedule.min_contributions,
        given_design.contributors_per_iteration,
    )

    assert enough is not None
    assert sorted(turn.number for turn in turns) == [*range(1, given_design.num_turns + 1)]
    assert [fusion.number for fusion in fusions] == [*range(1, len(fusions) + 1)]
    assert all(len(fusion.turns) >= enough for fusion in fusions)
    assert all(earlier.time < later.time for earlier, later in pairwise(fusions))
    last_start = max(turn.start for turn in turns)
    for moment in {turn.start for turn in turns}:
        now = [turn for turn in turns if turn.start <= moment < turn.end]
        assert len({turn.contributor for turn in now}) == len(now) <= at_work
        if moment < last_start:
            assert len(now) == at_work


@given(designs(is_asynchronous=True), st.integers(0, 3))
def test_a_turn_starts_from_the_newest_base_version_there_is_and_enters_the_next_fusion(
    given_design: Design, seed: int
) -> None:
    fusions = plan(given_design, seed)

    for fusion in fusions:
        for turn in fusion.turns:
            published = [other.number for other in fusions if other.time <= turn.start]
            assert turn.base == max(published, default=0)
            assert turn.end <= fusion.time
            earlier = [other for other in fusions if turn.end <= other.time < fusion.time]
            assert earlier == []


@given(designs(is_asynchronous=True), st.integers(0, 3))
def test_staleness_is_no_more_than_the_others_can_do_meanwhile(
    given_design: Design, seed: int
) -> None:
    # While one turn runs, each other place ends no more turns than fit into it, and one that was
    # begun before; of what they end, ``enough`` make a fusion, with those that waited already.
    assert isinstance(given_design.schedule.speeds, tuple)
    slowest, fastest = max(given_design.schedule.speeds), min(given_design.schedule.speeds)
    enough = given_design.schedule.min_contributions or 1
    others = given_design.contributors_per_iteration - 1
    most = others * (math.ceil(slowest / fastest) + 1)

    bound = (most + enough - 1) // enough

    assert max(stalenesses(plan(given_design, seed))) <= bound


@given(designs(is_asynchronous=True), st.integers(0, 3))
def test_the_same_design_and_seed_give_the_same_plan(given_design: Design, seed: int) -> None:
    assert plan(given_design, seed) == plan(given_design, seed)


def test_other_seeds_sample_others() -> None:
    chosen = {
        tuple(turn.contributor for turn in turns_of(plan(design(), seed))) for seed in range(5)
    }

    assert len(chosen) == 5


def test_sampling_serves_everybody_about_equally() -> None:
    counts = Counter(turn.contributor for turn in turns_of(plan(design(iterations=300), 0)))

    assert set(counts) == set(NAMES)
    assert all(170 < count < 230 for count in counts.values())  # 200 each, deviation 8


def test_both_kinds_have_as_many_turns_and_the_asynchronous_one_needs_less_time() -> None:
    speeds = (1.0, 1.0, 2.0, 4.0)
    barrier, freely = plan(design(speeds=speeds), 0), plan(design(speeds=speeds, enough=4), 0)

    assert len(turns_of(barrier)) == len(turns_of(freely)) == 48
    assert freely[-1].time < barrier[-1].time


def test_a_timeline_drawn_by_hand() -> None:
    # Three contributors, two at work, durations 1, 1, 3: a and c start, two arrivals make a fusion.
    own = design(num_seen=2, at_work=2, iterations=3, speeds=(1.0, 3.0), enough=2)

    fusions = plan(own, 0)

    # a works 0-1, 1-2, 2-3, 3-4, ...; b works 0-3.
    drawn = [
        [(turn.contributor, turn.base, turn.start, turn.end) for turn in fusion.turns]
        for fusion in fusions
    ]
    assert drawn == [
        [("a", 0, 0.0, 1.0), ("a", 0, 1.0, 2.0)],
        [("b", 0, 0.0, 3.0), ("a", 1, 2.0, 3.0)],
        [("a", 2, 3.0, 4.0), ("b", 2, 3.0, 6.0)],
    ]
    assert [fusion.time for fusion in fusions] == [2.0, 3.0, 6.0]


def test_equal_speeds_arrive_together_and_are_fused_together() -> None:
    assert stalenesses(plan(design(enough=4), 0)) == [0] * 48
    assert len(plan(design(enough=4), 0)) == 6


def test_everybody_at_once_is_one_fusion_of_the_pretrained_model() -> None:
    (fusion,) = all_at_once(design(speeds=(1.0, 2.0)))

    assert [turn.contributor for turn in fusion.turns] == [*NAMES]
    assert {turn.base for turn in fusion.turns} == {0}
    assert fusion.time == 2.0


@pytest.mark.parametrize(("iterations", "expected"), [(6, 4), (1, 1), (10, 7)])
def test_alone_is_as_many_turns_as_a_contributor_has_on_average(
    iterations: int, expected: int
) -> None:
    fusions = alone(design(iterations=iterations), "c")

    assert len(fusions) == expected
    assert [turn.base for turn in turns_of(fusions)] == [*range(expected)]
    assert {turn.contributor for turn in turns_of(fusions)} == {"c"}
