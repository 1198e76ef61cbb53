"""The processes of a finetune worker, which take turns at its one device.

While one of them trains, another one prepares the next turn, or uploads the last one. Each runs a
task of its own, with a message, a lease and an acknowledgement of its own; all that they share is
who has the device, and how soon it will be free.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from billiard.process import current_process

from coldfusion_queue.queue.device_time import DeviceTime

__all__ = ["DeviceWatch", "Slot", "Slots", "open_slots", "this_slot"]

#: What a process says of itself; any other number is the monotonic time at which its training is
#: expected to end, which means the same in all processes of a machine.
_IDLE = 0.0
_GAVE_UP = -1.0
_IN_LINE = math.inf

_BYTES = 8  # of a double


class Slots:
    """What the processes of one worker tell each other.

    Made by the worker's parent before its pool forks. Locks are ``flock``, which the kernel drops
    with the process that holds them.

    Args:
        directory: of this worker alone.
        number: of the pool's processes.
        ahead_seconds: see the setting ``prepare_ahead_seconds``.
    """

    def __init__(self, directory: Path, number: int, ahead_seconds: float) -> None:
        self.directory = directory
        self.ahead_seconds = ahead_seconds
        self.device_time = DeviceTime()
        # Anonymous shared memory. Each process writes one double of its own, so none needs a lock.
        self._states = memoryview(mmap.mmap(-1, _BYTES * number)).cast("d")

    def say(self, index: int, state: float) -> None:
        """Write what a process says of itself."""
        self._states[index] = state

    def wants_another(self, num_reserved: int) -> bool:
        """Whether to take one more turn now.

        Yes if nobody stands in line for the device, or if the only one who does has it and will
        leave it within ``ahead_seconds``. What is overdue by more is not believed any more.

        Args:
            num_reserved: messages that the worker has; the newest may not have begun yet.
        """
        states = list(self._states)
        num_turns = max(num_reserved, sum(state != _IDLE for state in states))
        num_in_line = num_turns - states.count(_GAVE_UP)
        now = time.monotonic()
        is_ending = any(state > 0 and abs(state - now) <= self.ahead_seconds for state in states)
        return num_in_line <= 0 or (num_in_line == 1 and is_ending)


class DeviceWatch(Protocol):
    """Who is told what a turn does with the device; the one that has it tells."""

    def taken(self) -> None:
        """It trains from now on."""

    def was_busy(self, seconds: float) -> None:
        """It had the device for so long since it said so last."""

    def left(self) -> None:
        """It trains no longer."""


class Slot:
    """One process's part in ``Slots``: the device of its turns.

    Args:
        slots: those of its worker; None is a process that shares nothing.
        index: its own number.
    """

    def __init__(self, slots: Slots | None = None, index: int = 0) -> None:
        self._slots = slots
        self._index = index
        self._watch: DeviceWatch | None = None
        self._lock: int | None = None
        self._counted = 0.0
        self._waiting_since: float | None = None
        self.is_held = False
        self._say(_IDLE)  # the process that had this number before may have died

    @contextmanager
    def turn(self, name: str, watch: DeviceWatch | None = None) -> Iterator[bool]:
        """Stand in line for the device until it is given up, by the end of the context at last.

        Args:
            name: of the turn.
            watch: told what it does with the device.

        Yields:
            Whether the turn is ours; False if another process of this worker is at it.
        """
        with self._claimed(name) as is_ours:
            if not is_ours:
                yield False
                return
            self._say(_IN_LINE)
            self._watch = watch
            self._waiting_since = None
            try:
                yield True
            finally:
                self.give_up()
                self._say(_IDLE)

    @contextmanager
    def _claimed(self, name: str) -> Iterator[bool]:
        # The lease cannot tell the processes of one worker apart: it is the worker's.
        if self._slots is None:
            yield True
            return
        path = self._slots.directory / f"{name}.turn"
        claim = _locked(path)
        if claim is None:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(claim)

    def take(self) -> bool:
        """See ``Device``."""
        if self.is_held:
            return True
        if self._slots is not None:
            self._lock = _locked(self._slots.directory / "device")
            if self._lock is None:
                self._waiting_since = self._waiting_since or time.monotonic()
                return False
        self.is_held = True
        self._counted = time.monotonic()
        if self._slots is not None:
            self._slots.device_time.taken(self._counted)
        if self._watch is not None:
            self._watch.taken()
        return True

    def is_in_vain(self) -> bool:
        """Whether it has waited for twice as long as was expected at most."""
        if self._slots is None or self._waiting_since is None:
            return False
        return time.monotonic() - self._waiting_since > 2 * self._slots.ahead_seconds

    def tell(self, seconds_left: float) -> None:
        """See ``Device``."""
        self._say(time.monotonic() + seconds_left)
        self._count()

    def give_up(self) -> None:
        """See ``Device``."""
        if not self.is_held:
            return
        self._count()
        if self._watch is not None:
            self._watch.left()
        if self._slots is not None:
            self._slots.device_time.left(self._counted)
        self._say(_GAVE_UP)
        self.is_held = False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _count(self) -> None:
        now = time.monotonic()
        if self._watch is not None:
            self._watch.was_busy(now - self._counted)
        if self._slots is not None:
            self._slots.device_time.counted(now)
        self._counted = now

    def _say(self, state: float) -> None:
        if self._slots is not None:
            self._slots.say(self._index, state)


#: Of this worker; its pool's processes inherit them.
_slots: Slots | None = None


def open_slots(directory: Path, number: int, ahead_seconds: float) -> Slots:
    """Make the slots of this worker; see ``Slots``. Call it before the pool forks."""
    global _slots
    _slots = Slots(directory, number, ahead_seconds)
    return _slots


def this_slot() -> Slot:
    """That of this process; see ``Slot``."""
    return Slot(_slots, getattr(current_process(), "index", 0))


def _locked(path: Path) -> int | None:
    """A descriptor that holds a file's lock until it is closed; None if another one does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
