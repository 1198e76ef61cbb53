"""Files of experiments: what they mean, and what is wrong with them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from coldfusion_queue.errors import UsageError
from coldfusion_queue.experiment.spec import read_experiment

GOOD = """
    name: small
    base: example
    datasets:
      one: data/one
      two: {data: "hub:glue:cola", text: sentence, train_rows: 100}
      three: ${DATA}/three
    seen: [one, two]
    unseen: [three]
    contributors_per_iteration: 2
    iterations: 3
    seeds: 2
    variants:
      freely:
        schedule: {kind: asynchronous, speeds: [1, 2], min_contributions: 1}
      plain: {policy: {method: median}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "experiment.yaml"


def read(path: Path, text: str, data: Path | None = None) -> object:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return read_experiment(path, data)


def problems_of(path: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read(path, text, Path("/data"))
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_a_good_file_is_read(write: Path) -> None:
    write.write_text(textwrap.dedent(GOOD), encoding="utf-8")

    found = read_experiment(write, Path("/data"))

    assert found.seeds == (0, 1)
    assert {name: item.data for name, item in found.datasets.items()} == {
        "one": str(write.parent / "data/one"),
        "two": "hub:glue:cola",
        "three": "/data/three",
    }
    assert found.datasets["two"].train_rows == 100
    assert found.design("freely").schedule.min_contributions == 1
    assert found.design("freely").seen == ("one", "two")
    assert found.design("plain").policy.method == "median"
    assert found.design().policy.method == "mean"


def test_what_is_shown_of_an_experiment_holds_no_path_of_this_machine(write: Path) -> None:
    write.write_text(textwrap.dedent(GOOD).replace("example", "/models/mine"), encoding="utf-8")

    shown = read_experiment(write, Path("/data")).without_paths()

    assert shown.base == "mine"
    assert [item.data for item in shown.datasets.values()] == ["one", "hub:glue:cola", "three"]


def test_folds_take_the_place_of_seen_and_unseen(write: Path) -> None:
    text = GOOD.replace("seen: [one, two]", "folds: [{seen: [one, two], unseen: [three]}]")
    write.write_text(textwrap.dedent(text.replace("    unseen: [three]\n", "")), encoding="utf-8")

    found = read_experiment(write, Path("/data"))

    assert found.design(None, found.folds[0]).unseen == ("three",)


def test_every_problem_of_a_file_is_named(write: Path) -> None:
    text = (
        GOOD.replace("seen: [one, two]", "seen: [one, one, four]")
        .replace("unseen: [three]", "unseen: [one]")
        .replace("contributors_per_iteration: 2", "contributors_per_iteration: 4")
        .replace("plain: {policy: {method: median}}", "plain: {policy: {max_wait_seconds: 1}}")
        .replace("seeds: 2", "seeds: [1, 1]")
        .replace("name: small", "name: Small One")
    )

    found = problems_of(write, text)

    for expected in (
        "seen: there is no dataset 'four'",
        "seen: 'one' is there 2 times",
        "unseen: 'one' is seen too",
        "contributors_per_iteration: got 4, expected at most the 3 datasets that are seen",
        "variants.plain: policy.max_wait_seconds: the experiment sets it itself",
        "variants.plain: seen: there is no dataset 'four'",
        "seeds: expected at least one, and each of them once",
    ):
        assert expected in found
    assert any(line.startswith("name: ") and "'Small One'" in line for line in found)


def test_all_fields_that_cannot_be_read_are_named_at_once(write: Path) -> None:
    found = problems_of(write, "name: a\nbase: b\niterations: 0\ndatasets: {}\nextra: 1\n")

    assert [line.split(":")[0] for line in found] == ["iterations", "extra"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "one: data/one",
            "one: {data: data/one, part: 3/2}",
            "datasets.one.part: got 3/2, expected at most 2/2",
            id="part",
        ),
        pytest.param(
            "iterations: 3",
            "schedule: {kind: asynchronous}",
            "schedule.min_contributions: for an asynchronous schedule, which needs it",
            id="asynchronous",
        ),
        pytest.param(
            "iterations: 3",
            "schedule: {speeds: {one: 1}}",
            "schedule.speeds: nothing for two",
            id="speeds",
        ),
        pytest.param(
            "iterations: 3",
            "evaluation: {few_shot: {datasets: [nine]}}",
            "evaluation.few_shot.num_shots: expected a number of examples",
            id="few-shot",
        ),
        pytest.param(
            "iterations: 3",
            "evaluation: {finetuned: {datasets: [nine]}}",
            "evaluation.finetuned.datasets: there is no dataset 'nine'",
            id="evaluated dataset",
        ),
        pytest.param(
            "iterations: 3",
            "poison: {contributor: three}",
            "poison.contributor: 'three' is none of the seen datasets",
            id="poison",
        ),
        pytest.param(
            "iterations: 3",
            "hyperparameters: {seed: 4}",
            "hyperparameters.seed: the experiment sets it itself",
            id="seed",
        ),
        pytest.param(
            "plain: {policy: {method: median}}",
            "plain: {color: red}",
            "variants.plain: color: Extra inputs are not permitted",
            id="variant",
        ),
    ],
)
def test_a_problem_is_named_where_it_is(write: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in problems_of(write, GOOD.replace(old, new))


def test_a_folder_that_nobody_gave_is_a_problem(write: Path) -> None:
    with pytest.raises(UsageError, match="--data"):
        read(write, GOOD)


@pytest.mark.parametrize("text", ["[", "name: [1", "- 1"])
def test_what_is_no_experiment_is_refused(write: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"experiment\.yaml"):
        read(write, text)


def test_a_file_that_is_not_there_is_refused(write: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_experiment(write)
