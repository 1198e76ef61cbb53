"""Where to train and in which arithmetic."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext

import torch

from coldfusion_queue.errors import DeviceLostError

__all__ = ["autocast", "autocast_dtype", "free_memory", "pick_device"]


def pick_device(wanted: str) -> torch.device:
    """The device of the setting ``device``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        DeviceLostError: the device that was asked for is not there.
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
        raise DeviceLostError(wanted, "it is not there")
    return device


def free_memory(device: torch.device) -> None:
    """Give back a device's memory that nothing refers to; what is left is this process's context.

    An optimizer and its schedule refer to each other, and the allocator keeps what was freed.
    """
    if device.type == "cpu":
        return
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        torch.mps.empty_cache()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which forward passes run in bfloat16, where that is asked for or pays."""
    dtype = autocast_dtype(device, precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def autocast_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Arithmetic of forward passes: that of the setting ``precision``, or what pays here."""
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 faster than of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False
