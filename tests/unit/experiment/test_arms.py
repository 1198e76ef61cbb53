"""The arms of an experiment, and what is measured of them."""

from __future__ import annotations

from typing import Any

import pytest

from coldfusion_queue.errors import UsageError
from coldfusion_queue.experiment.arms import Arm, arms_of, datasets_of, wanted
from coldfusion_queue.experiment.policies import policy_of
from coldfusion_queue.experiment.spec import Experiment

NAMES = ("one", "two", "three", "four")
IDS = {name: f"id-{name}" for name in NAMES}


def declare(**fields: Any) -> Experiment:
    declared = {
        "name": "small",
        "base": "example",
        "datasets": {name: name for name in NAMES},
        "seen": ["one", "two", "three"],
        "unseen": ["four"],
        "contributors_per_iteration": 2,
        "iterations": 3,
    }
    return Experiment.model_validate({**declared, **fields})


def arm_of(experiment: Experiment, name: str) -> Arm:
    return next(arm for arm in arms_of(experiment) if arm.name == name)


def asked(experiment: Experiment, name: str, iteration: int, seed: int = 0) -> set[tuple[Any, ...]]:
    arm = arm_of(experiment, name)
    is_last = iteration == len(arm.fusions(seed))
    return {
        (item.dataset, item.spec.kind, item.spec.seed)
        for item in wanted(experiment, arm, seed, iteration, IDS, is_last=is_last)
    }


def test_every_arm_and_seed_is_a_repository_of_its_own() -> None:
    experiment = declare(
        seeds=2,
        baselines=["pretrained", "multitask", "fused_once"],
        controls=["random_deltas", "alone"],
        variants={"freely": {}},
    )

    names = [arm.repository(experiment, 1) for arm in arms_of(experiment)]

    assert names == [
        "small-pretrained-s1",
        "small-multitask-s1",
        "small-fused-once-s1",
        "small-cold-s1",
        "small-freely-s1",
        "small-random-deltas-s1",
        "small-alone-one-s1",
        "small-alone-two-s1",
        "small-alone-three-s1",
    ]


def test_folds_are_arms_and_share_the_pretrained_model() -> None:
    folds = [
        {"seen": ["one", "two"], "unseen": ["three", "four"]},
        {"seen": ["three", "four"], "unseen": ["one", "two"]},
    ]
    experiment = declare(seen=[], unseen=[], folds=folds)

    assert [arm.name for arm in arms_of(experiment)] == ["pretrained", "cold-f1", "cold-f2"]
    assert {item[0] for item in asked(experiment, "pretrained", 0)} == {*NAMES}
    assert arm_of(experiment, "cold-f2").is_seen("three")


def test_a_name_that_is_too_long_for_a_repository_is_refused() -> None:
    with pytest.raises(UsageError, match="1 to 63"):
        arms_of(declare(name="a" * 55))


def test_frozen_is_measured_of_every_version_and_finetuned_of_the_last() -> None:
    experiment = declare()

    assert asked(experiment, "cold", 1) == {(name, "frozen", 0) for name in NAMES}
    assert asked(experiment, "cold", 3) == {
        (name, kind, 0) for name in NAMES for kind in ("frozen", "finetuned")
    }


def test_seeds_of_finetunes_follow_from_that_of_the_experiment() -> None:
    few = {"datasets": "unseen", "num_shots": 10, "seeds": 3}
    experiment = declare(seeds=2, evaluation={"finetuned": None, "few_shot": few})

    seeds = [
        {item[2] for item in asked(experiment, "cold", 3, seed) if item[1] == "few_shot"}
        for seed in (0, 1)
    ]

    assert seeds == [{0, 1, 2}, {3, 4, 5}]
    assert {item[0] for item in asked(experiment, "cold", 3) if item[1] == "few_shot"} == {"four"}


def test_who_trains_alone_is_measured_on_its_own_dataset() -> None:
    experiment = declare(
        controls=["alone"], evaluation={"few_shot": {"datasets": "unseen", "num_shots": 5}}
    )

    assert asked(experiment, "alone-two", 2) == {("two", "frozen", 0), ("two", "finetuned", 0)}
    assert asked(experiment, "alone-two", 1) == set()
    assert datasets_of(experiment, arm_of(experiment, "alone-two")) == ("two",)


def test_the_policy_waits_for_what_belongs_together_and_keeps_everything() -> None:
    experiment = declare(policy={"method": "median", "retain_contributions": 3})

    policy = policy_of(arm_of(experiment, "cold"), IDS, 2, 100)

    assert (policy.min_contributions, policy.max_contributions) == (2, 100)
    assert policy.max_wait_seconds > 1e8
    assert (policy.method, policy.retain_contributions) == ("median", 3)
    assert policy.retain_base_versions is None
    assert policy.gate_datasets == ()


def test_a_gate_is_that_of_the_arms_that_are_measured_against_each_other() -> None:
    experiment = declare(
        gate={"datasets": ["four"], "tolerance": 0.02}, baselines=["multitask"], controls=["alone"]
    )

    assert policy_of(arm_of(experiment, "cold"), IDS, 2, 2).gate_datasets == ("id-four",)
    assert policy_of(arm_of(experiment, "cold"), IDS, 2, 2).gate_tolerance == 0.02
    for name in ("multitask", "alone-one"):
        policy = policy_of(arm_of(experiment, name), IDS, 1, 1)
        assert policy.gate_datasets == ()
        assert (policy.method, policy.max_relative_norm) == ("mean", None)
