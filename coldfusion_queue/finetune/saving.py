"""Checkpoints at intervals, written and sent away beside the training that goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from coldfusion_queue.finetune.checkpoint import TrainingState
from coldfusion_queue.threads import WorkThreads

__all__ = ["IntervalSaver", "Keep"]

log = logging.getLogger(__name__)

#: Called with the file of a state, its step and the number of steps; it is deleted afterwards.
Keep = Callable[[Path, int, int], object]


class IntervalSaver:
    """Saves a training's state every so often, one state at a time.

    The training waits only while its tensors are copied, from a GPU into the machine's memory. A
    state that cannot be written or kept is logged and passed over: the training is worth more.

    Args:
        interval_seconds: from the beginning of one saving to the next; None saves never.
        directory: for the file, while it is needed.
        keep: sends a file away, in another thread; None saves never.
    """

    def __init__(self, interval_seconds: float | None, directory: Path, keep: Keep | None) -> None:
        self._interval_seconds = interval_seconds
        self._path = directory / "interval.safetensors"
        self._keep = keep
        self._begun = time.monotonic()
        self._thread = WorkThreads(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def is_due(self) -> bool:
        """Whether it is time to save, and the last state is on its way no more."""
        return (
            self._interval_seconds is not None
            and self._keep is not None
            and (self._running is None or self._running.done())
            and time.monotonic() - self._begun >= self._interval_seconds
        )

    def save(self, state: TrainingState) -> None:
        """Copy a state, and begin to write it and to send it away."""
        self._begun = time.monotonic()
        write = state.snapshot()
        self._running = self._thread.submit(self._save, write, state.step, state.num_steps)

    def close(self) -> None:
        """Wait for a state that is on its way; no other is begun."""
        self._thread.shutdown()

    def _save(self, write: Callable[[Path], None], step: int, num_steps: int) -> None:
        try:
            write(self._path)
            if self._keep is not None:
                self._keep(self._path, step, num_steps)
        except Exception as error:
            event = {"event": "checkpoint_lost", "step": step}
            log.warning("checkpoint not saved: %s", error, extra=event)
        finally:
            self._path.unlink(missing_ok=True)
