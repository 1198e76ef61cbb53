"""The shared parameters of a finetune, written in the form that is contributed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from coldfusion_queue.finetune.adapters import merge_adapters, save_factors
from coldfusion_queue.finetune.files import save_shared
from coldfusion_queue.finetune.quantising import save_quantised
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.records import ContributionForm

__all__ = ["save_in_form"]


def save_in_form(
    body: nn.Module, request: FinetuneRequest, work_dir: Path
) -> tuple[Path, ContributionForm, Path | None]:
    """Write what the request asks for.

    Args:
        body: finetuned, on the CPU; adapters are merged into it unless they are what is written.
        request: the form, and what it needs.
        work_dir: gets ``shared.safetensors``, and perhaps ``residual``.

    Returns:
        The file, what it is, and what quantising cut off, if that is to be kept.

    Raises:
        IncompatibleModelError: see ``files.save_shared`` and ``adapters.save_factors``.
        TrainingFailedError: parameters are not finite.
    """
    shared = work_dir / "shared.safetensors"
    if request.hyperparameters.adapter is not None:
        if request.form == "auto":
            save_factors(body, request.base_dir, shared)
            return shared, "low_rank", None
        merge_adapters(body)
    parameters = body.state_dict()
    if request.dtype == "quantised":
        last, residual = request.last_residual, work_dir / "residual"
        kept = residual if request.keeps_residual else None
        save_quantised(parameters, request.base_dir, shared, last_residual=last, residual=kept)
        return shared, "quantised", kept
    form: Literal["delta", "full"] = "full" if request.form == "full" else "delta"
    save_shared(parameters, request.base_dir, form, shared, dtype=request.dtype)
    return shared, form, None
