"""A linear probe of a base version's frozen body: the paper's ColD-Frozen."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.errors import UnusableModelError
from coldfusion_queue.evaluation.features import Features, cached_features, features_of
from coldfusion_queue.evaluation.probe import probe_outputs
from coldfusion_queue.finetune.data import Scored, Splits, load_data
from coldfusion_queue.finetune.device import free_memory, pick_device
from coldfusion_queue.finetune.environment import describe_environment
from coldfusion_queue.finetune.model import load_body
from coldfusion_queue.finetune.request import Predictions
from coldfusion_queue.finetune.tokens import TokenizedExamples
from coldfusion_queue.records import DatasetRecord, EvaluationSpec, Hyperparameters
from coldfusion_queue.settings import Settings

__all__ = ["Subject", "probe"]

#: Features are computed in it: they are compared between versions that differ by little.
_PRECISION = "float32"


@dataclass(frozen=True)
class Subject:
    """What is measured on what: files on this machine."""

    base_dir: Path
    """Directory of the base version."""
    base_version: int
    """Its number."""
    base_digest: str
    """Of its parameters."""
    dataset: DatasetRecord
    splits: Mapping[str, Path]
    """Parquet file of each split."""
    cache: LocalCache
    """Where tokens and features are kept."""


def probe(
    subject: Subject, spec: EvaluationSpec, settings: Settings, scored: Scored
) -> Predictions:
    """Fit a linear model on the features of the training split and apply it to what is scored.

    Features are computed once on a machine for a model and a split. See ``measuring.measure`` for
    the arguments and for what it raises.
    """
    # Nothing is cut off for development: there is nothing to stop early.
    chosen = spec.hyperparameters.model_copy(update={"max_validation_examples": 0})
    metric = chosen.metric_of(subject.dataset.objective)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    body = _Body(subject, chosen, pick_device(settings.device))
    splits = Splits(subject.dataset, subject.splits, subject.cache)
    with ExitStack() as opened:
        data = load_data(splits, subject.base_dir, body.module, chosen, spec.seed, opened, scored)
        assert data.scored is not None  # noqa: S101 - it was asked for
        fitted = body.features("train", data.train)
        applied = body.features(scored.part, data.scored)
    free_memory(body.device)
    num_classes = len(subject.dataset.labels)
    outputs = probe_outputs(fitted, data.train.labels, applied, num_classes)
    return Predictions(outputs, data.scored.labels, metric, len(data.train), body.environment)


class _Body:
    """A frozen body on its device, and what its features are a function of."""

    def __init__(
        self, subject: Subject, hyperparameters: Hyperparameters, device: torch.device
    ) -> None:
        self.module = load_body(subject.base_dir)
        self.device = device
        self.environment = describe_environment(device, _PRECISION)
        self._subject = subject
        self._hyperparameters = hyperparameters

    def features(self, part: str, examples: TokenizedExamples) -> Features:
        """Features of examples of a split.

        Raises:
            UnusableModelError: some are not finite.
        """
        pooling = self._hyperparameters.pooling
        features = cached_features(
            lambda: features_of(self.module, examples, self.device, pooling),
            examples,
            self._subject.cache,
            self._subject.base_digest,
            self._subject.dataset.splits[part].file.digest,
            self._hyperparameters.max_length,
            pooling,
            self.environment,
        )
        if not np.isfinite(features).all():
            dataset_id = self._subject.dataset.dataset_id
            raise UnusableModelError(self._subject.base_version, dataset_id)
        return features
