from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.intake.prepare import PreparedDataset
from coldfusion_queue.intake.splits import open_path

Prepare = Callable[..., PreparedDataset]
Refusal = Callable[..., str]


@pytest.fixture
def folder(write_jsonl: Callable[..., Path], rows: list[Any]) -> Callable[..., Path]:
    """``folder(names)``: a folder of files that hold the same rows."""

    def write(names: Sequence[str]) -> Path:
        paths = [write_jsonl(rows, f"notes/{name}") for name in names]
        return paths[0].parent

    return write


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        pytest.param(["train.jsonl"], None, {"train": "train"}, id="train alone"),
        pytest.param(
            ["Train.jsonl", "DEV.jsonl", "test.jsonl"],
            None,
            {"train": "Train", "validation": "DEV", "test": "test"},
            id="any case",
        ),
        pytest.param(
            ["train.jsonl", "valid.jsonl"], None, {"train": "train", "validation": "valid"},
            id="valid",
        ),
        pytest.param(
            ["train.jsonl", "val.jsonl"], None, {"train": "train", "validation": "val"}, id="val"
        ),
        pytest.param(["reviews.jsonl"], None, {"train": "reviews"}, id="single file"),
        pytest.param(
            ["reviews.jsonl", "test.jsonl"], None, {"train": "reviews", "test": "test"},
            id="single unnamed file",
        ),
        pytest.param(["a.jsonl", "b.jsonl"], "b", {"train": "b"}, id="chosen by name"),
        pytest.param(
            ["train.jsonl", "dev.jsonl", "test.jsonl"], "validation",
            {"train": "dev", "test": "test"}, id="chosen by role",
        ),
        pytest.param(["train.jsonl", ".train.jsonl"], None, {"train": "train"}, id="hidden file"),
    ],
)  # fmt: skip
def test_files_become_splits_by_their_names(
    folder: Callable[..., Path], names: list[str], split: str | None, expected: dict[str, str]
) -> None:
    splits = open_path(folder(names), split)
    found = {role: Path(tables[0].name).stem for role, tables in splits.tables.items()}
    assert found == expected


@pytest.mark.parametrize(
    ("names", "split", "problem"),
    [
        pytest.param(["a.jsonl", "b.jsonl"], None, "no split 'train', only 'a', 'b'", id="unnamed"),
        pytest.param(["test.jsonl"], None, "no split 'train', only 'test'", id="test alone"),
        pytest.param(["train.jsonl"], "dev", "no split 'dev', only 'train'", id="not there"),
        pytest.param(
            ["train.jsonl", "dev.jsonl", "val.jsonl"], None,
            "'dev', 'val' are all its validation split, expected one", id="two of a role",
        ),
        pytest.param(
            ["train.jsonl", "train.json"], None,
            "'train.json', 'train.jsonl' are not exactly the parts of one split", id="two formats",
        ),
        pytest.param(
            ["train-00000-of-00002.jsonl"], None, "not exactly the parts of one", id="part missing"
        ),
    ],
)  # fmt: skip
def test_folder_that_is_ambiguous_is_refused(
    folder: Callable[..., Path],
    refusal: Refusal,
    names: list[str],
    split: str | None,
    problem: str,
) -> None:
    assert problem in refusal(folder(names), split=split)


def test_parts_of_a_split_are_read_in_order(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Any], work_dir: Path
) -> None:
    whole = prepare(write_jsonl(rows, "whole.jsonl"))
    write_jsonl(rows[3:], "parts/train-00001-of-00002.jsonl")
    path = write_jsonl(rows[:3], "parts/train-00000-of-00002.jsonl")
    assert prepare(path.parent).dataset_id == whole.dataset_id


def test_line_in_the_second_part_is_named_with_its_file(
    refusal: Refusal, write_jsonl: Callable[..., Path], rows: list[Any]
) -> None:
    write_jsonl(rows, "parts/train-00000-of-00002.jsonl")
    path = write_jsonl([{"text": "", "label": "p"}], "parts/train-00001-of-00002.jsonl")
    assert f"{path}: column 'text' is empty in 1 row (line 1)" in refusal(path.parent)


def test_file_that_is_no_split_is_left_out_with_a_note(
    folder: Callable[..., Path], prepare: Prepare
) -> None:
    prepared = prepare(folder(["train.jsonl", "extra.jsonl"]))
    assert list(prepared.splits) == ["train"]
    assert prepared.notes == ("left out: 'extra', which are no split of it",)


def test_split_without_any_label_is_left_out_with_a_note(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Any]
) -> None:
    write_jsonl(rows, "d/train.jsonl")
    path = write_jsonl([{"text": "a", "label": None}] * 3, "d/test.jsonl")
    prepared = prepare(path.parent)
    assert list(prepared.splits) == ["train"]
    assert prepared.notes == ("left out: split 'test', which has no labels",)


def test_split_with_some_labels_is_refused(
    refusal: Refusal, write_jsonl: Callable[..., Path], rows: list[Any]
) -> None:
    write_jsonl(rows, "d/train.jsonl")
    path = write_jsonl([*rows, {"text": "a", "label": None}], "d/test.jsonl")
    assert "test.jsonl: labels are missing in 1 row (line 5) of 5" in refusal(path.parent)


def test_split_without_the_chosen_column_is_refused(
    refusal: Refusal, write_jsonl: Callable[..., Path], rows: list[Any]
) -> None:
    write_jsonl(rows, "d/train.jsonl")
    path = write_jsonl([{"text": "a", "class": "p"}], "d/test.jsonl")
    message = refusal(path.parent)
    assert "test.jsonl: it has no column 'label', only 'text', 'class'; give all splits" in message


@pytest.mark.parametrize("split", ["train", "reviews"])
def test_single_file_may_be_named_as_its_own_split(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Any], split: str
) -> None:
    assert list(prepare(write_jsonl(rows), split=split).splits) == ["train"]


def test_other_split_of_a_single_file_is_refused(
    refusal: Refusal, write_jsonl: Callable[..., Path], rows: list[Any]
) -> None:
    message = refusal(write_jsonl(rows), split="test")
    assert "it is a single file and has no split 'test'; leave out --split" in message


def test_empty_file_among_the_splits_is_refused_by_name(
    refusal: Refusal, folder: Callable[..., Path]
) -> None:
    path = folder(["train.jsonl"])
    (path / "test.jsonl").touch()
    assert "test.jsonl: it is empty" in refusal(path)
