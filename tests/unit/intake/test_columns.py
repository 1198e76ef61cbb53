from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coldfusion_queue.intake.columns import LABELS, PAIRS, TEXTS, Columns, choose_columns

Refusal = Callable[..., str]


class HeaderTable:
    """A table of which only the header is asked for."""

    name = "table"
    unit = "line"
    is_typed = True

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def rows(self, columns: Sequence[str]) -> itertools.repeat[tuple[int, tuple[object, ...]]]:
        raise AssertionError(columns)


@pytest.mark.parametrize(
    ("found", "named", "expected"),
    [
        pytest.param(["text", "label"], {}, ("text", None, "label"), id="plain"),
        pytest.param(["id", "Text", "LABEL"], {}, ("Text", None, "LABEL"), id="any case"),
        pytest.param(
            ["sentence1", "sentence2", "score"], {}, ("sentence1", "sentence2", "score"), id="pair"
        ),
        pytest.param(
            ["question", "sentence", "label"], {}, ("question", "sentence", "label"), id="qnli"
        ),
        pytest.param(
            ["premise", "hypothesis", "label"], {"text": "premise"}, ("premise", None, "label"),
            id="named text makes no pair",
        ),
        pytest.param(
            ["premise", "hypothesis", "label"],
            {"text": "hypothesis", "text_pair": "premise"},
            ("hypothesis", "premise", "label"),
            id="named pair",
        ),
        pytest.param(
            ["text", "title", "label"], {"text_pair": "title"}, ("text", "title", "label"),
            id="pair named, text guessed",
        ),
        pytest.param(
            ["label", "text", "class"], {"label": "class"}, ("text", None, "class"),
            id="named label",
        ),
        pytest.param(
            ["title", "text", "label"], {"label": "text"}, ("title", None, "text"),
            id="label named like a text",
        ),
        pytest.param(
            ["question", "answer", "score"], {"label": "answer"}, ("question", None, "answer"),
            id="label named like a pair",
        ),
        pytest.param(
            ["label", "score", "review"], {"text": "label"}, ("label", None, "score"),
            id="text named like a label",
        ),
        pytest.param(["text", "TEXT", "label"], {}, ("text", None, "label"), id="first wins"),
    ],
)  # fmt: skip
def test_columns_are_named_or_guessed(
    found: list[str], named: dict[str, str], expected: tuple[str, str | None, str]
) -> None:
    options = {"text": None, "text_pair": None, "label": None} | named
    assert choose_columns(HeaderTable(found), **options) == Columns(*expected)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("label", LABELS)
def test_every_known_name_is_guessed(text: str, label: str) -> None:
    chosen = choose_columns(HeaderTable(["id", text, label]), None, None, None)
    assert chosen == Columns(text, None, label)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_known_pair_is_guessed(pair: tuple[str, str]) -> None:
    chosen = choose_columns(HeaderTable(["label", *reversed(pair)]), None, None, None)
    assert chosen == Columns(*pair, "label")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(
            {"text": "txt"}, "it has no column 'txt', only 'text', 'label'; did you mean --text "
            "'text'?", id="misspelt",
        ),
        pytest.param(
            {"text_pair": "zzz"}, "no column 'zzz', only 'text', 'label'; name one of them with "
            "--text-pair", id="not there",
        ),
        pytest.param({"label": "Label"}, "did you mean --label 'label'?", id="other case"),
        pytest.param(
            {"text": "text", "label": "text"}, "--text and --label both name the column 'text'",
            id="same twice",
        ),
    ],
)  # fmt: skip
def test_wrong_column_is_refused_with_those_found(
    refusal: Refusal,
    write_file: Callable[..., Path],
    canary: str,
    options: dict[str, str],
    problem: str,
) -> None:
    path = write_file("a.csv", f"text,label\n{canary},a\n".encode())
    assert problem in refusal(path, **options)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        pytest.param(
            "alpha,label", "known as a text column: 'alpha', 'label'; name the right one with "
            "--text", id="text",
        ),
        pytest.param(
            "text,beta", "known as a label column: 'text', 'beta'; name the right one with "
            "--label", id="label",
        ),
        pytest.param("text;label", "columns with commas in a .csv", id="another separator"),
    ],
)  # fmt: skip
def test_header_without_a_known_name_is_refused(
    refusal: Refusal, write_file: Callable[..., Path], header: str, problem: str
) -> None:
    assert problem in refusal(write_file("a.csv", f"{header}\na,b\n".encode()))


def test_first_row_of_a_csv_without_header_is_not_shown(
    refusal: Refusal, write_file: Callable[..., Path], canary: str
) -> None:
    path = write_file("a.csv", f"a text that holds {canary},good\nb,bad\n".encode())
    assert "none of its columns is known as a text column: <31 characters>, 'good'" in refusal(path)


def test_only_twenty_columns_are_listed(refusal: Refusal, write_file: Callable[..., Path]) -> None:
    header = ",".join(f"c{number}" for number in range(50))
    message = refusal(write_file("a.csv", f"{header}\n{header}\n".encode()))
    assert "'c19' and 30 more" in message
    assert "'c20'" not in message


def test_columns_of_json_are_the_keys_of_the_first_hundred_rows(
    refusal: Refusal, write_jsonl: Callable[..., Path]
) -> None:
    path = write_jsonl([{"text": "a"}] * 99 + [{"label": 1}] + [{"class": 1}])
    assert "column 'text' is empty" in refusal(path)
    assert "it has no column 'class', only 'text', 'label'" in refusal(path, label="class")
