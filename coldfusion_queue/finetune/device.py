"""Where to train and in which arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from coldfusion_queue.errors import TrainingFailedError

__all__ = ["autocast", "pick_device"]


def pick_device(wanted: str) -> torch.device:
    """The device of the setting ``device``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        TrainingFailedError: the device that was asked for is not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    there = {"cpu": True, "mps": torch.backends.mps.is_available()}.get(
        device.type, torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    )
    if not there:
        raise TrainingFailedError(
            "this worker", f"device {wanted!r} is not there", "set COLDFUSION_DEVICE"
        )
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which forward passes run in bfloat16, where that is asked for or pays."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
