"""What torch's errors mean: whose fault it is, and who should try again."""

from __future__ import annotations

import torch

from coldfusion_queue.errors import ColdFusionError, DeviceLostError, TrainingFailedError

__all__ = ["explained"]

#: How texts of errors begin that a device's libraries raise as plain ``RuntimeError``.
_OF_A_DEVICE = ("CUDA error", "cuDNN error")


def explained(
    error: RuntimeError, device: torch.device, *, is_private: bool
) -> ColdFusionError | None:
    """The error of ours that says what one of torch's means; None if that is not known.

    Args:
        error: what a training raised.
        device: that it ran on.
        is_private: the text of the error is not told, only what it is: nobody knows what of the
            data is in it.
    """
    lines = [] if is_private else str(error).splitlines()
    reason = next(iter(lines), type(error).__name__)
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingFailedError(
            "this finetune",
            "the device's memory does not hold the parameters with their gradients and moments",
            "ask for adapter=lora or freeze_embeddings=true, or use a device with more memory",
        )
    if isinstance(error, torch.AcceleratorError) or str(error).startswith(_OF_A_DEVICE):
        return DeviceLostError(str(device), reason)
    # By name: to import these modules takes seconds.
    if type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        remedy = "unset COLDFUSION_COMPILE on this worker, or install a C++ compiler"
        return TrainingFailedError("this finetune", f"torch.compile failed: {reason}", remedy)
    return None
