"""Real deltas to measure with: finetunes of the example model on real datasets, kept in a cache.

    names = dataset_names(data)
    base = pretrained(cache)
    deltas = finetuned_deltas(names, data=data, base_dir=base, cache=cache)

A finetune is done once for each base model, dataset, recipe and turn, and a probe once for each
model and dataset; after that they are read from the cache. A delta is in float32; the head that was
trained with it lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache as memoised
from pathlib import Path

import torch
from safetensors.numpy import load_file, save_file

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.demo.recipe import HYPERPARAMETERS, data_dir, pretrained_dir
from coldfusion_queue.evaluation.features import Embedder
from coldfusion_queue.evaluation.probe import probe_accuracy
from coldfusion_queue.finetune.pretrained import export_pretrained
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.intake.examples import Examples, load_examples
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset
from coldfusion_queue.records import BaseVersion, Hyperparameters
from coldfusion_queue.settings import load_settings

__all__ = [
    "RECIPE",
    "dataset_names",
    "digest_of",
    "finetuned_accuracies",
    "finetuned_deltas",
    "head_beside",
    "mean_probe_accuracy",
    "pretrained",
    "probe_accuracies",
    "with_model",
]

#: The demo's, with fewer examples a turn.
RECIPE = HYPERPARAMETERS.model_copy(update={"max_examples": 400})

#: Rows that a probe looks at: fitted on the first, scored on the second, which no finetune saw.
PROBE_ROWS = (600, 1000)

_DELTA, _HEAD = "delta.safetensors", "head.safetensors"


def dataset_names(data: Path | None = None, limit: int | None = None) -> list[str]:
    """Datasets in a folder (the example data for None): subfolders with train and test, sorted."""
    found = (data or data_dir()).glob("*/train.jsonl")
    return sorted(path.parent.name for path in found if (path.parent / "test.jsonl").exists())[
        :limit
    ]


def pretrained(cache: Path) -> Path:
    """Directory of the pretrained model as ``coldfusion init`` would write it."""
    directory = cache / "pretrained"
    if not directory.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cache))
        export_pretrained(str(pretrained_dir()), partial, "5GB")
        partial.rename(directory)
    return directory


def with_model(base_dir: Path, model: Path, directory: Path) -> Path:
    """A base version's directory like ``base_dir``, with another model in it."""
    shutil.copytree(base_dir, directory, ignore=shutil.ignore_patterns(BaseVersion.MODEL_FILE))
    (directory / BaseVersion.MODEL_FILE).hardlink_to(model)
    return directory


def finetuned_deltas(
    names: Sequence[str],
    *,
    base_dir: Path,
    cache: Path,
    data: Path | None = None,
    recipe: Hyperparameters = RECIPE,
    turn: int = 1,
    heads: Mapping[str, Path] | None = None,
) -> dict[str, Path]:
    """Finetune a base model on each dataset, or find that it was done.

    Args:
        names: of datasets, from ``dataset_names``.
        base_dir: directory of the base model.
        cache: directory in which deltas and heads are kept.
        data: folder of the datasets; None for the example data.
        recipe: hyperparameters; another seed gives other deltas.
        turn: which turn of a contributor it is; it picks other examples than the one before.
        heads: head of each contributor's last turn; None begins with fresh ones.

    Returns:
        For each name the file with the delta, float32.
    """
    found = {}
    for name in names:
        prepared = _prepared(data or data_dir(), name, cache)
        request = _request(prepared, base_dir, recipe, turn, (heads or {}).get(name), cache)
        directory = cache / "deltas" / f"{name}-{_key(request)}"
        if not directory.is_dir():
            _finetune(request, directory)
        found[name] = directory / _DELTA
    return found


def head_beside(delta: Path) -> Path:
    """The head that was trained with a delta."""
    return delta.with_name(_HEAD)


def finetuned_accuracies(
    deltas: Mapping[str, Path],
    *,
    base_dir: Path,
    cache: Path,
    data: Path | None = None,
    num_rows: int = PROBE_ROWS[1],
) -> dict[str, float]:
    """Accuracy of each finetuned body with the head that was trained with it, 0 to 1.

    Args:
        deltas: what ``finetuned_deltas`` gives.
        base_dir: what they were finetuned from.
        cache: see ``finetuned_deltas``.
        data: folder of the datasets; None for the example data.
        num_rows: of the test split to score on, at most.
    """
    found = {}
    for name, delta in deltas.items():
        path = delta.with_name(f"accuracy-{num_rows}")
        if not path.exists():
            prepared = _prepared(data or data_dir(), name, cache)
            accuracy = _finetuned_accuracy(delta, prepared, base_dir, num_rows)
            path.write_text(repr(accuracy), encoding="utf-8")
        found[name] = float(path.read_text(encoding="utf-8"))
    return found


def mean_probe_accuracy(
    model: Path, names: Sequence[str], *, base_dir: Path, cache: Path, data: Path | None = None
) -> float:
    """Mean over datasets of ``probe_accuracies``, 0 to 1."""
    accuracies = probe_accuracies(model, names, base_dir=base_dir, cache=cache, data=data)
    return sum(accuracies.values()) / len(accuracies)


def probe_accuracies(
    model: Path,
    names: Sequence[str],
    *,
    base_dir: Path,
    cache: Path,
    data: Path | None = None,
    rows: tuple[int, int] = PROBE_ROWS,
) -> dict[str, float]:
    """Accuracy of a linear probe on the frozen body, for each dataset, 0 to 1.

    Args:
        model: directory of a base model, or the file with its parameters.
        names: of the datasets.
        base_dir: where configuration and tokenizer are, if ``model`` is a file.
        cache: see ``finetuned_deltas``.
        data: folder of the datasets; None for the example data.
        rows: of the training split to fit on, and of the test split to score on, at most.
    """
    is_file = model.is_file()
    parameters = model if is_file else model / BaseVersion.MODEL_FILE
    found = {}
    with tempfile.TemporaryDirectory(dir=cache) as work_dir:
        directory = with_model(base_dir, model, Path(work_dir) / "model") if is_file else model
        embedder = Embedder(directory, torch.device("cpu"), max_length=RECIPE.max_length)
        for name in names:
            prepared = _prepared(data or data_dir(), name, cache)
            parts = [digest_of(parameters), prepared.dataset_id, rows, RECIPE.max_length]
            path = cache / "probes" / _hash_of(parts)
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                path.write_text(repr(_probe(embedder, prepared, rows)), encoding="utf-8")
            found[name] = float(path.read_text(encoding="utf-8"))
    return found


def digest_of(path: Path) -> str:
    """The file's sha256, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@memoised
def _prepared(data: Path, name: str, cache: Path) -> PreparedDataset:
    # Another folder may have another dataset of that name, or the same one with labels changed.
    work_dir = cache / "datasets" / f"{name}-{_hash_of([str(data.resolve())])}"
    work_dir.mkdir(parents=True, exist_ok=True)
    return prepare_dataset(str(data / name), work_dir=work_dir)


def _request(
    prepared: PreparedDataset,
    base_dir: Path,
    recipe: Hyperparameters,
    turn: int,
    head: Path | None,
    cache: Path,
) -> FinetuneRequest:
    return FinetuneRequest(
        base_dir=base_dir,
        dataset=prepared.record(),
        splits={name: split.path for name, split in prepared.splits.items()},
        cache=LocalCache(cache / "tokens", 1 << 30),
        hyperparameters=recipe,
        turn=turn,
        previous_head=head,
        form="delta",
        dtype="float32",
        last_residual=None,
        keeps_residual=False,
        checkpoint=None,
        should_stop=lambda: False,
        keep=lambda *_: None,
    )


def _key(request: FinetuneRequest) -> str:
    head = request.previous_head
    parts = [
        digest_of(request.base_dir / BaseVersion.MODEL_FILE),
        request.dataset.dataset_id,
        request.hyperparameters.model_dump(mode="json"),
        request.turn,
        None if head is None else digest_of(head),
        torch.__version__,
    ]
    return _hash_of(parts)


def _hash_of(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _finetune(request: FinetuneRequest, directory: Path) -> None:
    print(f"finetune {directory.name}", file=sys.stderr)
    directory.parent.mkdir(parents=True, exist_ok=True)
    settings = load_settings(device="cpu", precision="float32", torch_threads=_threads())
    with tempfile.TemporaryDirectory(dir=directory.parent) as work_dir:
        files = finetune(request, settings, Path(work_dir), lambda _: None)
        done = Path(work_dir) / "done"
        done.mkdir()
        files.shared.rename(done / _DELTA)
        files.head.rename(done / _HEAD)
        with suppress(OSError):  # another run was faster; its files are the same
            done.rename(directory)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def _finetuned_accuracy(
    delta: Path, prepared: PreparedDataset, base_dir: Path, num_rows: int
) -> float:
    test = load_examples(prepared.splits["test"].path)
    test = test.subset(range(min(num_rows, len(test))))
    head = load_file(head_beside(delta))
    with tempfile.TemporaryDirectory(dir=delta.parent) as work_dir:
        model = Path(work_dir) / BaseVersion.MODEL_FILE
        before, moved = load_file(base_dir / BaseVersion.MODEL_FILE), load_file(delta)
        after = {
            name: value + moved[name] if value.dtype.kind == "f" else value
            for name, value in before.items()
        }
        save_file(after, model, {"format": "pt"})
        directory = with_model(base_dir, model, Path(work_dir) / "model")
        features = Embedder(directory, torch.device("cpu"), RECIPE.max_length).embed(test)
    outputs = features @ head["weight"].T + head["bias"]
    return float((outputs.argmax(axis=1) == _classes(test)).mean())


def _probe(embedder: Embedder, prepared: PreparedDataset, rows: tuple[int, int]) -> float:
    splits = [load_examples(prepared.splits[split].path) for split in ("train", "test")]
    train, test = (
        examples.subset(range(min(limit, len(examples))))
        for examples, limit in zip(splits, rows, strict=True)
    )
    return probe_accuracy(
        embedder.embed(train), _classes(train), embedder.embed(test), _classes(test)
    )


def _classes(examples: Examples) -> list[int]:
    return [int(label) for label in examples.labels]
