"""The training loop of one finetune."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.finetune.batches import shuffled_batches
from coldfusion_queue.finetune.checkpoint import TrainingState
from coldfusion_queue.finetune.early_stopping import EarlyStopping
from coldfusion_queue.finetune.model import SequenceModel
from coldfusion_queue.finetune.optimizer import make_optimizer, make_schedule
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.progress import Meter, Progress
from coldfusion_queue.finetune.saving import IntervalSaver
from coldfusion_queue.finetune.tokens import TokenizedExamples
from coldfusion_queue.records import Hyperparameters

__all__ = [
    "Checkpointing",
    "FinetuneInterrupted",
    "TrainingOptions",
    "TrainingOutcome",
    "train",
]


@dataclass(frozen=True)
class TrainingOptions:
    """What the worker, not the submission, decides."""

    device: torch.device
    precision: str = "auto"
    duty_cycle: float = 1.0
    progress_interval_seconds: float = 1.0
    token_budget: int | None = None
    """Tokens of one forward pass, padding included; None takes the device's default."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended."""

    loss: float
    """Mean loss over the last epoch's examples."""
    num_steps: int
    """Optimizer steps of the whole training."""
    num_steps_done: int
    """Fewer if it was stopped early."""
    score: float | None
    """Of the development split at the end; None if there is none."""


@dataclass(frozen=True)
class Checkpointing:
    """Where a training begins, when it is to stop, and where it leaves its state then."""

    start: Path | None
    """State of an earlier training to go on from; None begins at the first step."""
    path: Path | None
    """File to write the state to; it may be ``start``. None writes none."""
    should_stop: Callable[[], bool]
    """Asked after each optimizer step but the last."""
    saver: IntervalSaver | None = None
    """Makes checkpoints while it trains; None makes none. One may be on its way at the end."""


class FinetuneInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """A training was told to stop, and saved its state if that is wanted.

    Args:
        path: the file with the state; None if it was not to be saved.
        step: optimizer steps done.
        num_steps: optimizer steps of the whole training.
    """

    def __init__(self, path: Path | None, step: int, num_steps: int) -> None:
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
    validate: Callable[[Passes], float] | None = None,
) -> TrainingOutcome:
    """Train in place: AdamW with linear warm-up and decay, stopped early if that pays.

    The device is asked for a number only when progress is reported and at a validation, not at
    every step. A training that was interrupted and goes on ends as if it had not been: on one
    machine's CPU, with as many threads, in the same bits.

    Args:
        model: on the device of ``options``.
        data: the training split.
        hyperparameters: of the submission.
        options: of the worker.
        seed: of the order of the examples.
        report: called about every ``progress_interval_seconds`` and once at the end; what it
            raises ends the training.
        checkpointing: where to begin and when to stop.
        validate: scores the model, more is better; None never stops early.

    Raises:
        FinetuneInterrupted: it was told to stop before the last step; the state is in
            ``checkpointing.path``, if there is one.
        TrainingFailedError: the loss is NaN or infinite, or memory holds not even one example.
        InvalidTensorFileError: ``start`` is no state of a training.
        IncompatibleModelError: ``start`` is the state of another training.

    Source: Don-Yehiya et al. 2023, appendix B.
    """
    training = _Training(model, data, hyperparameters, options, seed, report, validate)
    first = training.resume(checkpointing.start)
    model.train()
    for position, indices in enumerate(_batches(data, hyperparameters, seed)):
        if position < first:
            training.skip(indices)
            continue
        started = time.monotonic()
        training.step(indices)
        reach(CrashPoint.TURN_STEPPED)
        if training.is_over():
            break
        if checkpointing.should_stop():
            training.interrupt(checkpointing.path)
        if checkpointing.saver is not None:
            training.save_if_due(checkpointing.saver)
        _rest(started, options)
    return training.outcome()


def _batches(
    data: TokenizedExamples, hyperparameters: Hyperparameters, seed: int
) -> Iterator[list[int]]:
    """The batches of all epochs, in the order that follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(hyperparameters.epochs):
        yield from shuffled_batches(data.lengths, hyperparameters.batch_size, generator)


def _rest(started: float, options: TrainingOptions) -> None:
    if options.duty_cycle < 1:
        worked = time.monotonic() - started
        time.sleep(worked * (1 / options.duty_cycle - 1))


class _Training:
    """The parts of a training; see ``train`` for the arguments."""

    def __init__(
        self,
        model: SequenceModel,
        data: TokenizedExamples,
        hyperparameters: Hyperparameters,
        options: TrainingOptions,
        seed: int,
        report: Callable[[Progress], None],
        validate: Callable[[Passes], float] | None,
    ) -> None:
        self._model = model
        self._data = data
        self._hyperparameters = hyperparameters
        self._validate = validate
        self._steps_per_epoch = -(-len(data) // hyperparameters.batch_size)
        self._num_steps = self._steps_per_epoch * hyperparameters.epochs
        self._stopping = EarlyStopping(
            hyperparameters.min_gain,
            hyperparameters.patience_examples,
            hyperparameters.validate_every_examples,
        )
        self._passes = Passes(model, options.device, options.precision, options.token_budget)
        self._optimizer = make_optimizer(model, hyperparameters, options.device)
        self._epoch_loss = torch.zeros((), device=options.device)
        self._epoch_examples = 0
        self._state = TrainingState(
            model, self._optimizer, self._epoch_loss, self._num_steps, seed, self._stopping.scores
        )
        self._meter = Meter(
            options.device, options.progress_interval_seconds, self._num_steps, report
        )
        self._is_early = False

    def resume(self, start: Path | None) -> int:
        """Take over the state of an earlier training; returns the steps that it did."""
        if start is not None:
            self._state.load(start)
        self._schedule = make_schedule(
            self._optimizer, self._hyperparameters, self._num_steps, self._state.step
        )
        return self._state.step

    def skip(self, indices: list[int]) -> None:
        """Pass over a batch that the earlier training did."""
        self._begin_epoch_at(self._meter.step)
        self._epoch_examples += len(indices)
        self._meter.skip(len(indices))

    def step(self, indices: list[int]) -> None:
        """One optimizer step, and what is due after it."""
        if self._begin_epoch_at(self._state.step):
            self._epoch_loss.zero_()
        loss = self._passes.gradients(self._data, indices)
        nn.utils.clip_grad_norm_(self._model.parameters(), self._hyperparameters.max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._epoch_loss += loss * len(indices)
        self._epoch_examples += len(indices)
        self._state.step += 1
        before = self._meter.examples
        self._meter.count(len(indices), int(self._data.lengths[indices].sum()), loss)
        self._stop_early(before)
        self._meter.tell(is_last=self.is_over())

    def is_over(self) -> bool:
        """Whether no step is left to do."""
        return self._is_early or self._state.step == self._num_steps

    def save_if_due(self, saver: IntervalSaver) -> None:
        """Make a checkpoint, if it is time to; a loss that is not finite ends the training."""
        if saver.is_due():
            self._meter.check()
            saver.save(self._state)

    def interrupt(self, path: Path | None) -> NoReturn:
        """Save the state, if it is to be saved, and end."""
        self._meter.check()
        if path is not None:
            self._state.save(path)
        raise FinetuneInterrupted(path, self._state.step, self._num_steps)

    def outcome(self) -> TrainingOutcome:
        """What there is to tell once it is over, with a last validation."""
        loss = float(self._epoch_loss / self._epoch_examples)
        return TrainingOutcome(loss, self._num_steps, self._state.step, self._last_score())

    def _last_score(self) -> float | None:
        if self._validate is None:
            return None
        if self._is_early:  # the score that ended it is that of these parameters
            return self._stopping.scores[-1][1]
        return self._validate(self._passes)

    def _begin_epoch_at(self, step: int) -> bool:
        is_first = step % self._steps_per_epoch == 0
        if is_first:
            self._epoch_examples = 0
        return is_first

    def _stop_early(self, examples_before: int) -> None:
        total, examples = len(self._data) * self._hyperparameters.epochs, self._meter.examples
        if (
            self._validate is None
            or not self._stopping.can_matter(total)
            or not self._stopping.is_due(examples_before, examples)
            or self.is_over()
        ):
            return
        self._stopping.scores.append((examples, self._validate(self._passes)))
        self._is_early = self._stopping.should_stop()
