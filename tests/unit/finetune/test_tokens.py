from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coldfusion_queue.finetune.model import load_body, load_tokenizer
from coldfusion_queue.finetune.tokens import TokenizedExamples, open_tokens, tokenize, write_tokens
from coldfusion_queue.intake.examples import Examples
from tests.conftest import CORPUS


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> Any:
    return load_tokenizer(tiny_model_dir, load_body(tiny_model_dir))


def examples(number: int, *, pairs: bool = False, seed: int = 0) -> Examples:
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(CORPUS, k=1 + index % 3)) for index in range(number)]
    seconds = [generator.choice(CORPUS) for _ in texts] if pairs else None
    return Examples(texts, seconds, [index % 4 for index in range(number)])


def by_the_tokenizer(tokenizer: Any, found: Examples, picked: Sequence[int]) -> dict[str, Any]:
    some = found.subset(picked)
    return dict(
        tokenizer(
            some.texts,
            some.pairs,
            truncation=True,
            max_length=24,
            padding=True,
            return_tensors="pt",
        )
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_a_batch_is_what_the_tokenizer_itself_would_make(pairs: bool, tokenizer: Any) -> None:
    found = examples(30, pairs=pairs)
    data = tokenize(found, tokenizer, 24)

    for picked in ([0, 1, 2], [29, 3, 3, 17], list(range(30))):
        expected = by_the_tokenizer(tokenizer, found, picked)
        batch = data.batch(picked)
        assert batch.keys() <= expected.keys()
        for name, value in batch.items():
            assert (value.dtype, value.tolist()) == (torch.int64, expected[name].tolist())
        assert data.labels[picked].tolist() == [found.labels[index] for index in picked]


def test_a_batch_without_padding_has_no_mask(tokenizer: Any) -> None:
    data = tokenize(examples(12), tokenizer, 24)
    longest = [index for index in range(12) if data.lengths[index] == 24]

    assert len(longest) > 1
    assert "attention_mask" not in data.batch(longest)
    assert "attention_mask" in data.batch([0, longest[0]])


@pytest.mark.parametrize("sizes", [[7], [5, 5, 1], [1, 1, 1, 4]])
def test_a_file_gives_what_memory_gives_however_it_was_written(
    sizes: list[int], tokenizer: Any, tmp_path: Path
) -> None:
    whole = examples(sum(sizes), pairs=True)
    starts = np.cumsum([0, *sizes])
    batches = [
        whole.subset(range(start, start + size)) for start, size in zip(starts, sizes, strict=False)
    ]
    write_tokens(batches, tokenizer, 24, tmp_path / "tokens.arrow")

    mapped, expected = (
        open_tokens(tmp_path / "tokens.arrow", tokenizer),
        tokenize(whole, tokenizer, 24),
    )

    assert len(mapped) == sum(sizes)
    assert mapped.lengths.tolist() == expected.lengths.tolist()
    assert mapped.labels.equal(expected.labels)
    assert mapped.token_ids().equal(expected.token_ids())
    everything = list(reversed(range(len(mapped))))
    for name, value in mapped.batch(everything).items():
        assert value.equal(expected.batch(everything)[name])


def test_a_subset_of_a_subset_is_the_right_one(tokenizer: Any) -> None:
    data = tokenize(examples(20), tokenizer, 24)
    few = data.subset(np.array([4, 9, 1, 13])).subset(np.array([3, 0]))

    assert few.labels.tolist() == data.labels[[13, 4]].tolist()
    assert few.lengths.tolist() == data.lengths[[13, 4]].tolist()
    assert few.batch([0, 1])["input_ids"].equal(data.batch([13, 4])["input_ids"])
    occurring = {*data.batch([13, 4])["input_ids"].flatten().tolist(), tokenizer.pad_token_id}
    assert few.token_ids().tolist() == sorted(occurring)


def test_other_labels_leave_the_texts_alone(tokenizer: Any) -> None:
    data = tokenize(examples(5), tokenizer, 24)
    other: TokenizedExamples = data.with_labels(torch.arange(5).float())

    assert other.subset(np.array([2])).labels.tolist() == [2.0]
    assert other.batch([2])["input_ids"].equal(data.batch([2])["input_ids"])


def test_a_text_of_no_tokens_becomes_one_of_padding(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = None  # no [CLS], as in most decoders
    data = tokenize(Examples(["", "a"], None, [0, 1]), tokenizer, 24)

    assert data.lengths.tolist() == [1, 1]
    assert data.batch([0])["input_ids"].tolist() == [[tokenizer.pad_token_id]]
