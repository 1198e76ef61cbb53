"""What a finetune writes to disk: the shared parameters and the head, as safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from coldfusion_queue.errors import IncompatibleModelError, TrainingFailedError
from coldfusion_queue.finetune.model import SequenceModel
from coldfusion_queue.fusion.layout import make_header

__all__ = [
    "WORKER",
    "BaseTensors",
    "LabelScale",
    "Owner",
    "Shared",
    "load_head",
    "open_base",
    "save_head",
    "save_in_order",
    "save_shared",
    "shared_tensors",
    "trained",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: What safetensors calls them.
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


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


class Shared(NamedTuple):
    """One tensor of what is contributed, and the base model's."""

    name: str
    before: Tensor
    value: Tensor
    """float32, finite; an integer buffer is the base model's."""


def save_shared(
    parameters: Mapping[str, Tensor],
    base_dir: Path,
    form: Literal["delta", "full"],
    path: Path,
    owner: Owner = WORKER,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Write the shared parameters under the base model's names.

    Args:
        parameters: the body's state dict after training.
        base_dir: the base version's directory, to subtract and to compare with.
        form: ``delta`` writes finetuned minus base, ``full`` the finetuned parameters. Integer
            buffers are written as they are in the base.
        path: file to write.
        owner: whose parameters they are, for the messages.
        dtype: in what to write a delta, rounded to nearest; a tensor that is narrower in the base
            keeps the base's dtype, and so do parameters in full form.

    Raises:
        IncompatibleModelError: the state dict does not have the base's names or shapes.
        TrainingFailedError: a parameter is NaN or infinite, or beyond what ``dtype`` can hold.
    """
    tensors: dict[str, Tensor] = {}
    for name, before, value in shared_tensors(parameters, base_dir, form, owner):
        tensors[name] = value
        if before.is_floating_point():
            wanted = _DTYPES[dtype] if form == "delta" else before.dtype
            tensors[name] = _cast(name, value, min(before.dtype, wanted, key=_size))
    save_in_order(tensors, path, {"format": "pt"})


def save_in_order(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose data lies in the order given.

    In the order of the base model's files a fusion reads it from beginning to end, shard by shard.
    """
    places = [(name, _DTYPE_NAMES[tensor.dtype], tensor.shape) for name, tensor in tensors.items()]
    with path.open("wb") as file:
        file.write(make_header(places, metadata))
        for tensor in tensors.values():
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def shared_tensors(
    parameters: Mapping[str, Tensor],
    base_dir: Path,
    form: Literal["delta", "full"],
    owner: Owner = WORKER,
) -> Iterator[Shared]:
    """The shared parameters in the order of the base model's file; see ``save_shared``."""
    with open_base(base_dir) as base:
        for name in base.names:
            before = base[name]
            after = parameters.get(name)
            if after is None or after.shape != before.shape:
                got = "missing" if after is None else str(tuple(after.shape))
                expected = str(tuple(before.shape))
                raise IncompatibleModelError(
                    owner.name, f"tensor {name!r}", got, expected, owner.remedy
                )
            yield Shared(name, before, _changed(name, before, after, form))


def _changed(name: str, before: Tensor, after: Tensor, form: str) -> Tensor:
    if not before.is_floating_point():
        return before
    after = trained(name, after)
    return after - before.float() if form == "delta" else after


def trained(name: str, value: Tensor) -> Tensor:
    """What training made of a tensor, as float32 on the CPU.

    Raises:
        TrainingFailedError: a number is NaN or infinite.
    """
    value = value.detach().to("cpu", torch.float32)
    if not torch.isfinite(value).all():
        raise TrainingFailedError(
            "this finetune",
            f"tensor {name!r} holds NaN or infinite values",
            "lower learning_rate with --set and submit again",
        )
    return value


def _cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    cast = value.to(dtype).contiguous()
    if not torch.isfinite(cast).all():
        largest = float(value.abs().max())
        raise TrainingFailedError(
            "this finetune",
            f"tensor {name!r} holds {largest:g}, more than {dtype} can",
            "set COLDFUSION_CONTRIBUTION_DTYPE=bfloat16, or lower learning_rate with --set, and "
            "submit again",
        )
    return cast


def _size(dtype: torch.dtype) -> int:
    return dtype.itemsize


def save_head(
    model: SequenceModel, labels: tuple[str, ...], scale: LabelScale | None, path: Path
) -> None:
    """Write the head and what its outputs mean.

    Args:
        model: whose head it is.
        labels: what each output is called; empty for regression.
        scale: of regression targets; None writes none, because it follows from private labels.
        path: file to write.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.head.named_parameters()
    }
    # One key: safetensors writes several in an order that differs from run to run.
    meaning = {
        "labels": labels,
        "pooling": model.pooling,
        "label_mean": None if scale is None else scale.mean,
        "label_deviation": None if scale is None else scale.deviation,
    }
    save_file(tensors, path, metadata={"head": json.dumps(meaning, sort_keys=True)})


def load_head(model: SequenceModel, labels: tuple[str, ...], path: Path) -> bool:
    """Put a head of an earlier turn in place.

    Returns:
        False if it does not fit (other labels, or their number, another pooling, no finite
        numbers); the fresh head stays then.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meaning = json.loads((file.metadata() or {}).get("head", "{}"))
    wanted = {name: value.shape for name, value in model.head.named_parameters()}
    fits = (
        wanted == {name: value.shape for name, value in tensors.items()}
        and (meaning.get("labels"), meaning.get("pooling")) == ([*labels], model.pooling)
        and all(bool(torch.isfinite(value).all()) for value in tensors.values())
    )
    if fits:
        model.head.load_state_dict(tensors)
    return fits


class BaseTensors:
    """The parameters of a base version, memory-mapped, in the order that the engine has them in.

    Args:
        files: its weight files in the order of their names, open.
    """

    def __init__(self, files: Sequence[Any]) -> None:
        self._file_of = {name: file for file in files for name in file.offset_keys()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._file_of)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor


@contextmanager
def open_base(base_dir: Path) -> Iterator[BaseTensors]:
    """The parameters of a base version's directory, of which all weight files are opened."""
    with ExitStack() as stack:
        paths = sorted(base_dir.glob("*.safetensors"))
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        yield BaseTensors(files)
