"""Fewer rows of a dataset: which, and that they are the same each time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from coldfusion_queue.intake.cutting import Cut, cut_dataset
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset
from tests.rows import rows, write_rows


@pytest.fixture
def whole(tmp_path: Path) -> PreparedDataset:
    data, work_dir = tmp_path / "data", tmp_path / "whole"
    data.mkdir()
    work_dir.mkdir()
    write_rows(data / "train.jsonl", rows("single", 101))
    write_rows(data / "test.jsonl", rows("single", 30, seed=2))
    return prepare_dataset(str(data), work_dir=work_dir)


def texts(dataset: PreparedDataset, split: str = "train") -> list[str]:
    return [str(text) for text in pq.read_table(dataset.splits[split].path)["text"].to_pylist()]


def cut(whole: PreparedDataset, directory: Path, **fields: object) -> PreparedDataset:
    directory.mkdir()
    return cut_dataset(whole, Cut(**{"limits": {}, **fields}), directory)  # type: ignore[arg-type]


def test_a_cut_is_a_dataset_of_its_own_with_the_labels_of_the_whole(
    whole: PreparedDataset, tmp_path: Path
) -> None:
    few = cut(whole, tmp_path / "few", limits={"train": 2, "test": 5})

    assert (few.splits["train"].num_examples, few.splits["test"].num_examples) == (2, 5)
    assert len(texts(few)) == 2
    assert len(texts(few, "test")) == 5
    assert few.labels == whole.labels == ("label0", "label1", "label2")
    assert few.dataset_id != whole.dataset_id
    assert few.record().splits["train"].num_examples == 2


def test_the_rows_of_a_cut_are_in_their_order_and_drawn_from_all(
    whole: PreparedDataset, tmp_path: Path
) -> None:
    positions = [
        texts(whole).index(text) for text in texts(cut(whole, tmp_path / "a", limits={"train": 40}))
    ]

    assert positions == sorted(set(positions))
    assert len(positions) == 40
    assert positions[-1] > 80  # not the first ones


def test_the_same_cut_is_the_same_dataset_and_another_seed_gives_another(
    whole: PreparedDataset, tmp_path: Path
) -> None:
    ids = [
        cut(whole, tmp_path / str(number), limits={"train": 20}, seed=seed).dataset_id
        for number, seed in enumerate([0, 0, 1])
    ]

    assert ids[0] == ids[1] != ids[2]


def test_what_loses_no_row_is_the_whole(whole: PreparedDataset, tmp_path: Path) -> None:
    assert cut(whole, tmp_path / "a", limits={"train": 101, "test": None}) is whole


def test_parts_are_disjoint_and_together_the_whole(whole: PreparedDataset, tmp_path: Path) -> None:
    parts = [texts(cut(whole, tmp_path / str(n), part=(n, 4))) for n in (1, 2, 3, 4)]

    assert sorted(len(part) for part in parts) == [25, 25, 25, 26]
    assert sorted(text for part in parts for text in part) == sorted(texts(whole))


def test_a_limit_is_taken_of_the_part(whole: PreparedDataset, tmp_path: Path) -> None:
    second = set(texts(cut(whole, tmp_path / "all", part=(2, 4))))
    few = texts(cut(whole, tmp_path / "few", part=(2, 4), limits={"train": 10}))

    assert len(few) == 10
    assert set(few) <= second
