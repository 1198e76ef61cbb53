"""What one fusion takes: wall time by its phases, and bytes; who counts it is told, or nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

__all__ = ["FusionMeter", "Phase"]

T = TypeVar("T")


class Phase(StrEnum):
    """What the thread that fuses is at. It reads ahead and uploads in others, and may wait."""

    ADMIT = "admit"
    """Looks at what is pending, inspects it and chooses."""
    READ = "read"
    """Opens models, or waits for their bytes."""
    COMPUTE = "compute"
    """Combines; if others help, does its own pieces and waits for theirs."""
    WRITE = "write"
    """Waits until the upload takes more, or ends."""
    PUBLISH = "publish"
    """Appends to the ledger, or leaves a candidate to the gate, and settles."""


class FusionMeter:
    """Divides a fusion's wall time into phases, one at any moment: they add up to the whole.

    Phases are of one thread; bytes are told by all of them.

    Args:
        on_read: told how many bytes were read of a model.
        on_written: told how many were written, when a file is complete.
    """

    def __init__(
        self,
        on_read: Callable[[int], None] = lambda num_bytes: None,
        on_written: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        self.on_read = on_read
        self.on_written = on_written
        self.has_begun = False
        """Whether there was anything to decide."""
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._phase = Phase.ADMIT
        self._since = time.perf_counter()

    def begin(self) -> None:
        """It is due."""
        self.has_begun = True

    def enter(self, phase: Phase) -> Phase:
        """Go over to a phase; returns the one before."""
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, phase, now
        return before

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """A phase for the time of the context; then the one before goes on."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def each(self, phase: Phase, items: Iterable[T]) -> Iterator[T]:
        """The items; making each is a phase, and what is done with it belongs to the caller's."""
        iterator = iter(items)
        while True:
            before = self.enter(phase)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.enter(before)
            yield item

    def seconds(self) -> Mapping[Phase, float]:
        """What each phase took until now."""
        self.enter(self._phase)
        return dict(self._seconds)
