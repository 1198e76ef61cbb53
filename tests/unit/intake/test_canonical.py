"""The canonical form: what goes in comes out, and the same content has the same id."""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.intake import staging
from coldfusion_queue.intake.examples import Examples, load_examples
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset

Prepare = Callable[..., PreparedDataset]
Row = dict[str, Any]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip())


def write_csv(path: Path, rows: list[Row], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, compression="snappy", row_group_size=3)
    return path


@given(rows=st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from("abc")), min_size=7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_of_any_unicode_come_back_as_they_went_in(rows: list[tuple[str, str, str]]) -> None:
    rows = [*rows, ("x", "y", "a"), ("x", "y", "b")]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        lines = [json.dumps({"text": t, "text_pair": p, "label": c}) for t, p, c in rows]
        path.write_text("\n".join(lines))
        prepared = prepare_dataset(str(path), work_dir=Path(name))
        examples = load_examples(prepared.splits["train"].path)
    assert examples.texts == [text for text, _, _ in rows]
    assert examples.pairs == [pair for _, pair, _ in rows]
    assert [prepared.labels[int(index)] for index in examples.labels] == [c for _, _, c in rows]


@given(rows=st.lists(st.tuples(TEXTS.filter(lambda t: "\0" not in t), st.integers(0, 1))))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_rows_in_every_format_have_the_same_id(rows: list[tuple[str, int]]) -> None:
    # Given the same content, in JSON with and without escapes, CSV, TSV and Parquet
    data: list[Row] = [{"text": t, "label": n} for t, n in [*rows, ("x", 0), ("y", 1)]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, escaped = folder / "a.jsonl", folder / "b.jsonl"
        plain.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in data), "utf-8")
        escaped.write_text("\n".join(json.dumps(row) for row in data))
        paths = [
            plain,
            escaped,
            write_csv(folder / "c.csv", data),
            write_csv(folder / "d.tsv", data, "\t"),
            write_parquet(folder / "e.parquet", data),
        ]
        # When each is prepared, then all have one id
        found = {prepare_dataset(str(path), work_dir=folder).dataset_id for path in paths}
    assert len(found) == 1


def test_numbers_in_every_format_have_the_same_id(
    prepare: Prepare, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"text": f"a {n}", "label": n / 3} for n in range(7)]
    paths = [
        write_jsonl(rows),
        write_csv(tmp_path / "a.csv", rows),
        write_parquet(tmp_path / "a.parquet", rows),
    ]
    assert len({prepare(path).dataset_id for path in paths}) == 1


def test_row_groups_end_where_the_rows_say_and_not_the_source(
    prepare: Prepare,
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(staging, "_GROUP_ROWS", 5)
    monkeypatch.setattr(staging, "_GROUP_BYTES", 100)
    rows = [{"text": "a" * n, "label": n % 2} for n in range(1, 31)]
    first = prepare(write_jsonl(rows)).splits["train"]
    groups = pq.ParquetFile(first.path).metadata.num_row_groups
    second = prepare(write_parquet(tmp_path / "a.parquet", rows)).splits["train"]
    assert groups == 7
    assert first.digest == second.digest
    assert load_examples(second.path).texts == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        pytest.param(lambda rows: rows, True, id="nothing"),
        pytest.param(lambda rows: [{**row, "other": 1} for row in rows], True, id="other column"),
        pytest.param(lambda rows: rows[::-1], False, id="order"),
        pytest.param(lambda rows: rows[1:], False, id="fewer rows"),
        pytest.param(
            lambda rows: [{**row, "label": "x" + row["label"]} for row in rows], False,
            id="names of classes",
        ),
        pytest.param(
            lambda rows: [{**row, "text": row["text"] + " "} for row in rows], False, id="blank"
        ),
    ],
)  # fmt: skip
def test_id_follows_from_the_content(
    prepare: Prepare,
    write_jsonl: Callable[..., Path],
    rows: list[Row],
    change: Callable[[list[Row]], list[Row]],
    is_same: bool,
) -> None:
    first = prepare(write_jsonl(rows, "one.jsonl"))
    second = prepare(write_jsonl(change(rows), "two.jsonl"))
    assert (first.dataset_id == second.dataset_id) is is_same
    assert len(first.dataset_id) == 32


def test_id_tells_training_from_test_data(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Row]
) -> None:
    alone = prepare(write_jsonl(rows, "a/train.jsonl"))
    path = write_jsonl(rows, "b/train.jsonl")
    write_jsonl(rows, "b/test.jsonl")
    assert prepare(path.parent).dataset_id != alone.dataset_id


def test_digest_and_size_are_those_of_the_file(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Row]
) -> None:
    split = prepare(write_jsonl(rows)).splits["train"]
    content = split.path.read_bytes()
    assert split.digest == hashlib.sha256(content).hexdigest()
    assert (split.num_bytes, split.num_examples) == (len(content), 4)


def test_id_is_the_digest_of_what_the_record_says(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Row]
) -> None:
    prepared = prepare(write_jsonl(rows))
    digest = prepared.splits["train"].digest
    content = (
        '{"is_pair": false, "labels": ["n", "p"], "objective": "classification", '
        f'"splits": {{"train": "{digest}"}}}}'
    )
    assert prepared.dataset_id == hashlib.sha256(content.encode()).hexdigest()[:32]


def test_file_says_nothing_of_where_it_came_from(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Row]
) -> None:
    import pyarrow.parquet as pq

    assert pq.read_metadata(prepare(write_jsonl(rows)).splits["train"].path).metadata is None


def test_only_the_splits_are_left_in_the_work_directory(
    prepare: Prepare, write_jsonl: Callable[..., Path], rows: list[Row], work_dir: Path
) -> None:
    prepare(write_jsonl(rows))
    assert [path.name for path in work_dir.iterdir()] == ["train.parquet"]


def test_multi_line_text_of_csv_comes_back_as_it_was(prepare: Prepare, tmp_path: Path) -> None:
    texts = ["one\ntwo\r\nthree", 'a "quoted", text', " blanks ", "last"]
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(texts)]
    prepared = prepare(write_csv(tmp_path / "a.csv", rows))
    assert load_examples(prepared.splits["train"].path).texts == texts


def test_byte_order_mark_is_no_part_of_the_first_column(
    prepare: Prepare, write_file: Callable[..., Path]
) -> None:
    path = write_file("a.csv", "\ufefftext,label\na,0\nb,1\n".encode())
    assert prepare(path).columns.text == "text"


def test_class_names_that_datasets_wrote_into_parquet_are_taken(
    prepare: Prepare, refusal: Callable[..., str], tmp_path: Path
) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    columns = {"text": ["a", "b", "c"], "label": [1, 0, 1]}
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "a.parquet")
    prepared = prepare(tmp_path / "a.parquet")
    assert prepared.labels == ("neg", "pos")
    assert load_examples(prepared.splits["train"].path).labels == [1, 0, 1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"PAR1 is how it begins", "damaged Parquet file", id="damaged"),
        pytest.param(None, "other columns than it should have", id="other columns"),
    ],
)
def test_file_in_another_form_is_no_split(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "train.parquet"
    if content is None:
        write_parquet(path, [{"text": "a", "label": "b"}])
    else:
        path.write_bytes(content)
    with pytest.raises(InvalidRecordError, match=problem):
        load_examples(path)


@pytest.mark.parametrize("pairs", [None, ["x", "y", "z"]], ids=["single", "pair"])
def test_subset_holds_the_examples_of_its_indices(pairs: list[str] | None) -> None:
    subset = Examples(["a", "b", "c"], pairs, [0, 1, 2]).subset(iter([2, 0]))
    assert subset == Examples(["c", "a"], ["z", "x"] if pairs else None, [2, 0])
    assert len(subset) == 2


def test_importing_intake_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = "{'pyarrow', 'datasets', 'torch', 'transformers', 'pandas', 'minio'}"
    program = f"import sys, coldfusion_queue.intake; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
