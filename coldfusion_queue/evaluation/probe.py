"""Linear probe: how much a frozen body's features tell about a dataset's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coldfusion_queue.finetune.batches import micro_batches
from coldfusion_queue.finetune.model import load_body, load_tokenizer, pool
from coldfusion_queue.finetune.tokens import tokenize
from coldfusion_queue.intake.examples import Examples

__all__ = ["Embedder", "probe_accuracy"]

#: Tokens of one forward pass; on a CPU larger ones fall out of its caches (half the speed).
_EMBED_TOKENS = 4096

Features = np.ndarray[Any, np.dtype[np.float32]]


class Embedder:
    """A base version's frozen body, as a map from texts to vectors.

    Args:
        directory: of the base version.
        device: where to compute.
        max_length: tokens of one example; the rest is cut off.
    """

    def __init__(self, directory: Path, device: torch.device, max_length: int = 128) -> None:
        self._body = load_body(directory).to(device).eval()
        self._tokenizer = load_tokenizer(directory, self._body)
        self._device = device
        self._max_length = min(max_length, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def embed(self, examples: Examples) -> Features:
        """Mean over the tokens of the last hidden states: (N, H) float32."""
        data = tokenize(examples, self._tokenizer, self._max_length)
        hidden_size = int(self._body.config.hidden_size)  # type: ignore[union-attr, arg-type]
        features = np.empty((len(data), hidden_size), dtype=np.float32)
        for indices in micro_batches(range(len(data)), data.lengths, _EMBED_TOKENS):
            batch = {name: value.to(self._device) for name, value in data.batch(indices).items()}
            hidden = self._body(**batch).last_hidden_state
            features[indices] = pool(hidden, batch.get("attention_mask"), "mean").cpu().numpy()
        return features


def probe_accuracy(
    train: Features,
    train_labels: Sequence[int],
    test: Features,
    test_labels: Sequence[int],
) -> float:
    """Fit logistic regression on one split's features and score it on another's.

    Args:
        train: (N, H) features to fit on; standardised inside.
        train_labels: N class indices.
        test: (M, H) features to score on.
        test_labels: M class indices.

    Returns:
        Accuracy on the second split, 0 to 1.

    Source: Don-Yehiya et al. 2023, section 4.4, "ColD-Frozen".
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    probe.fit(train, train_labels)
    return float(probe.score(test, test_labels))
