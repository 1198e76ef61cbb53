"""For how long a worker's device was free, in memory that the worker's processes share.

The processes count for how long they had it; this is the rest, and the two add up to the time that
passes. It is read by the worker's parent at any moment, also while the device is free for hours.
"""

from __future__ import annotations

import mmap
import os
import time

from coldfusion_queue.metrics.processes import is_alive

__all__ = ["DeviceTime"]

#: Seconds that are over; monotonic time since when it is free, or 0 while it is held; the process
#: that holds it; when that one said so last. Monotonic time is the same in all of them.
_FREE, _FREE_SINCE, _HOLDER, _HELD_AT = range(4)
_BYTES = 8  # of a double


class DeviceTime:
    """Made before the pool forks; who writes has the device, so writers need no lock."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, 4 * _BYTES)).cast("d")
        self._shared[_FREE_SINCE] = time.monotonic()
        self._last_answer = 0.0

    def taken(self, now: float) -> None:
        """This process has the device from now on."""
        since = self._shared[_FREE_SINCE] or self._shared[_HELD_AT]  # its last holder died
        self._shared[_HOLDER] = os.getpid()
        self._shared[_HELD_AT] = now
        # In this order a reader in between sees too little, which it makes up for, never too much.
        self._shared[_FREE_SINCE] = 0.0
        self._shared[_FREE] += max(0.0, now - since)

    def counted(self, now: float) -> None:
        """This process still has it, and has counted its time until now."""
        self._shared[_HELD_AT] = now

    def left(self, now: float) -> None:
        """This process gives it up."""
        self._shared[_FREE_SINCE] = now

    def idle_seconds(self) -> float:
        """For how long it was free until now; never less than before.

        What a process that died had not counted yet is not known to have been of use.
        """
        free, since = self._shared[_FREE], self._shared[_FREE_SINCE]
        if not since and not is_alive(int(self._shared[_HOLDER])):
            since = self._shared[_HELD_AT]
        if since:
            free += time.monotonic() - since
        self._last_answer = max(self._last_answer, free)
        return self._last_answer
