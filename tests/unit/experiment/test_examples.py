"""The experiments that come with the project are declared as they should be."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from coldfusion_queue.experiment.arms import arms_of
from coldfusion_queue.experiment.spec import read_experiment

ROOT = Path(__file__).parents[3]
FILES = sorted(
    path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.yaml")
)
EXPERIMENTS = [path for path in FILES if path.parent.name == "experiments"]


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) > 10


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_can_be_read_and_its_repositories_have_names(
    path: Path, tmp_path: Path
) -> None:
    experiment = read_experiment(path, tmp_path)

    assert any(arm.name.startswith("cold") for arm in arms_of(experiment))


def test_names_of_experiments_differ_since_they_share_a_bucket(tmp_path: Path) -> None:
    names = [read_experiment(path, tmp_path).name for path in EXPERIMENTS]

    assert len(set(names)) == len(names)


def test_the_offline_experiment_needs_nothing_but_the_checkout() -> None:
    experiment = read_experiment(ROOT / "examples/experiments/offline.yaml")

    assert experiment.base == "example"
    for item in experiment.datasets.values():
        assert (Path(item.data) / "train.jsonl").is_file()


def test_rows_of_the_papers_datasets_become_one_text_and_unlabelled_ones_are_left_out() -> None:
    path = ROOT / "examples/experiments/paper_data.py"
    spec = importlib.util.spec_from_file_location("paper_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = [
        {"premise": "p", "hypothesis": "h", "label": 2},
        {"premise": "p", "hypothesis": "h", "label": -1},
    ]

    lines = [*module.lines_of(iter(rows), module.DATASETS["anli"][2])]

    assert [json.loads(line) for line in lines] == [{"text": "p <SEP> h", "label": "2"}]
