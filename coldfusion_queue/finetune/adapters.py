"""Low-rank adapters of a body: added before training, then written as factors, or merged into it.

A layer W_0 x becomes W_0 x + (alpha / r) B A x, of which B and A alone are trained. B begins with
zeros, so that training begins at the base model. The layers and their gradients are those of
``peft``; which layers, and what is contributed, is decided here.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.finetune.files import WORKER, open_base, save_in_order, trained
from coldfusion_queue.fusion.low_rank import saves_bytes
from coldfusion_queue.fusion.low_rank_file import METADATA, factor_names
from coldfusion_queue.records import Hyperparameters

__all__ = ["add_adapters", "merge_adapters", "save_factors"]

#: What peft calls the one adapter that there is.
_ADAPTER = "default"


def add_adapters(body: nn.Module, hyperparameters: Hyperparameters) -> None:
    """Give every linear layer an adapter, and freeze all else; draws random numbers.

    Layers so small that the factors would not save anything are left as they are.

    Raises:
        IncompatibleModelError: no layer is left.
    """
    # Here, because it takes seconds that only such a turn has to spend.
    from peft import LoraConfig, inject_adapter_in_model

    rank = hyperparameters.lora_rank
    layers = dict(_linear_layers(body, rank))
    if not layers:
        raise IncompatibleModelError(
            "the base model",
            "its body",
            f"without linear layers that factors of rank {rank} are smaller than",
            "at least one",
            "lower lora_rank with --set, or leave adapter out, and submit again",
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=hyperparameters.lora_alpha,  # type: ignore[arg-type] # it takes any number
        lora_dropout=hyperparameters.lora_dropout,
        target_modules="|".join(map(re.escape, layers)),  # a list would match ends of names
        fan_in_fan_out=not any(isinstance(layer, nn.Linear) for layer in layers.values()),
    )
    inject_adapter_in_model(config, body, _ADAPTER)


def merge_adapters(body: nn.Module) -> None:
    """Add the adapters' products to the layers' weights, and take the adapters away."""
    for name, layer in list(_adapted(body)):
        layer.merge()
        body.set_submodule(name, layer.get_base_layer())


def save_factors(body: nn.Module, base_dir: Path, path: Path) -> None:
    """Write the adapters as ``fusion.low_rank_file`` describes, in float32.

    Those that training did not change (nothing led from them to the loss) are left out, because
    their product is 0.

    Args:
        body: with adapters.
        base_dir: the base version's directory, for names and their order.
        path: file to write.

    Raises:
        IncompatibleModelError: a layer has another name or shape in the base version.
        TrainingFailedError: a factor is NaN or infinite.
    """
    factors = {f"{name}.weight": _factors(layer) for name, layer in _adapted(body)}
    tensors: dict[str, Tensor] = {}
    with open_base(base_dir) as base:
        _check_names(factors, {name: tuple(base[name].shape) for name in base.names})
        for name in base.names:
            pair = factors.get(name)
            if pair is not None and all(factor.any() for factor in pair):
                tensors |= dict(zip(factor_names(name), pair, strict=True))
    save_in_order({name: trained(name, each) for name, each in tensors.items()}, path, METADATA)


def _linear_layers(body: nn.Module, rank: int) -> Iterator[tuple[str, nn.Module]]:
    from transformers.pytorch_utils import Conv1D

    for name, layer in body.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and saves_bytes(layer.weight.shape, rank):
            yield name, layer


def _adapted(body: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, each) for name, each in body.named_modules() if isinstance(each, LoraLayer))


def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    """B and A of a layer's weight as it is stored, with the scale in B."""
    left = layer.lora_B[_ADAPTER].weight * layer.scaling[_ADAPTER]
    right = layer.lora_A[_ADAPTER].weight
    # GPT-2 stores weights the other way round, and (B A)^T = A^T B^T.
    return (right.T, left.T) if layer.fan_in_fan_out else (left, right)


def _check_names(
    factors: dict[str, tuple[Tensor, Tensor]], expected: dict[str, tuple[int, ...]]
) -> None:
    for name, (left, right) in factors.items():
        got, wanted = (len(left), right.shape[1]), expected.get(name)
        if got != wanted:
            shown = "no such tensor" if wanted is None else str(wanted)
            raise IncompatibleModelError(
                WORKER.name, f"tensor {name!r}", str(got), shown, WORKER.remedy
            )
