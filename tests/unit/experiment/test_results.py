"""Means, gains and their errors, against plain numpy."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coldfusion_queue.experiment.curves import draw
from coldfusion_queue.experiment.results import Estimate, Results, Row
from coldfusion_queue.experiment.spec import Experiment
from coldfusion_queue.experiment.tables import all_tables, to_markdown

SEEN, UNSEEN, SEEDS = ("one", "two"), ("three",), (0, 1, 2)

EXPERIMENT = Experiment.model_validate(
    {
        "name": "small",
        "base": "example",
        "datasets": {name: name for name in (*SEEN, *UNSEEN)},
        "seen": SEEN,
        "unseen": UNSEEN,
        "contributors_per_iteration": 2,
        "iterations": 2,
        "seeds": SEEDS,
        "baselines": ["pretrained", "fused_once"],
        "variants": {"freely": {}},
    }
)


def score_of(column: str, dataset: str, seed: int, iteration: int) -> float:
    """Any numbers that differ."""
    start = {"one": 50.0, "two": 70.0, "three": 30.0}[dataset]
    gain = {"pretrained": 0.0, "fused-once": 1.5, "cold": 2.0, "freely": 1.0}[column]
    return start + gain * iteration + math.sin(7 * seed + 3 * iteration + len(dataset) + gain)


def row(column: str, dataset: str, seed: int, iteration: int, kind: str = "frozen") -> Row:
    lasts = {"pretrained": 0, "fused-once": 1, "cold": 2, "freely": 2}
    return Row(
        arm=column,
        column=column,
        fold=None,
        seed=seed,
        dataset=dataset,
        is_seen=dataset in SEEN and column != "pretrained",
        kind=kind,
        evaluation_seed=0,
        iteration=iteration,
        is_last=iteration == lasts[column],
        time=1.5 * iteration,
        score=score_of(column, dataset, seed, iteration),
        failure=None,
        metric="accuracy",
        base_version=iteration,
        repository=f"small-{column}-s{seed}",
        evaluation=f"{column}.{dataset}.{seed}.{iteration}",
    )


@pytest.fixture
def results() -> Results:
    where = {"pretrained": [0], "fused-once": [1], "cold": [1, 2], "freely": [1, 2]}
    rows = [
        row(column, dataset, seed, iteration)
        for column, iterations in where.items()
        for dataset, seed, iteration in itertools.product((*SEEN, *UNSEEN), SEEDS, iterations)
    ]
    return Results(EXPERIMENT, tuple(rows), (), 0)


def last(column: str, datasets: tuple[str, ...]) -> np.ndarray:
    """(datasets, seeds)"""
    iteration = {"pretrained": 0, "fused-once": 1, "cold": 2, "freely": 2}[column]
    return np.array(
        [[score_of(column, name, seed, iteration) for seed in SEEDS] for name in datasets]
    )


def check(found: Estimate | None, mean: float, error: float) -> None:
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.error == pytest.approx(error)


def deviation_of_mean(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


@pytest.mark.parametrize("column", ["pretrained", "fused-once", "cold", "freely"])
def test_a_score_is_the_mean_over_seeds_of_the_last_version(results: Results, column: str) -> None:
    expected = last(column, ("two",))

    found = results.score(column, "frozen", "two", is_seen=True)

    check(found, expected.mean(), deviation_of_mean(expected))


def test_the_mean_over_datasets_has_the_error_over_seeds(results: Results) -> None:
    expected = last("cold", SEEN)

    found = results.mean_score("cold", "frozen", SEEN, is_seen=True)

    check(found, expected.mean(), deviation_of_mean(expected.mean(axis=0)))


@pytest.mark.parametrize(("datasets", "is_seen"), [(SEEN, True), (UNSEEN, False)])
def test_a_gain_is_paired_by_dataset_and_seed(
    results: Results, datasets: tuple[str, ...], is_seen: bool
) -> None:
    expected = last("cold", datasets) - last("pretrained", datasets)

    found = results.gain("cold", "frozen", datasets, is_seen=is_seen)

    check(found, expected.mean(), deviation_of_mean(expected))
    assert found is not None
    assert found.number == expected.size


def test_a_gain_over_another_arm_is_paired_too(results: Results) -> None:
    expected = last("cold", SEEN) - last("freely", SEEN)

    found = results.gain("cold", "frozen", SEEN, is_seen=True, over="freely")

    check(found, expected.mean(), deviation_of_mean(expected))


def test_what_is_missing_on_one_side_is_no_pair(results: Results) -> None:
    rows = tuple(
        item
        for item in results.rows
        if (item.column, item.dataset, item.seed) != ("pretrained", "one", 1)
    )
    expected = (last("cold", SEEN) - last("pretrained", SEEN)).ravel()

    found = Results(EXPERIMENT, rows, (), 1).gain("cold", "frozen", SEEN, is_seen=True)

    check(found, np.delete(expected, 1).mean(), deviation_of_mean(np.delete(expected, 1)))


def test_folds_take_the_same_pretrained_numbers(results: Results) -> None:
    from dataclasses import replace

    rows = tuple(
        item if item.column == "pretrained" else replace(item, fold=fold, arm=f"{item.arm}-f{fold}")
        for fold in (1, 2)
        for item in results.rows
        if item.column != "pretrained" or fold == 1
    )
    expected = np.concatenate([last("cold", SEEN) - last("pretrained", SEEN)] * 2)

    found = Results(EXPERIMENT, rows, (), 0).gain("cold", "frozen", SEEN, is_seen=True)

    check(found, expected.mean(), deviation_of_mean(expected))


def test_folds_of_other_datasets_are_one_run_of_a_seed() -> None:
    # One fold measures dataset one, the other dataset two, which differ by twenty points.
    rows = tuple(
        replace(row("cold", name, seed, iteration), fold=fold)
        for fold, name in ((1, "one"), (2, "two"))
        for seed in SEEDS
        for iteration in (1, 2)
    )
    found = Results(EXPERIMENT, rows, (), 0)
    of_seeds = [
        np.mean([score_of("cold", name, seed, 2) for name in ("one", "two")]) for seed in SEEDS
    ]

    mean = found.mean_score("cold", "frozen", ["one", "two"], is_seen=True)
    assert mean is not None
    assert mean.mean == pytest.approx(np.mean(of_seeds))
    assert mean.error == pytest.approx(np.std(of_seeds, ddof=1) / math.sqrt(len(SEEDS)))


def test_a_curve_begins_with_the_pretrained_model_on_the_same_datasets(results: Results) -> None:
    curve = results.curve("cold", "frozen", is_seen=True)

    assert [(iteration, time) for iteration, time, _ in curve] == [(0, 0.0), (1, 1.5), (2, 3.0)]
    check(curve[0][2], last("pretrained", SEEN).mean(), curve[0][2].error or 0)
    means = last("cold", SEEN).mean(axis=0)
    check(curve[2][2], means.mean(), deviation_of_mean(means))


def test_the_error_of_a_single_number_is_unknown() -> None:
    assert Estimate.of([3.0]) == Estimate(3.0, None, 1)
    assert Estimate.of([]) is None


def test_the_tables_have_the_numbers(results: Results) -> None:
    tables = {title: (header, rows) for title, header, rows in all_tables(results)}

    header, rows = tables["Frozen (linear probe), seen datasets"]
    assert header == ["dataset", "pretrained", "fused once", "ColD", "freely", "ColD - pretrained"]
    assert [cells[0] for cells in rows] == ["one", "two", "**mean**", "gain over pretrained"]
    assert rows[0][3].startswith(f"{last('cold', ('one',)).mean():.2f} ± ")
    gain = (last("cold", SEEN) - last("pretrained", SEEN)).mean()
    assert rows[2][-1].startswith(f"**+{gain:.2f} ± ")
    assert rows[3][3] == rows[2][-1].strip("*")
    assert "Frozen (linear probe), unseen datasets" in tables
    assert tables["Virtual time, frozen on seen datasets"][1][0][:3] == ["ColD", "2", "3"]


def test_markdown_has_the_curves_of_arms_and_datasets(results: Results) -> None:
    text = to_markdown(results)
    arms = table_of(text, "After each fusion, frozen on seen datasets")
    each = table_of(text, "After each of ColD's fusions, frozen on each of the seen datasets")
    assert arms[0] == ["", "0", "1", "2"]
    assert [line[0] for line in arms[1:]] == ["ColD", "freely"]
    assert [line[0] for line in each[1:]] == [*SEEN]
    for iteration in (1, 2):
        of_seeds = [
            np.mean([score_of("cold", name, seed, iteration) for name in SEEN]) for seed in SEEDS
        ]
        error = np.std(of_seeds, ddof=1) / math.sqrt(len(SEEDS))
        assert arms[1][1 + iteration] == f"{np.mean(of_seeds):.2f} ± {error:.2f}"
        of_two = [score_of("cold", "two", seed, iteration) for seed in SEEDS]
        assert each[2][1 + iteration].startswith(f"{np.mean(of_two):.2f} ± ")


def test_where_an_arm_is_asynchronous_the_curves_say_when(results: Results) -> None:
    freely = {"freely": {"schedule": {"kind": "asynchronous", "min_contributions": 1}}}
    experiment = EXPERIMENT.model_copy(update={"variants": freely})
    text = to_markdown(Results(experiment, results.rows, (), 0))
    arms = table_of(text, "After each fusion, frozen on seen datasets")
    assert [cell.partition(" (")[2] for cell in arms[2][1:]] == ["at 0)", "at 1.5)", "at 3)"]


def table_of(text: str, title: str) -> list[list[str]]:
    """Cells of a table of Markdown, the header first."""
    lines = text.partition(f"## {title}\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [cells[0], *cells[2:]]


def test_markdown_and_json_hold_everything_and_say_what_is_missing(results: Results) -> None:
    text = to_markdown(Results(EXPERIMENT, results.rows, (), 4))
    data = json.loads(json.dumps(results.to_json()))

    assert "**4 evaluations are not done yet.**" in text
    widths = {
        title: {line.count("|") for line in block.splitlines() if line.startswith("|")}
        for title, _, block in (part.partition("\n") for part in text.split("\n## ")[1:])
    }
    curves = {title for title in widths if title.startswith("After each")}
    assert len(curves) == 4
    assert all(widths[title] == {5} for title in curves)
    assert all(widths[title] in ({6}, {7}) for title in widths.keys() - curves)
    assert len(data["numbers"]) == len(results.rows)
    assert data["numbers"][0]["evaluation"] == "pretrained.one.0.0"
    assert data["experiment"]["name"] == "small"


def test_the_picture_is_drawn(results: Results, tmp_path: Path) -> None:
    assert draw(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not draw(Results(EXPERIMENT, (), (), 0), tmp_path / "none.png")
