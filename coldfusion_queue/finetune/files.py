"""What a finetune writes to disk: the shared parameters and the head, as safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from coldfusion_queue.errors import IncompatibleModelError, TrainingFailedError
from coldfusion_queue.finetune.model import SequenceModel
from coldfusion_queue.records import BaseVersion

__all__ = ["LabelScale", "Owner", "load_head", "open_base", "save_head", "save_shared"]


@dataclass(frozen=True)
class LabelScale:
    """Regression targets are trained as (label - mean) / deviation; 0 and 1 for classes."""

    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Owner:
    """Whose parameters are written, and what to do if they do not fit."""

    name: str
    remedy: str


WORKER = Owner(
    "this worker's model",
    "its transformers names tensors unlike the one that ran 'init'; use the same version",
)


def save_shared(
    parameters: Mapping[str, Tensor],
    base_dir: Path,
    form: Literal["delta", "full"],
    path: Path,
    owner: Owner = WORKER,
) -> None:
    """Write the shared parameters under the base model's names, in its dtypes.

    Args:
        parameters: the body's state dict after training.
        base_dir: the base version's directory, to subtract and to compare with.
        form: ``delta`` writes finetuned minus base, ``full`` the finetuned parameters. Integer
            buffers are written as they are in the base.
        path: file to write.
        owner: whose parameters they are, for the messages.

    Raises:
        IncompatibleModelError: the state dict does not have the base's names or shapes.
        TrainingFailedError: a parameter is NaN or infinite.
    """
    tensors: dict[str, Tensor] = {}
    with open_base(base_dir) as base:
        for name in base.keys():  # noqa: SIM118 - not a mapping
            before = base.get_tensor(name)
            after = parameters.get(name)
            if after is None or after.shape != before.shape:
                got = "missing" if after is None else str(tuple(after.shape))
                expected = str(tuple(before.shape))
                raise IncompatibleModelError(
                    owner.name, f"tensor {name!r}", got, expected, owner.remedy
                )
            tensors[name] = _changed(name, before, after, form)
    save_file(tensors, path, metadata={"format": "pt"})


def _changed(name: str, before: Tensor, after: Tensor, form: str) -> Tensor:
    if not before.is_floating_point():
        return before
    after = after.detach().to("cpu", torch.float32)
    if not torch.isfinite(after).all():
        raise TrainingFailedError(
            "this finetune",
            f"tensor {name!r} holds NaN or infinite values",
            "lower learning_rate with --set and submit again",
        )
    value = after - before.float() if form == "delta" else after
    return value.to(before.dtype).contiguous()


def save_head(model: SequenceModel, labels: tuple[str, ...], scale: LabelScale, path: Path) -> None:
    """Write the head and what its outputs mean."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.head.named_parameters()
    }
    # One key: safetensors writes several in an order that differs from run to run.
    meaning = {
        "labels": labels,
        "pooling": model.pooling,
        "label_mean": scale.mean,
        "label_deviation": scale.deviation,
    }
    save_file(tensors, path, metadata={"head": json.dumps(meaning, sort_keys=True)})


def load_head(model: SequenceModel, path: Path) -> bool:
    """Put a head of an earlier turn in place.

    Returns:
        False if it does not fit (another number of labels); the fresh head stays then.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fits = {name: value.shape for name, value in model.head.named_parameters()} == {
        name: value.shape for name, value in tensors.items()
    }
    if fits:
        model.head.load_state_dict(tensors)
    return fits


@contextmanager
def open_base(base_dir: Path) -> Iterator[Any]:
    """The parameters of a base version, memory-mapped."""
    with safe_open(base_dir / BaseVersion.MODEL_FILE, framework="pt") as file:
        yield file
