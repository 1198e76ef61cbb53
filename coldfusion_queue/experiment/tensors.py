"""Files of shared parameters whose numbers are changed, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.finetune.files import open_base, save_in_order

__all__ = ["change_delta", "noise_like", "scaled"]

#: From a tensor's change, float32, to another one.
Change = Callable[[Tensor], Tensor]


def change_delta(source: Path, base_dir: Path, form: str, change: Change, target: Path) -> None:
    """Write another delta, with the tensors and dtypes of one that there is.

    Args:
        source: file of the contribution.
        base_dir: of the version that it was finetuned from.
        form: of the contribution, ``delta`` or ``full``.
        change: of each floating-point tensor.
        target: file to write.

    Raises:
        IncompatibleModelError: a contribution in another form.
    """
    from safetensors import safe_open

    if form not in {"delta", "full"}:
        remedy = "run the workers with COLDFUSION_CONTRIBUTION_DTYPE=bfloat16 and without adapters"
        raise IncompatibleModelError(source.name, "its form", form, "delta or full", remedy)
    tensors: dict[str, Tensor] = {}
    with safe_open(source, framework="pt") as file, open_base(base_dir) as base:
        for name in file.offset_keys():
            value = file.get_tensor(name)
            if value.is_floating_point():
                dtype = value.dtype
                value = value.float()
                if form == "full":
                    value = value - base[name].float()
                value = change(value).to(dtype)
            tensors[name] = value
    save_in_order(tensors, target, {"format": "pt"})


def noise_like(seed: int, factor: float = 1.0) -> Change:
    """Gaussian noise, of each tensor ``factor`` times as long as the tensor was."""
    generator = torch.Generator().manual_seed(seed)

    def change(value: Tensor) -> Tensor:
        noise = torch.randn(value.shape, generator=generator)
        length = float(torch.linalg.vector_norm(noise))
        return noise * (factor * float(torch.linalg.vector_norm(value)) / max(length, 1e-30))

    return change


def scaled(factor: float) -> Change:
    """The same times a number."""
    return lambda value: factor * value
