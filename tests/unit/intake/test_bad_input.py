"""Each bad input: its class, exit code and form (fixture ``refusal``), and what it says."""

from __future__ import annotations

import errno
import json
import os
import resource
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.errors import DiskFullError, UsageError
from coldfusion_queue.intake import lines
from coldfusion_queue.intake.canonical import relabel
from coldfusion_queue.intake.prepare import prepare_dataset

Refusal = Callable[..., str]
Write = Callable[..., Path]
GIB = 2**30


def test_missing_file_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    message = refusal(tmp_path / "nothing.jsonl")
    assert message.endswith("nothing.jsonl: there is no such file or folder; check the path")


def test_path_below_a_file_is_refused_as_missing(refusal: Refusal, write_file: Write) -> None:
    path = write_file("file.jsonl", b"{}")
    assert "no such file or folder" in refusal(path / "train.jsonl")


def test_too_long_file_name_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    assert "it cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300 + ".jsonl"))


def test_file_with_a_line_break_in_its_name_is_named_on_one_line(
    refusal: Refusal, write_file: Write
) -> None:
    assert "two\\nlines.jsonl': it is empty" in refusal(write_file("two\nlines.jsonl", b""))


def test_unreadable_file_is_refused(
    refusal: Refusal, write_jsonl: Write, rows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file that the system does not let us open (as root, permissions do not do it)
    path = write_jsonl(rows)
    real_open = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert "it cannot be read (Permission denied); check the path and its perm" in refusal(path)


@pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_empty_file_is_refused(refusal: Refusal, write_file: Write, extension: str) -> None:
    message = refusal(write_file(f"a{extension}", b""))
    assert "it is empty, expected labelled examples; write one labelled example" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.jsonl", b"\n \n\n", id="blank lines"),
        pytest.param("a.csv", b"text,label\n", id="header only"),
        pytest.param("b.csv", b"\n\n", id="blank CSV"),
        pytest.param("c.csv", b"\xef\xbb\xbf", id="byte order mark only"),
    ],
)
def test_file_without_rows_is_refused(
    refusal: Refusal, write_file: Write, name: str, content: bytes
) -> None:
    assert "it has no rows" in refusal(write_file(name, content))


def test_unknown_extension_is_refused(refusal: Refusal, write_file: Write) -> None:
    message = refusal(write_file("notes.txt", b"text"))
    assert "its extension is '.txt', expected .jsonl, .json, .csv, .tsv or .parquet" in message


def test_device_is_refused(refusal: Refusal) -> None:
    assert "neither a regular file nor a folder" in refusal("/dev/null")


def test_folder_without_data_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "README.md").write_text("hello")
    assert "it holds no .jsonl, .json, .csv, .tsv or .parquet file" in refusal(folder)


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_text_that_is_not_utf8_is_refused_with_line_and_byte(
    refusal: Refusal, write_file: Write, canary: str, extension: str
) -> None:
    lines_of = {
        "jsonl": ['{"text": "%s", "label": "a"}', '{"text": "%s \xe9", "label": "b"}'],
        "csv": ["text,label", "%s \xe9,b"],
    }
    content = "\n".join(lines_of[extension]).replace("%s", canary).encode("latin-1")
    message = refusal(write_file(f"a.{extension}", content))
    where = content.index(b"\xe9")
    assert f"line 2 is not UTF-8 at byte {where} of the file; save the file as UTF-8" in message


def test_byte_offset_counts_the_byte_order_mark(refusal: Refusal, write_file: Write) -> None:
    content = b'\xef\xbb\xbf{"text": "\xff"}'
    assert f"at byte {content.index(0xFF)} of" in refusal(write_file("a.jsonl", content))


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16"])
def test_utf16_is_refused(
    refusal: Refusal, write_file: Write, extension: str, encoding: str
) -> None:
    message = refusal(write_file(f"a.{extension}", "text,label\na,b\n".encode(encoding)))
    assert "line 1 " in message
    assert "save the file as UTF-8" in message


@pytest.mark.parametrize("extension", ["jsonl", "csv", "tsv", "json"])
def test_line_of_2_gb_is_refused_fast_and_in_little_memory(
    refusal: Refusal, write_file: Write, extension: str
) -> None:
    # Given a sparse file with one good line and one that does not end for 2 GB
    first = {"csv": b"text,label\n", "tsv": b"text\tlabel\n"}
    path = write_file(f"huge.{extension}", first.get(extension, b"{}\n"))
    with path.open("r+b") as file:
        file.truncate(2 * GIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    started = time.perf_counter()

    # When it is submitted
    message = refusal(path)

    # Then it is refused without reading on
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "line 2 is longer than 16 MiB; write one example a line" in message
    assert seconds < 1
    assert peak < 4 * lines.MAX_LINE_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_line_at_the_limit_is_taken_and_one_byte_more_is_not(
    prepare: Callable[..., Any],
    refusal: Refusal,
    write_jsonl: Write,
    rows: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_jsonl(rows)
    longest = max(len(line) for line in path.read_bytes().splitlines(keepends=True))
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", longest - 1)
    refusal(path)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", longest)
    prepare(path)


@pytest.mark.parametrize(
    ("second_line", "problem"),
    [
        pytest.param("{'text': 'X'}", "line 2 is not valid JSON at column 2", id="single quotes"),
        pytest.param('{"text": "X"', "line 2 is not valid JSON at column 25", id="cut off"),
        pytest.param('{"text": "X\\q"}', "line 2 is not valid JSON at column", id="bad escape"),
        pytest.param('["X", "a"]', "line 2 is a JSON array, expected an object", id="array"),
        pytest.param('"X"', "line 2 is a JSON string, expected an object", id="string"),
        pytest.param("17", "line 2 is a JSON number, expected an object", id="number"),
        pytest.param("null", "line 2 is a JSON null, expected an object", id="null"),
        pytest.param("[" * 100_000, "line 2 is JSON nested too deep", id="nested"),
        pytest.param('{"label": ' + "9" * 5000 + "}", "too long a number", id="long number"),
        pytest.param("", "", id="blank, which is fine"),
    ],
)
def test_line_that_is_no_json_object_is_refused(
    refusal: Refusal,
    prepare: Callable[..., Any],
    write_file: Write,
    rows: list[Any],
    canary: str,
    second_line: str,
    problem: str,
) -> None:
    lines_of = [json.dumps(row) for row in rows]
    lines_of.insert(1, second_line.replace("X", canary))
    path = write_file("a.jsonl", "\n".join(lines_of).encode())
    if not problem:
        assert prepare(path).splits["train"].num_examples == len(rows)
        return
    message = refusal(path)
    assert problem in message
    assert 'write one JSON object a line, such as {"text": ..., "label": ...}' in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param("X,a\nX,b,c\n", "line 3 has 3 fields, expected 2 as in line 1", id="more"),
        pytest.param("X,a\nX\n", "line 3 has 1 fields, expected 2 as in line 1", id="fewer"),
        pytest.param('X,a\n"X,b\nX,a\n', "begins at line 3 is not valid CSV", id="open quote"),
        pytest.param('X,a\n"X"y,b\n', "begins at line 3 is not valid CSV", id="stray quote"),
        pytest.param("X,a\rX,b\n", "begins at line 2 is not valid CSV", id="bare CR"),
        pytest.param("X,a\n\0,b\n", "line 3 holds a NUL byte at byte 27", id="NUL"),
        pytest.param(
            '"X\nX",a\nX\n', "line 4 has 1 fields, expected 2", id="after a multi-line text"
        ),
    ],
)
def test_broken_csv_is_refused(
    refusal: Refusal, write_file: Write, canary: str, content: str, problem: str
) -> None:
    text = "text,label\n" + content.replace("X", canary)
    assert problem in refusal(write_file("a.csv", text.encode()))


def test_csv_with_two_columns_of_one_name_is_refused(refusal: Refusal, write_file: Write) -> None:
    message = refusal(write_file("a.csv", b"text,label,text\na,b,c\n"))
    assert "its header names 'text' more than once; give every column its own name" in message


@pytest.mark.parametrize("kept", [10, 100, -10], ids=["head", "more", "all but its end"])
def test_damaged_parquet_is_refused(
    refusal: Refusal, prepare: Callable[..., Any], write_jsonl: Write, rows: list[Any], kept: int
) -> None:
    path = write_jsonl(rows)
    good = prepare(path).splits["train"].path
    bad = path.with_suffix(".parquet")
    bad.write_bytes(good.read_bytes()[:kept])
    good.unlink()
    assert "it is not a Parquet file or damaged; write it again" in refusal(bad)


def test_parquet_with_damaged_pages_is_refused(
    refusal: Refusal, prepare: Callable[..., Any], write_jsonl: Write, rows: list[Any]
) -> None:
    path = write_jsonl(rows)
    good = prepare(path).splits["train"].path
    content = bytearray(good.read_bytes())
    content[4:60] = b"\xff" * 56
    good.unlink()
    bad = path.with_suffix(".parquet")
    bad.write_bytes(content)
    assert "it is not a Parquet file or damaged" in refusal(bad)


def test_parquet_with_text_that_is_not_utf8_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"\xff\xfe", b"b"], pa.binary()).view(pa.string())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"]}), path)
    assert "with UTF-8 texts" in refusal(path)


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        pytest.param({"text": ""}, "column 'text' is empty in 1 row (line 3)", "fill", id="empty"),
        pytest.param({"text": " \n"}, "column 'text' is empty in 1 row", "fill", id="blank"),
        pytest.param({"text": None}, "column 'text' is empty in 1 row", "fill", id="null"),
        pytest.param(
            {"text": 7}, "column 'text' is no text in 1 row (line 3)", "name", id="number"
        ),
        pytest.param({"text": ["X"]}, "column 'text' is no text in 1 row", "name", id="list"),
        pytest.param({"text": "X\ud800"}, "half a surrogate pair", "write", id="surrogate"),
        pytest.param(
            {"label": None}, "missing in 1 row (line 3) of 4", "label these", id="no label"
        ),
        pytest.param(
            {"label": "  "}, "missing in 1 row (line 3) of 4", "label these", id="blank label"
        ),
        pytest.param({"label": float("nan")}, "missing in 1 row (line 3)", "label these", id="NaN"),
        pytest.param({"label": ["p", "n"]}, "are lists or objects in 1 row", "--label", id="multi"),
        pytest.param({"label": {"X": 1}}, "are lists or objects in 1 row", "--label", id="object"),
        pytest.param({"label": "X" * 20}, "are longer than 200 characters", "--label", id="long"),
    ],
)
def test_bad_row_is_refused_with_count_and_line(
    refusal: Refusal,
    write_jsonl: Write,
    rows: list[dict[str, Any]],
    canary: str,
    change: dict[str, Any],
    problem: str,
    remedy: str,
) -> None:
    rows[2] = {**rows[2], **json.loads(json.dumps(change).replace("X", canary))}
    message = refusal(write_jsonl(rows))
    assert problem in message
    assert remedy in message.rpartition("; ")[2]


def test_training_split_without_any_label_is_refused(
    refusal: Refusal, write_jsonl: Write, rows: list[dict[str, Any]]
) -> None:
    path = write_jsonl([{**row, "label": None} for row in rows])
    assert "labels are missing in 4 rows (lines 1, 2, 3, 4) of 4" in refusal(path)


def test_row_without_the_label_key_counts_as_missing(
    refusal: Refusal, write_jsonl: Write, rows: list[dict[str, Any]]
) -> None:
    del rows[1]["label"]
    assert "labels are missing in 1 row (line 2) of 4" in refusal(write_jsonl(rows))


def test_many_missing_labels_are_counted_and_the_first_five_named(
    refusal: Refusal, write_jsonl: Write, rows: list[Any], canary: str
) -> None:
    rows += [{"text": canary, "label": None}] * 7
    assert "missing in 7 rows (lines 5, 6, 7, 8, 9, ...) of 11" in refusal(write_jsonl(rows))


def test_empty_field_of_csv_is_a_missing_label(
    refusal: Refusal, write_file: Write, canary: str
) -> None:
    path = write_file("a.csv", f"text,label\n{canary},1\n{canary},\n{canary},0\n".encode())
    assert "labels are missing in 1 row (line 3) of 3" in refusal(path)


@pytest.mark.parametrize(
    ("labels", "problem", "remedy"),
    [
        pytest.param("aaaa", "all of its 4 rows have the same label", "add examples", id="one"),
        pytest.param(
            "abcd", "its 4 rows have 4 different labels, expected at most 2", "--label", id="ids"
        ),
        pytest.param("abcaab", "its 6 rows have 3 different", "", id="half of the rows, fine"),
        pytest.param([1.5] * 4, "all of its 4 rows have the same label", "add", id="one number"),
        pytest.param(
            [0.5, 1.5, float("inf"), 2], "infinite or too large for a float64 in 1 row (line 3)",
            "correct", id="infinite",
        ),
    ],
)  # fmt: skip
def test_labels_that_make_no_dataset_are_refused(
    refusal: Refusal,
    prepare: Callable[..., Any],
    write_jsonl: Write,
    canary: str,
    labels: Sequence[Any],
    problem: str,
    remedy: str,
) -> None:
    path = write_jsonl([{"text": canary, "label": label} for label in labels])
    if not remedy:
        assert len(prepare(path).labels) == 3
        return
    message = refusal(path)
    assert problem in message
    assert remedy in message.rpartition("; ")[2]


def test_more_labels_than_can_be_counted_are_refused(refusal: Refusal, write_jsonl: Write) -> None:
    path = write_jsonl([{"text": "a", "label": f"l{n % 15_000}"} for n in range(45_000)])
    message = refusal(path)
    assert "have more than 10000 different labels, expected at most 10000" in message


def test_names_are_refused_for_regression(
    refusal: Refusal, write_jsonl: Write, rows: list[Any]
) -> None:
    message = refusal(write_jsonl(rows), objective="regression")
    assert "labels are not numbers in 4 rows (lines 1, 2, 3, 4), expected numbers" in message
    assert message.endswith("or ask for --objective classification")


def test_unknown_objective_is_refused(prepare: Callable[..., Any], write_jsonl: Write) -> None:
    with pytest.raises(UsageError, match="objective 'ranking' cannot be taken: expected auto"):
        prepare(write_jsonl([]), objective="ranking")


def test_label_that_training_never_had_is_refused(
    refusal: Refusal, write_jsonl: Write, rows: list[Any], canary: str
) -> None:
    write_jsonl(rows, "d/train.jsonl")
    path = write_jsonl([*rows, {"text": canary, "label": canary}], "d/test.jsonl")
    message = refusal(path.parent)
    assert "test.jsonl: 1 row (line 5) have labels that the training split never has" in message


def test_full_disk_is_named_and_nothing_stays_behind(
    write_jsonl: Write, rows: list[Any], work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that is full when half of the second split is written
    write_jsonl(rows, "d/train.jsonl")
    path = write_jsonl(rows, "d/test.jsonl")

    def relabel_until_full(source: Path, target: Path, *rest: Any) -> None:
        relabel(source, target, *rest)
        if target.name == "test.parquet":
            os.truncate(target, target.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("coldfusion_queue.intake.prepare.relabel", relabel_until_full)

    # When a dataset is prepared
    with pytest.raises(DiskFullError) as caught:
        prepare_dataset(str(path.parent), work_dir=work_dir)

    # Then the message says which disk and which variable
    expected = (
        f"no space left on the disk of {work_dir}: free some, or point TMPDIR at a larger one"
    )
    assert str(caught.value) == expected
    assert caught.value.exit_code == 11
    assert list(work_dir.iterdir()) == []
