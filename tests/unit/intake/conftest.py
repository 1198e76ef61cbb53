"""Datasets that are written by hand, and how a refusal has to look."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset

#: Stands in every row of the tests' datasets and must not come out in any message.
CANARY = "xylophone4711"


@pytest.fixture
def canary() -> str:
    """A word for the rows of a dataset that no message may hold."""
    return CANARY


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """``write_jsonl(rows, name)``: a JSON lines file of these rows."""

    def write(rows: Sequence[Any], name: str = "reviews.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """``write_file(name, content)``: a file of these bytes."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """An empty directory."""
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
def prepare(work_dir: Path) -> Callable[..., PreparedDataset]:
    """``prepare(data, **options)``: prepares into ``work_dir``."""

    def run(data: object, **options: Any) -> PreparedDataset:
        return prepare_dataset(str(data), work_dir=work_dir, **options)

    return run


@pytest.fixture
def refusal(work_dir: Path) -> Callable[..., str]:
    """``refusal(data, **options)``: the sentence that refuses a dataset, after checking its form.

    The class and its exit code, one line, no row of the data, and nothing left behind.
    """

    def run(data: object, **options: Any) -> str:
        with pytest.raises(InvalidDatasetError) as caught:
            prepare_dataset(str(data), work_dir=work_dir, **options)
        error = caught.value
        message = str(error)
        assert error.exit_code == 3
        assert message.isprintable()
        assert message == f"dataset {error.source}: {error.problem}; {error.remedy}"
        assert len(error.remedy) > 10
        assert len(message) < 500
        assert_silent(error)
        assert list(work_dir.iterdir()) == []
        return message

    return run


def assert_silent(error: BaseException | None) -> None:
    """Neither the error nor those behind it hold a row."""
    while error is not None:
        assert CANARY not in str(error)
        assert CANARY not in repr(error)
        assert CANARY not in repr(vars(error))
        assert CANARY not in str(getattr(error, "doc", ""))
        error = error.__cause__ or error.__context__


@pytest.fixture
def rows(canary: str) -> list[Mapping[str, Any]]:
    """Four good rows of two classes."""
    return [{"text": f"{canary} {number}", "label": "pn"[number % 2]} for number in range(4)]
