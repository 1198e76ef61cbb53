"""One finetune from files to files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor

from coldfusion_queue.finetune.batches import TokenizedExamples
from coldfusion_queue.finetune.device import pick_device
from coldfusion_queue.finetune.files import LabelScale, load_head, save_head, save_shared
from coldfusion_queue.finetune.model import SequenceModel, load_body, load_tokenizer
from coldfusion_queue.finetune.quantising import save_quantised
from coldfusion_queue.finetune.training import (
    Checkpointing,
    Progress,
    TrainingOptions,
    predict,
    train,
)
from coldfusion_queue.intake.examples import Examples, load_examples
from coldfusion_queue.records import (
    ContributionForm,
    DatasetRecord,
    Hyperparameters,
    Objective,
)
from coldfusion_queue.settings import ContributionDtype, Settings

__all__ = ["FinetuneRequest", "FinetuneResult", "finetune"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneRequest:
    """What one finetune needs: files on this machine and numbers."""

    base_dir: Path
    """Directory of the base version."""
    dataset: DatasetRecord
    splits: Mapping[str, Path]
    """Parquet file of each split."""
    hyperparameters: Hyperparameters
    turn: int
    previous_head: Path | None
    """Head of the submission's last turn; None starts with a fresh one."""
    form: Literal["delta", "full"]
    dtype: ContributionDtype
    """In what a delta is written; of no meaning for the full form."""
    last_residual: Path | None
    """What quantising cut off the last turn; None if it is lost or there was none."""
    keeps_residual: bool
    """Whether to write what quantising cuts off this turn."""
    checkpoint: Path | None
    """State that an interrupted finetune of the same turn left; None begins at the first step."""
    should_stop: Callable[[], bool]
    """Asked after each optimizer step but the last."""
    is_private: bool = False
    """The data is a site's: nothing is written that was worked out from its labels but weights."""


@dataclass(frozen=True)
class FinetuneResult:
    """Files to contribute, and figures."""

    shared: Path
    form: ContributionForm
    """What ``shared`` is."""
    residual: Path | None
    """What quantising cut off; None if there is nothing to keep."""
    head: Path
    metrics: Mapping[str, float]


def finetune(
    request: FinetuneRequest,
    settings: Settings,
    work_dir: Path,
    report: Callable[[Progress], None],
) -> FinetuneResult:
    """Finetune body and head on one dataset and write what is to be contributed.

    Deterministic on the CPU: the same request gives the same bytes on the same machine, also when
    it was interrupted and goes on from the checkpoint.

    Args:
        request: what to finetune on.
        settings: device, precision, threads, duty cycle.
        work_dir: where to write.
        report: see ``training.train``.

    Raises:
        FinetuneInterrupted: it was told to stop; the checkpoint is in ``work_dir``.
        TrainingFailedError: loss or parameters are not finite, or the device is not there.
        InvalidTensorFileError: the checkpoint is no such file.
        IncompatibleModelError: see ``files.save_shared``; or the checkpoint is of another turn.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    seed = _seed(request)
    torch.manual_seed(seed)
    options = _options(settings)
    model = _build(request).to(options.device)
    data, scale = _training_data(request, seed)
    # Building the model drew random numbers: a checkpoint's generators are set after it.
    saved = work_dir / "checkpoint.safetensors"
    checkpointing = Checkpointing(request.checkpoint, saved, request.should_stop)
    loss = train(model, data, request.hyperparameters, options, seed, report, checkpointing)
    metrics = {"train_loss": loss, **_validate(model, request, scale, options)}
    head = work_dir / "head.safetensors"
    save_head(model, request.dataset.labels, None if request.is_private else scale, head)
    shared = work_dir / "shared.safetensors"
    parameters = model.body.state_dict()
    if request.dtype != "quantised":
        save_shared(parameters, request.base_dir, request.form, shared, dtype=request.dtype)
        return FinetuneResult(shared, request.form, None, head, metrics)
    last, residual = request.last_residual, work_dir / "residual"
    kept = residual if request.keeps_residual else None
    save_quantised(parameters, request.base_dir, shared, last_residual=last, residual=kept)
    return FinetuneResult(shared, "quantised", kept, head, metrics)


def _seed(request: FinetuneRequest) -> int:
    """One seed from the submission's, the dataset and the turn, so that turns differ."""
    text = f"{request.hyperparameters.seed}/{request.dataset.dataset_id}/{request.turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _options(settings: Settings) -> TrainingOptions:
    return TrainingOptions(
        device=pick_device(settings.device),
        precision=settings.precision,
        duty_cycle=settings.duty_cycle,
        progress_interval_seconds=settings.progress_interval_seconds,
    )


def _build(request: FinetuneRequest) -> SequenceModel:
    num_outputs = len(request.dataset.labels) or 1
    hyperparameters = request.hyperparameters
    model = SequenceModel(
        load_body(request.base_dir), num_outputs, hyperparameters.pooling, hyperparameters.dropout
    )
    if request.previous_head is not None and not load_head(model, request.previous_head):
        event = {"event": "head_afresh", "dataset": request.dataset.dataset_id}
        log.warning("head begins afresh: its data has another number of labels now", extra=event)
    if hyperparameters.freeze_embeddings:
        model.body.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
    return model


def _training_data(request: FinetuneRequest, seed: int) -> tuple[TokenizedExamples, LabelScale]:
    examples = load_examples(request.splits["train"])
    scale = LabelScale()
    if request.dataset.objective is Objective.REGRESSION:
        raw = torch.tensor(examples.labels, dtype=torch.float64)
        scale = LabelScale(float(raw.mean()), float(raw.std(unbiased=False)) or 1.0)
    limit = request.hyperparameters.max_examples
    if limit is not None and limit < len(examples.texts):
        generator = torch.Generator().manual_seed(seed)
        picked = torch.randperm(len(examples.texts), generator=generator)[:limit].tolist()
        examples = examples.subset(picked)
    return _tokenized(request, examples, scale), scale


def _tokenized(
    request: FinetuneRequest, examples: Examples, scale: LabelScale
) -> TokenizedExamples:
    tokenizer = load_tokenizer(request.base_dir)
    limit = min(request.hyperparameters.max_length, int(tokenizer.model_max_length))
    return TokenizedExamples(examples, tokenizer, limit, _targets(request, examples, scale))


def _targets(request: FinetuneRequest, examples: Examples, scale: LabelScale) -> Tensor:
    if request.dataset.objective is Objective.CLASSIFICATION:
        return torch.tensor(examples.labels, dtype=torch.int64)
    raw = torch.tensor(examples.labels, dtype=torch.float64)
    return ((raw - scale.mean) / scale.deviation).float()


def _validate(
    model: SequenceModel, request: FinetuneRequest, scale: LabelScale, options: TrainingOptions
) -> dict[str, float]:
    """Accuracy or Spearman correlation on the validation split, if the dataset has one."""
    if "validation" not in request.splits:
        return {}
    data = _tokenized(request, load_examples(request.splits["validation"]), scale)
    outputs = predict(model, data, options)
    if request.dataset.objective is Objective.CLASSIFICATION:
        hits = (outputs.argmax(dim=1) == data.labels).float().mean()
        return {"validation_accuracy": float(hits)}
    predicted = outputs.squeeze(-1).numpy()
    if predicted.min() == predicted.max():
        return {}  # a constant correlates with nothing
    correlation = spearmanr(predicted, data.labels.numpy()).statistic
    return {"validation_spearman": float(correlation)}
