from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.intake.examples import load_examples
from coldfusion_queue.intake.prepare import PreparedDataset
from coldfusion_queue.records import Objective

Prepare = Callable[..., PreparedDataset]
CLASSES = Objective.CLASSIFICATION
NUMBERS = Objective.REGRESSION


@pytest.mark.parametrize(
    ("labels", "objective"),
    [
        pytest.param(["a", "b", "a", "b"], CLASSES, id="strings"),
        pytest.param([True, False, True, False], CLASSES, id="booleans"),
        pytest.param([0, 1, 2, 0, 1, 2], CLASSES, id="integers"),
        pytest.param([0.1, 0.2, 0.3, 0.4], NUMBERS, id="fractions"),
        pytest.param([3.0, 4.0, 5.0, 3.0], NUMBERS, id="whole fractions"),
        pytest.param([1, 2.5, 3, 4], NUMBERS, id="integers and fractions"),
        pytest.param([0.0, 1.0, 1.0, 0.0], CLASSES, id="two numbers"),
        pytest.param(["0.1", "0.2", "0.1", "0.2"], CLASSES, id="quoted numbers"),
        pytest.param(["1.0", "2.0", "3.0"] * 2, CLASSES, id="three quoted numbers"),
        pytest.param([0.5, 1.5, "a", 0.5, 1.5, "a"], CLASSES, id="numbers and a name"),
    ],
)
def test_objective_follows_from_the_labels_of_json(
    prepare: Prepare,
    write_jsonl: Callable[..., Path],
    labels: Sequence[Any],
    objective: Objective,
) -> None:
    path = write_jsonl([{"text": "a", "label": label} for label in labels])
    assert prepare(path).objective is objective


@pytest.mark.parametrize(
    ("labels", "objective"),
    [
        pytest.param("a b a b", CLASSES, id="names"),
        pytest.param("1 2 3 1 2 3", CLASSES, id="integers"),
        pytest.param("01 02 03 01 02 03", CLASSES, id="leading zeros"),
        pytest.param("1 .5 -3e-2 +7.", NUMBERS, id="numbers of every form"),
        pytest.param("1.0 2.0 3.0 1.0", NUMBERS, id="whole fractions"),
        pytest.param("1.5 2.5 v3.5 1.5 2.5 v3.5", CLASSES, id="versions"),
        pytest.param("nan eng nan eng", CLASSES, id="nan as a name"),
        pytest.param("١ ٢ ٣ ١ ٢ ٣", CLASSES, id="digits of another script"),  # noqa: RUF001
    ],
)
def test_objective_follows_from_the_labels_of_csv(
    prepare: Prepare, write_file: Callable[..., Path], labels: str, objective: Objective
) -> None:
    lines = ["text,label", *(f"a,{label}" for label in labels.split())]
    assert prepare(write_file("a.csv", "\n".join(lines).encode())).objective is objective


def test_nan_among_numbers_of_csv_is_missing(
    refusal: Callable[..., str], write_file: Callable[..., Path]
) -> None:
    path = write_file("a.csv", b"text,label\na,0\nb,NaN\nc,1\n")
    assert "labels are missing in 1 row (line 3) of 3" in refusal(path)


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        pytest.param(["b", "a", "b", "Z"] * 2, ("Z", "a", "b"), [2, 1, 2, 0] * 2, id="sorted"),
        pytest.param([" b", "b ", "a"], ("a", "b"), [1, 1, 0], id="blanks stripped"),
        pytest.param([True, False], ("false", "true"), [1, 0], id="booleans"),
        pytest.param([10, 9, 10, 2] * 2, ("10", "2", "9"), [0, 2, 0, 1] * 2, id="code points"),
        pytest.param([1, "1", 0], ("0", "1"), [1, 1, 0], id="quoted or not"),
    ],
)
def test_classes_are_numbered_in_the_order_of_their_code_points(
    prepare: Prepare,
    write_jsonl: Callable[..., Path],
    labels: Sequence[Any],
    names: tuple[str, ...],
    indices: list[int],
) -> None:
    prepared = prepare(write_jsonl([{"text": "a", "label": label} for label in labels]))
    assert prepared.labels == names
    assert load_examples(prepared.splits["train"].path).labels == indices


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([1, 2, 3, 4], id="integers"),
        pytest.param(["1", "2", "3.5", "-4e1"], id="quoted numbers"),
    ],
)
def test_regression_can_be_asked_for(
    prepare: Prepare, write_jsonl: Callable[..., Path], labels: Sequence[Any]
) -> None:
    path = write_jsonl([{"text": "a", "label": label} for label in labels])
    prepared = prepare(path, objective="regression")
    assert prepared.labels == ()
    assert load_examples(prepared.splits["train"].path).labels == [float(x) for x in labels]


def test_classification_can_be_asked_for(
    prepare: Prepare, write_jsonl: Callable[..., Path]
) -> None:
    path = write_jsonl([{"text": "a", "label": label} for label in [0.5, 1.0, 2.0] * 2])
    prepared = prepare(path, objective="classification")
    assert prepared.labels == ("0.5", "1.0", "2.0")


def test_numbers_of_regression_keep_all_their_digits(
    prepare: Prepare, write_jsonl: Callable[..., Path]
) -> None:
    labels = [0.1, 1 / 3, 5e-324, -1.7976931348623157e308]
    prepared = prepare(write_jsonl([{"text": "a", "label": label} for label in labels]))
    assert load_examples(prepared.splits["train"].path).labels == labels


def test_other_splits_take_the_indices_of_the_training_split(
    prepare: Prepare, write_jsonl: Callable[..., Path]
) -> None:
    write_jsonl([{"text": "a", "label": label} for label in "abcabc"], "d/train.jsonl")
    path = write_jsonl([{"text": "a", "label": label} for label in "cc"], "d/test.jsonl")
    prepared = prepare(path.parent)
    assert load_examples(prepared.splits["test"].path).labels == [2, 2]


@pytest.mark.parametrize(
    "digits", ["9" * 400, "1e999"], ids=["integer of 400 digits", "exponent of 999"]
)
def test_number_too_large_for_a_float_is_refused_for_regression(
    refusal: Callable[..., str], write_file: Callable[..., Path], digits: str
) -> None:
    rows = [json.dumps({"text": "a", "label": number}) for number in (1, 2, 3)]
    rows.append('{"text": "a", "label": %s}' % digits)  # noqa: UP031
    path = write_file("a.jsonl", "\n".join(rows).encode())
    message = refusal(path, objective="regression")
    assert "labels are infinite or too large for a float64 in 1 row (line 4)" in message
