"""What a finetune trains on and develops on: its splits, tokenised, cut and drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.finetune.development import cut_development, thinned
from coldfusion_queue.finetune.files import LabelScale
from coldfusion_queue.finetune.model import load_tokenizer
from coldfusion_queue.finetune.tokens import TokenizedExamples, open_tokens, write_tokens
from coldfusion_queue.intake.examples import read_examples
from coldfusion_queue.records import BaseVersion, DatasetRecord, Hyperparameters, Objective

__all__ = ["FinetuneData", "Scored", "Splits", "load_data"]

_TOKENS_FILE = "tokens.arrow"

#: Files of a base version's directory that say nothing of its tokenizer.
_OTHER_FILES = {"config.json", "lineage.json", BaseVersion.INDEX_FILE}


#: Whose versions decide what is in a file of tokens.
_PACKAGES = ("coldfusion-queue", "tokenizers", "transformers", "pyarrow")


@dataclass(frozen=True)
class Splits:
    """A dataset's files on this machine."""

    dataset: DatasetRecord
    files: Mapping[str, Path]
    """Parquet file of each split."""
    cache: LocalCache
    """Where tokenised splits are kept."""


@dataclass(frozen=True)
class Scored:
    """Which examples a model is scored on once it is trained; none of them is trained on."""

    part: Literal["test", "validation", "train"]
    """A split, which also is no development split then; ``train`` is what is cut from that."""
    limit: int | None
    """Examples at most, evenly spaced; None takes all."""


@dataclass(frozen=True)
class FinetuneData:
    """One turn's examples."""

    train: TokenizedExamples
    development: TokenizedExamples | None
    """None if there is none, or none is wanted."""
    scale: LabelScale
    """Of the targets of a regression."""
    scored: TokenizedExamples | None = None
    """None if nothing is to be scored."""

    def token_ids(self) -> Tensor:
        """Every token that occurs or pads: (R,) int64, sorted."""
        parts = [item for item in (self.train, self.development) if item is not None]
        ids: Tensor = torch.cat([item.token_ids() for item in parts]).unique()  # type: ignore[no-untyped-call]
        return ids


def load_data(
    splits: Splits,
    base_dir: Path,
    body: nn.Module,
    hyperparameters: Hyperparameters,
    seed: int,
    opened: ExitStack,
    scored: Scored | None = None,
) -> FinetuneData:
    """Tokenise a dataset's splits, or find that it was done, and draw the examples of this turn.

    A dataset without a validation split has its development split cut from its training split, and
    so has one whose validation split is scored. What is cut and scored is no development split.

    Args:
        splits: where the dataset is.
        base_dir: directory of the base version, whose tokenizer counts.
        body: the model, which says how many tokens it takes, and which inputs.
        hyperparameters: of the submission.
        seed: of the draw.
        opened: holds the files until it is closed; they are mapped, not read.
        scored: what is to be scored, for an evaluation.

    Raises:
        InvalidDatasetError: nothing is left to be scored.
    """
    tokenizer = load_tokenizer(base_dir, body)
    limit = min(hyperparameters.max_length, tokenizer.model_max_length)
    encoding = _Encoding(tokenizer, _tokenizer_digest(base_dir), limit)
    parts = _Parts.of(encoding, splits, hyperparameters, scored, opened)
    if scored is not None and not parts.scored:
        raise InvalidDatasetError(
            splits.dataset.dataset_id,
            "it has no examples to score",
            "upload it with a validation or test split, or with more than ten examples",
        )
    scale = _scale(splits.dataset, parts.train)
    return FinetuneData(
        _scaled(_drawn(parts.train, hyperparameters.max_examples, seed), scale),
        _thinned(parts.development, hyperparameters.max_validation_examples, scale),
        scale,
        _thinned(parts.scored, None if scored is None else scored.limit, scale),
    )


@dataclass(frozen=True)
class _Parts:
    """A dataset, parted by what its examples are for; none is in two of them."""

    train: TokenizedExamples
    development: TokenizedExamples | None
    scored: TokenizedExamples | None

    @classmethod
    def of(
        cls,
        encoding: _Encoding,
        splits: Splits,
        hyperparameters: Hyperparameters,
        scored: Scored | None,
        opened: ExitStack,
    ) -> Self:
        train, development, found = encoding.open(splits, "train", opened), None, None
        part = None if scored is None else scored.part
        develops = hyperparameters.max_validation_examples > 0 and part != "train"
        if part in {"test", "validation"}:
            found = encoding.open(splits, str(part), opened)
        if develops and part != "validation" and "validation" in splits.files:
            development = encoding.open(splits, "validation", opened)
        elif develops or part == "train":
            kept, cut = cut_development(len(train))
            train, rest = train.subset(kept), train.subset(cut)
            development, found = (None, rest) if part == "train" else (rest, found)
        return cls(train, development, found)


@dataclass(frozen=True)
class _Encoding:
    """How texts become tokens; two that are equal give equal files."""

    tokenizer: Any
    tokenizer_digest: str
    max_length: int

    def open(self, splits: Splits, split: str, opened: ExitStack) -> TokenizedExamples:
        def fill(directory: Path) -> None:
            examples = read_examples(splits.files[split])
            write_tokens(examples, self.tokenizer, self.max_length, directory / _TOKENS_FILE)

        entry = splits.cache.entry(self._name(splits.dataset, split), fill)
        with disk_errors(splits.cache.directory, "COLDFUSION_HOME"):
            directory = opened.enter_context(entry)
        return open_tokens(directory / _TOKENS_FILE, self.tokenizer)

    def _name(self, dataset: DatasetRecord, split: str) -> str:
        parts = [
            dataset.splits[split].file.digest,
            self.tokenizer_digest,
            self.tokenizer.model_input_names,
            self.max_length,
            *(version(package) for package in _PACKAGES),
        ]
        return f"tokens-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def _tokenizer_digest(base_dir: Path) -> str:
    """Digest of all small files but the model's own: the tokenizer's are among them."""
    digest = hashlib.sha256()
    for path in sorted(base_dir.iterdir()):
        if path.suffix in {".json", ".txt", ".model"} and path.name not in _OTHER_FILES:
            digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _drawn(data: TokenizedExamples, limit: int | None, seed: int) -> TokenizedExamples:
    """At most so many examples, drawn at random."""
    if limit is None or limit >= len(data):
        return data
    generator = torch.Generator().manual_seed(seed)
    return data.subset(torch.randperm(len(data), generator=generator)[:limit].numpy())


def _thinned(
    data: TokenizedExamples | None, limit: int | None, scale: LabelScale
) -> TokenizedExamples | None:
    if data is None or len(data) == 0:
        return None
    few = np.arange(len(data)) if limit is None else thinned(np.arange(len(data)), limit)
    return _scaled(data.subset(few), scale)


def _scale(dataset: DatasetRecord, train: TokenizedExamples) -> LabelScale:
    if dataset.objective is Objective.CLASSIFICATION:
        return LabelScale()
    return LabelScale(float(train.labels.mean()), float(train.labels.std(unbiased=False)) or 1.0)


def _scaled(data: TokenizedExamples, scale: LabelScale) -> TokenizedExamples:
    if data.labels.dtype == torch.int64:
        return data
    return data.with_labels(((data.labels - scale.mean) / scale.deviation).float())
