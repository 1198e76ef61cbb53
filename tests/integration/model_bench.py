"""What the examples of the model test share: servers, a tiny base model, data, no training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from celery import Celery
from prometheus_client import CollectorRegistry
from safetensors.numpy import save_file

from coldfusion_queue.finetune import run
from coldfusion_queue.finetune.request import FinetuneRequest, FinetuneResult
from coldfusion_queue.finetune.training import FinetuneInterrupted
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.process import Process
from coldfusion_queue.settings import Settings
from tests.integration.actors import current_actor

__all__ = ["Bench", "make_bench"]

#: Nothing expires by the real clock.
TIMELESS = {
    "lease_seconds": 3600,
    "fusion_lock_seconds": 3600.0,
    "task_max_worker_losses": 1000,
    "transfer_threads": 1,
}

#: The base model.
TENSORS = {
    "body.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "body.bias": np.zeros(2, dtype=np.float32),
}


@dataclass
class Bench:
    """What all examples share."""

    process: Process
    current: Process
    """What the tasks take for theirs: an example's, with a repository of its own."""
    app: Celery
    model_dir: Path
    datasets: list[PreparedDataset]
    directory: Path
    counter: Iterator[int]


def make_bench(settings: Settings, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Prepare what is the same in all examples, in an empty directory."""
    own = settings.model_copy(update=TIMELESS)
    process = Process(own, connect_redis(own), TaskMetrics(CollectorRegistry()))
    model_dir = directory / "model"
    model_dir.mkdir()
    save_file(TENSORS, model_dir / "model.safetensors")
    (model_dir / "config.json").write_text("{}", encoding="utf-8")
    bench = Bench(
        process=process,
        current=process,
        app=make_app(own),
        model_dir=model_dir,
        datasets=[_dataset(directory, number) for number in range(2)],
        directory=directory,
        counter=itertools.count(),
    )
    monkeypatch.setattr(tasks, "this_process", lambda: bench.current)
    monkeypatch.setattr(run, "prepare", _prepare_nothing)
    return bench


def _dataset(directory: Path, number: int) -> PreparedDataset:
    data = directory / f"data{number}.jsonl"
    rows = [{"text": f"{number} {row}", "label": str(row % 2)} for row in range(4)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    work_dir = directory / f"work{number}"
    work_dir.mkdir()
    return prepare_dataset(str(data), work_dir=work_dir)


@contextmanager
def _prepare_nothing(
    request: FinetuneRequest, settings: object, work_dir: Path
) -> Iterator[SimpleNamespace]:
    """In the place of ``finetune.run.prepare``."""
    yield SimpleNamespace(run=lambda *_: _finetune_without_training(request, work_dir))


def _finetune_without_training(request: FinetuneRequest, work_dir: Path) -> FinetuneResult:
    """Write files, fail, or be told to stop."""
    actor = current_actor()
    assert actor is not None
    if actor.training == "fails":
        raise ValueError("as it was meant to")
    if actor.training == "stops":
        path = work_dir / "checkpoint.safetensors"
        path.write_bytes(b"state")
        raise FinetuneInterrupted(path, 1, 2)
    shared, head = work_dir / "shared.safetensors", work_dir / "head.safetensors"
    result = FinetuneResult(shared, "delta", None, head, {}, {}, head_was_taken=False)
    change = np.float32(0.01 * request.turn)
    save_file({key: np.full_like(value, change) for key, value in TENSORS.items()}, result.shared)
    save_file({"head": np.zeros(1, dtype=np.float32)}, result.head)
    return result
