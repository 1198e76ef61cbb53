"""What a training tells of itself, at intervals, without waiting for its device at each step."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coldfusion_queue.errors import TrainingFailedError

__all__ = ["Meter", "Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    num_steps: int
    """Of the whole training, if it is not stopped early."""
    num_examples: int
    """Examples trained on so far, all epochs counted."""
    loss: float
    """Mean loss since the last report."""
    new_examples: int
    """Trained on since the last report."""
    new_tokens: int
    """In them, padding not counted."""
    examples_per_second: float
    tokens_per_second: float
    memory_bytes: int
    """Peak so far: of the device's memory, or on a CPU of the process's."""

    @property
    def seconds_left(self) -> float:
        """Until the end of the training, at the speed since the last report."""
        num_left = self.num_examples * (self.num_steps / max(1, self.step) - 1)
        return num_left / max(self.examples_per_second, 1e-6)


class Meter:
    """Counts steps and reports at intervals.

    Args:
        device: of the training.
        interval_seconds: from one report to the next.
        num_steps: of the whole training.
        report: called with the progress; what it raises ends the training.
    """

    def __init__(
        self,
        device: torch.device,
        interval_seconds: float,
        num_steps: int,
        report: Callable[[Progress], None],
    ) -> None:
        self._device = device
        self._interval_seconds = interval_seconds
        self._num_steps = num_steps
        self._report = report
        self._loss = torch.zeros((), device=device)
        self._last = time.monotonic()
        self._then = (0, 0, 0)
        if device.type == "cuda":  # the peak of this training, not of the one before
            torch.cuda.reset_peak_memory_stats(device)
        self.step = self.examples = self._tokens = 0

    def skip(self, num_examples: int) -> None:
        """Count a step that an earlier training did."""
        self.step += 1
        self.examples += num_examples
        self._then = (self.step, self.examples, 0)

    def count(self, num_examples: int, num_tokens: int, loss: Tensor) -> None:
        """Count a step; its mean loss stays on the device."""
        self.step += 1
        self.examples += num_examples
        self._tokens += num_tokens
        self._loss += loss

    def tell(self, *, is_last: bool) -> None:
        """Report, if it is time to.

        Raises:
            TrainingFailedError: see ``check``.
        """
        now = time.monotonic()
        if is_last or now - self._last >= self._interval_seconds:
            self._send(now)

    def check(self) -> float:
        """Mean loss since the last report, or 0 if there was no step.

        Raises:
            TrainingFailedError: it is NaN or infinite.
        """
        loss = float(self._loss) / max(1, self.step - self._then[0])
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
        new_examples = self.examples - self._then[1]
        new_tokens = self._tokens - self._then[2]
        self._report(
            Progress(
                step=self.step,
                num_steps=self._num_steps,
                num_examples=self.examples,
                loss=loss,
                new_examples=new_examples,
                new_tokens=new_tokens,
                examples_per_second=new_examples / seconds,
                tokens_per_second=new_tokens / seconds,
                memory_bytes=_memory_bytes(self._device),
            )
        )
        self._loss.zero_()
        self._last, self._then = now, (self.step, self.examples, self._tokens)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
