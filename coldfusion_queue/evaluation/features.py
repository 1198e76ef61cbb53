"""Features: what a base version's frozen body makes of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.finetune.batches import micro_batches
from coldfusion_queue.finetune.model import Pooling, load_body, load_tokenizer, pool
from coldfusion_queue.finetune.passes import default_token_budget
from coldfusion_queue.finetune.tokens import TokenizedExamples, tokenize
from coldfusion_queue.intake.examples import Examples

__all__ = ["Embedder", "Features", "cached_features", "features_of"]

Features = np.ndarray[Any, np.dtype[np.float32]]

_FEATURES_FILE = "features.npy"


class Embedder:
    """A base version's frozen body, as a map from texts to vectors.

    Args:
        directory: of the base version.
        device: where to compute.
        max_length: tokens of one example; the rest is cut off.
    """

    def __init__(self, directory: Path, device: torch.device, max_length: int = 128) -> None:
        self._body = load_body(directory)
        self._tokenizer = load_tokenizer(directory, self._body)
        self._device = device
        self._max_length = min(max_length, self._tokenizer.model_max_length)

    def embed(self, examples: Examples) -> Features:
        """Mean over the tokens of the last hidden states: (N, H) float32."""
        data = tokenize(examples, self._tokenizer, self._max_length)
        return features_of(self._body, data, self._device, "mean")


@torch.inference_mode()
def features_of(
    body: nn.Module, data: TokenizedExamples, device: torch.device, pooling: Pooling
) -> Features:
    """Pooled last hidden states of a frozen body: (N, H) float32.

    Args:
        body: what ``load_body`` gives; it is on the device afterwards.
        data: N examples.
        device: where to compute.
        pooling: how the tokens of an example become one vector.
    """
    body.to(device).eval()
    hidden_size = int(body.config.hidden_size)  # type: ignore[union-attr, arg-type]
    features = np.empty((len(data), hidden_size), dtype=np.float32)
    for indices in micro_batches(range(len(data)), data.lengths, default_token_budget(device)):
        batch = {name: value.to(device) for name, value in data.batch(indices).items()}
        hidden = body(**batch).last_hidden_state
        features[indices] = pool(hidden, batch.get("attention_mask"), pooling).float().cpu().numpy()
    return features


def cached_features(
    compute: Callable[[], Features], data: TokenizedExamples, cache: LocalCache, *origin: object
) -> Features:
    """Features of examples, computed once on this machine.

    Args:
        compute: computes them.
        data: the examples.
        cache: where they are kept.
        origin: what, with the examples' rows, they are a function of: the digests of model and
            split, and how texts become tokens and tokens a vector. JSON values.
    """
    rows = hashlib.sha256(data.rows.astype(np.int64).tobytes()).hexdigest()
    name = hashlib.sha256(json.dumps([rows, *origin]).encode()).hexdigest()

    def fill(directory: Path) -> None:
        np.save(directory / _FEATURES_FILE, compute(), allow_pickle=False)

    with cache.entry(f"features-{name}", fill) as directory:
        features: Features = np.load(directory / _FEATURES_FILE, allow_pickle=False)
    return features
