"""The training loop of one finetune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.finetune.batches import TokenizedExamples, micro_batches, shuffled_batches
from coldfusion_queue.finetune.checkpoint import TrainingState
from coldfusion_queue.finetune.device import autocast
from coldfusion_queue.finetune.model import SequenceModel
from coldfusion_queue.records import Hyperparameters

__all__ = [
    "Checkpointing",
    "FinetuneInterrupted",
    "Progress",
    "TrainingOptions",
    "predict",
    "train",
]


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    num_steps: int
    num_examples: int
    """Examples trained on so far, all epochs counted."""
    loss: float
    """Mean loss since the last report."""
    examples_per_second: float


@dataclass(frozen=True)
class TrainingOptions:
    """What the worker, not the submission, decides."""

    device: torch.device
    precision: str = "auto"
    duty_cycle: float = 1.0
    progress_interval_seconds: float = 1.0


@dataclass(frozen=True)
class Checkpointing:
    """Where a training begins, when it is to stop, and where it leaves its state then."""

    start: Path | None
    """State of an earlier training to go on from; None begins at the first step."""
    path: Path
    """File to write the state to; it may be ``start``."""
    should_stop: Callable[[], bool]
    """Asked after each optimizer step but the last."""


class FinetuneInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """A training was told to stop, and saved its state.

    Args:
        path: the file with the state.
        step: optimizer steps done.
        num_steps: optimizer steps of the whole training.
    """

    def __init__(self, path: Path, step: int, num_steps: int) -> None:
        super().__init__(path, step, num_steps)
        self.path = path
        self.step = step
        self.num_steps = num_steps

    def __str__(self) -> str:
        return f"stopped after step {self.step} of {self.num_steps}"


def train(
    model: SequenceModel,
    data: TokenizedExamples,
    hyperparameters: Hyperparameters,
    options: TrainingOptions,
    seed: int,
    report: Callable[[Progress], None],
    checkpointing: Checkpointing,
) -> float:
    """Train in place: AdamW with linear warm-up and decay.

    The device is asked for a number only when progress is reported, not at every step. A training
    that was interrupted and goes on ends as if it had not been: on one machine's CPU, with as many
    threads, in the same bits.

    Args:
        model: on the device of ``options``.
        data: the training split.
        hyperparameters: of the submission.
        options: of the worker.
        seed: of the order of the examples.
        report: called about every ``progress_interval_seconds`` and once at the end; what it
            raises ends the training.
        checkpointing: where to begin and when to stop.

    Returns:
        Mean loss over the last epoch.

    Raises:
        FinetuneInterrupted: it was told to stop before the last step; the state is saved.
        TrainingFailedError: the loss is NaN or infinite.
        InvalidTensorFileError: ``start`` is no state of a training.
        IncompatibleModelError: ``start`` is the state of another training.

    Source: Don-Yehiya et al. 2023, appendix B.
    """
    steps_per_epoch = -(-len(data) // hyperparameters.batch_size)
    num_steps = steps_per_epoch * hyperparameters.epochs
    epoch_loss = torch.zeros((), device=options.device)
    optimizer = _optimizer(model, hyperparameters, options.device)
    state = TrainingState(model, optimizer, epoch_loss, num_steps, seed)
    if checkpointing.start is not None:
        state.load(checkpointing.start)
    first = state.step
    schedule = _schedule(optimizer, hyperparameters, num_steps, first)
    meter = _Meter(options, num_steps, report)
    model.train()
    for position, indices in enumerate(_batches(data, hyperparameters, seed)):
        if position < first:
            meter.skip(len(indices))
            continue
        started = time.monotonic()
        if position % steps_per_epoch == 0:
            epoch_loss.zero_()
        loss = _step(model, data, indices, options)
        nn.utils.clip_grad_norm_(model.parameters(), hyperparameters.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        epoch_loss += loss * len(indices)
        state.step += 1
        meter.count(len(indices), loss, is_last=state.step == num_steps)
        if state.step < num_steps and checkpointing.should_stop():
            meter.check()
            state.save(checkpointing.path)
            raise FinetuneInterrupted(checkpointing.path, state.step, num_steps)
        _rest(started, options)
    return float(epoch_loss / len(data))


def _batches(
    data: TokenizedExamples, hyperparameters: Hyperparameters, seed: int
) -> Iterator[list[int]]:
    """The batches of all epochs, in the order that follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(hyperparameters.epochs):
        yield from shuffled_batches(data.lengths, hyperparameters.batch_size, generator)


@torch.inference_mode()
def predict(model: SequenceModel, data: TokenizedExamples, options: TrainingOptions) -> Tensor:
    """Outputs for all examples: (N, num_outputs) float32 on the CPU."""
    model.eval()
    outputs = torch.empty(len(data), model.head.out_features)
    for indices in micro_batches(range(len(data)), data.lengths):
        batch = _to(data.batch(indices), options.device)
        with autocast(options.device, options.precision):
            outputs[indices] = model(batch).float().cpu()
    return outputs


def _optimizer(
    model: SequenceModel, hyperparameters: Hyperparameters, device: torch.device
) -> torch.optim.Optimizer:
    # As usual for transformers, biases and norms (vectors) do not decay.
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    groups = [
        {"params": list(chosen), "lr": rate * factor, "weight_decay": decay if matrices else 0.0}
        for part, factor in (
            (model.body, hyperparameters.body_learning_rate_factor),
            (model.head, hyperparameters.head_learning_rate_factor),
        )
        for matrices in (True, False)
        if (
            chosen := [
                p for p in part.parameters() if p.requires_grad and (p.dim() > 1) == matrices
            ]
        )
    ]
    # The fused kernel exists for these; it takes a third off a step on a CPU.
    fused = device.type in {"cuda", "cpu"}
    return torch.optim.AdamW(groups, lr=rate, fused=fused)


def _schedule(
    optimizer: torch.optim.Optimizer, hyperparameters: Hyperparameters, num_steps: int, step: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of the learning rate, with ``step`` steps done."""
    warmup = int(num_steps * hyperparameters.warmup_fraction)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (num_steps - step) / max(1, num_steps - warmup))

    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=step - 1)


def _step(
    model: SequenceModel, data: TokenizedExamples, indices: list[int], options: TrainingOptions
) -> Tensor:
    """Gradients of one batch, accumulated over its pieces; returns its mean loss, detached."""
    total = torch.zeros((), device=options.device)
    for piece in micro_batches(indices, data.lengths):
        batch = _to(data.batch(piece), options.device)
        labels = data.labels[piece].to(options.device, non_blocking=True)
        with autocast(options.device, options.precision):
            outputs = model(batch)
        loss = _loss_sum(outputs, labels) / len(indices)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _loss_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.dtype == torch.int64:
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")
    return nn.functional.mse_loss(outputs.squeeze(-1), labels, reduction="sum")


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _rest(started: float, options: TrainingOptions) -> None:
    if options.duty_cycle < 1:
        worked = time.monotonic() - started
        time.sleep(worked * (1 / options.duty_cycle - 1))


class _Meter:
    """Counts steps and reports at intervals."""

    def __init__(
        self, options: TrainingOptions, num_steps: int, report: Callable[[Progress], None]
    ) -> None:
        self._options = options
        self._num_steps = num_steps
        self._report = report
        self._loss = torch.zeros((), device=options.device)
        self._last = time.monotonic()
        self._examples_then = 0
        self._steps_then = 0
        self._examples = 0
        self.step = 0

    def skip(self, num_examples: int) -> None:
        """Count a step that an earlier training did."""
        self.step = self._steps_then = self.step + 1
        self._examples = self._examples_then = self._examples + num_examples

    def count(self, num_examples: int, loss: Tensor, *, is_last: bool) -> None:
        self.step += 1
        self._examples += num_examples
        self._loss += loss
        now = time.monotonic()
        if is_last or now - self._last >= self._options.progress_interval_seconds:
            self._send(now)

    def check(self) -> float:
        """Mean loss since the last report, or 0 if there was no step; it has to be finite."""
        loss = float(self._loss) / max(1, self.step - self._steps_then)
        if not math.isfinite(loss):
            raise TrainingFailedError(
                "this finetune",
                f"the loss is {loss} at step {self.step} of {self._num_steps}",
                "lower learning_rate with --set and submit again",
            )
        return loss

    def _send(self, now: float) -> None:
        loss = self.check()
        seconds = max(now - self._last, 1e-6)
        rate = (self._examples - self._examples_then) / seconds
        self._report(Progress(self.step, self._num_steps, self._examples, loss, rate))
        self._loss.zero_()
        self._last, self._examples_then, self._steps_then = now, self._examples, self.step
