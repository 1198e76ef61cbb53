"""Versions and hardware: what it takes, beside data and seed, to repeat a finetune."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from coldfusion_queue.finetune.device import autocast_dtype

__all__ = ["describe_environment"]

_PACKAGES = ("coldfusion-queue", "torch", "transformers", "tokenizers", "numpy")


def describe_environment(device: torch.device, precision: str) -> dict[str, str]:
    """What a contribution's record says of the place where it was made.

    Args:
        device: of the training.
        precision: see ``device.autocast``.
    """
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "device": _name(device),
        "threads": str(torch.get_num_threads()),
        "precision": str(autocast_dtype(device, precision)).removeprefix("torch."),
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())
    return f"{device.type} {platform.machine()}"
