"""The parts of an evaluation: probe, features, intervals, and which rows are for what."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.evaluation.features import features_of
from coldfusion_queue.evaluation.intervals import score_interval
from coldfusion_queue.evaluation.probe import probe_outputs
from coldfusion_queue.finetune.data import Scored, Splits, load_data
from coldfusion_queue.finetune.model import load_body, load_tokenizer
from coldfusion_queue.finetune.tokens import tokenize
from coldfusion_queue.intake.examples import Examples
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.records import EvaluationSpec, Hyperparameters
from tests.rows import rows, write_rows

CPU = torch.device("cpu")


def wilson(hits: int, number: int) -> tuple[float, float]:
    """Wilson 1927, by the formula."""
    z, share = 1.959963984540054, hits / number
    center = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    spread = share * (1 - share) / number + z**2 / (4 * number**2)
    half = z * math.sqrt(spread) / (1 + z**2 / number)
    return center - half, center + half


@settings(deadline=None)  # the first call loads scipy
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_an_accuracy_is_wilsons(counts: tuple[int, int]) -> None:
    hits, number = counts
    outputs = torch.zeros(number, 2)
    outputs[:hits, 1] = 1
    outputs[hits:, 0] = 1

    low, high = score_interval(outputs, torch.ones(number, dtype=torch.int64), "accuracy")

    expected = wilson(hits, number)
    assert low == pytest.approx(max(expected[0], 0.0), abs=1e-9)
    assert high == pytest.approx(min(expected[1], 1.0), abs=1e-9)


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_other_intervals_hold_the_score_and_shrink_with_the_examples(metric: str) -> None:
    generator = torch.Generator().manual_seed(1)

    def width(number: int) -> float:
        targets = torch.randint(0, 2, (number,), generator=generator)
        outputs = torch.randn(number, 2, generator=generator)
        outputs[torch.arange(number), targets] += 1
        low, high = score_interval(outputs, targets, metric)  # type: ignore[arg-type]
        assert low < high
        return high - low

    assert width(1600) < 0.6 * width(100)


def test_the_probe_finds_what_is_linear_and_scales_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((600, 8)).astype(np.float32)
    labels = torch.from_numpy((features[:, 3] > 0).astype(np.int64))
    scaled = features * np.float32(1e3) + np.float32(7e3)

    outputs = [
        probe_outputs(each[:400], labels[:400], each[400:], 2) for each in (features, scaled)
    ]

    for each in outputs:
        assert float((each.argmax(1) == labels[400:]).double().mean()) > 0.95
    assert torch.equal(outputs[0].argmax(1), outputs[1].argmax(1))


def test_a_class_that_no_training_example_has_is_never_predicted() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((60, 4)).astype(np.float32)

    several = probe_outputs(features[:40], torch.tensor([0, 3] * 20), features[40:], 5)
    one = probe_outputs(features[:40], torch.full((40,), 2), features[40:], 5)

    assert several.shape == (20, 5)
    assert set(several.argmax(1).tolist()) <= {0, 3}
    assert set(one.argmax(1).tolist()) == {2}


def test_numbers_are_predicted_too() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((600, 4)).astype(np.float32)
    targets = torch.from_numpy(2 * features[:, 1] - 1)

    outputs = probe_outputs(features[:400], targets[:400], features[400:], 0)

    assert outputs.shape == (200, 1)
    assert float(torch.corrcoef(torch.stack([outputs[:, 0], targets[400:]]))[0, 1]) > 0.99


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_features_do_not_depend_on_what_else_is_in_a_batch(
    tiny_model_dir: Path, pooling: str
) -> None:
    body = load_body(tiny_model_dir)
    texts = [row["text"] * (1 + index % 3) for index, row in enumerate(rows("single", 9))]
    data = tokenize(Examples(texts, None, [0] * 9), load_tokenizer(tiny_model_dir, body), 64)

    together = features_of(body, data, CPU, pooling)  # type: ignore[arg-type]
    alone = [
        features_of(body, data.subset(np.array([index])), CPU, pooling)  # type: ignore[arg-type]
        for index in range(9)
    ]

    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize(
    ("splits", "part", "develops", "sizes"),
    [
        # train, development, scored; 40 rows, of which two at either end are cut.
        (("train",), None, 1000, (36, 4, None)),
        (("train",), None, 0, (40, None, None)),
        (("train",), "train", 1000, (36, None, 4)),
        (("train",), "train", 0, (36, None, 4)),
        (("train", "validation"), None, 1000, (40, 40, None)),
        (("train", "validation"), "validation", 1000, (36, 4, 40)),
        (("train", "validation"), "validation", 0, (40, None, 40)),
        (("train", "validation", "test"), "test", 1000, (40, 40, 40)),
        (("train", "test"), "test", 1000, (36, 4, 40)),
        (("train", "test"), "test", 0, (40, None, 40)),
    ],
)
def test_no_row_is_trained_on_and_scored(
    tiny_model_dir: Path,
    tmp_path: Path,
    splits: tuple[str, ...],
    part: str | None,
    develops: int,
    sizes: tuple[int | None, ...],
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, split in enumerate(splits):
        write_rows(data / f"{split}.jsonl", rows("single", 40, seed=number))
    prepared = prepare_dataset(str(data), work_dir=tmp_path)
    files = {name: split.path for name, split in prepared.splits.items()}
    source = Splits(prepared.record(), files, LocalCache(tmp_path / "cache", 1 << 30))
    scored = None if part is None else Scored(part, None)  # type: ignore[arg-type]
    hyperparameters = Hyperparameters(max_validation_examples=develops, max_length=16)

    with ExitStack() as opened:
        found = load_data(
            source, tiny_model_dir, load_body(tiny_model_dir), hyperparameters, 0, opened, scored
        )
        parts = (found.train, found.development, found.scored)
        assert tuple(None if each is None else len(each) for each in parts) == sizes
        if part == "train":
            assert found.scored is not None
            assert not set(found.train.rows) & set(found.scored.rows)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "few_shot"},
        {"kind": "finetuned", "num_shots": 3},
        {"kind": "frozen", "seed": 1},
    ],
)
def test_a_spec_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EvaluationSpec.model_validate({"dataset_id": "d", **fields})


def test_specs_that_differ_in_anything_have_different_ids() -> None:
    specs = [
        EvaluationSpec(dataset_id="d", kind="finetuned"),
        EvaluationSpec(dataset_id="d", kind="frozen"),
        EvaluationSpec(dataset_id="d", kind="finetuned", seed=1),
        EvaluationSpec(dataset_id="d", kind="finetuned", split="validation"),
        EvaluationSpec(dataset_id="d", kind="finetuned", max_scored_examples=7),
        EvaluationSpec(dataset_id="d", kind="finetuned", hyperparameters=Hyperparameters(epochs=1)),
        EvaluationSpec(dataset_id="e", kind="finetuned"),
    ]
    ids = {spec.evaluation_id(digest * 64) for spec in specs for digest in "01"}

    assert len(ids) == 2 * len(specs)
