"""Requests for finetunes on files of this machine, without a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.settings import Settings, load_settings
from tests.rows import rows, write_rows
from tests.watching import ignore

MakeRequest = Callable[..., FinetuneRequest]

#: 20 examples in batches of 8 are 3 steps an epoch, the last of 4 examples: 9 steps.
QUICK = Hyperparameters(
    epochs=3, batch_size=8, learning_rate=1e-3, max_length=32, dropout=0.2, warmup_fraction=0.3
)
NUM_STEPS = 9


def request_on(
    data: Path, work_dir: Path, base_dir: Path, hyperparameters: Hyperparameters
) -> FinetuneRequest:
    """The first turn of a submission of a directory of data."""
    prepared = prepare_dataset(str(data), work_dir=work_dir)
    return FinetuneRequest(
        base_dir=base_dir,
        dataset=prepared.record(),
        splits={name: split.path for name, split in prepared.splits.items()},
        cache=LocalCache(work_dir / "cache", 1 << 30),
        hyperparameters=hyperparameters,
        turn=1,
        previous_head=None,
        form="delta",
        dtype="float32",
        last_residual=None,
        keeps_residual=False,
        checkpoint=None,
        should_stop=lambda: False,
        keep=ignore,
    )


@pytest.fixture
def quick_settings() -> Settings:
    """A finetune on the CPU that reports at its end alone."""
    return load_settings(device="cpu", progress_interval_seconds=1e6)


@pytest.fixture
def make_request(tiny_model_dir: Path, tmp_path: Path) -> MakeRequest:
    """``make_request(kind, **changes)``: a request, with changes to the hyperparameters.

    ``examples`` are other rows than the ones made up for ``kind``.
    """

    def make(
        kind: str = "classification",
        base_dir: Path = tiny_model_dir,
        examples: Sequence[Mapping[str, Any]] | None = None,
        **changes: object,
    ) -> FinetuneRequest:
        data, work_dir = tmp_path / f"{kind}-data", tmp_path / f"{kind}-prepared"
        for directory in (data, work_dir):
            directory.mkdir()
        for split in ("train", "validation"):
            write_rows(data / f"{split}.jsonl", examples or rows(kind, 20, seed=3))
        hyperparameters = QUICK.model_copy(update=changes)
        return request_on(data, work_dir, base_dir, hyperparameters)

    return make
