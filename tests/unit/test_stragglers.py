"""The simulation of slow contributors, for a short time."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.stragglers import SCENARIOS, TURN_UNITS, World, main, simulate
from coldfusion_queue.records import Policy


def run(scenario: str) -> World:
    policy = Policy.model_validate({"min_contributions": 1, **SCENARIOS[scenario]})
    return simulate(policy, units=600, interval=2)


@pytest.mark.parametrize("scenario", ["default", "max_staleness_20"])
def test_without_overload_shares_follow_the_speeds(scenario: str) -> None:
    world = run(scenario)

    for name in TURN_UNITS:
        report = world.report(name)
        assert report["share"] == pytest.approx(report["expected_share"], abs=0.02)
        assert report["max_fusions_passed_over"] == 0
        assert report["expired"] == 0


def test_balance_makes_up_for_a_part_of_what_the_fast_do_more() -> None:
    plain, balanced = run("default"), run("balanced")

    for name in TURN_UNITS:
        # What is fused when stays the same.
        assert balanced.report(name)["share"] == plain.report(name)["share"]
    for name in ("slow", "medium"):
        share = balanced.report(name)["coefficient_share"]
        assert 1.5 * plain.report(name)["coefficient_share"] < share < 1 / 3


def test_in_overload_the_slow_ones_get_all_that_they_committed_and_at_once() -> None:
    world = run("overload")

    for name in ("slow", "medium"):
        report = world.report(name)
        assert report["fused"] >= report["committed"] - 1
        assert report["max_fusions_passed_over"] <= 1
    assert world.report("fast")["fused"] < world.report("fast")["committed"]
    assert world.expired.total() == 0


def test_the_limit_on_staleness_hits_the_backlog_and_not_the_slow() -> None:
    world = run("overload_and_max_staleness_20")

    assert world.expired.keys() <= {"fast"}
    assert world.expired["fast"] > 0


def test_it_prints_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stragglers", "--units", "60"])

    main()

    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "stragglers"
    assert report["results"].keys() == SCENARIOS.keys()
