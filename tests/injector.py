"""Stops, delays, breaks or kills real processes at the protocol's named points.

A test arms a point by a file in a directory; a process that is run by ``tests.faulty`` looks there
whenever it reaches one. The file is claimed by a rename, so an armed point fires once, in one
process, however many reach it; ``every`` before the action leaves it armed.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

from coldfusion_queue.crash_points import CrashPoint, install

__all__ = ["InjectedError", "Injector"]

_POLL_SECONDS = 0.02


class InjectedError(Exception):
    """What an armed point raises."""


class Injector:
    """What is armed, and what was reached and has fired.

    Actions: ``kill`` is SIGKILL to the whole process group, as when a node loses power;
    ``kill-one`` to this process alone, as when memory runs out; ``raise TEXT``; ``delay SECONDS``;
    ``hold`` waits for ``release``; ``every ACTION`` fires until ``disarm``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("armed", "fired", "released"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self._log = directory / "reached.log"

    # --- the test's side ----------------------------------------------------------------------

    def arm(self, point: CrashPoint, action: str = "kill") -> None:
        """Make the next process that reaches the point do this."""
        part = self.directory / f"{point}.part"
        part.write_text(action, encoding="utf-8")
        part.replace(self.directory / "armed" / point)

    def disarm(self, point: CrashPoint | None = None) -> None:
        """Take back whatever has not fired, at one point or at all of them."""
        for path in (self.directory / "armed").glob("*" if point is None else point.value):
            path.unlink(missing_ok=True)

    def release(self, point: CrashPoint) -> None:
        """Let a held process go on."""
        (self.directory / "released" / point).touch()

    def fired(self, point: CrashPoint) -> int:
        """How often an armed point fired, whatever it did."""
        return len(list((self.directory / "fired").glob(f"{point}@*")))

    def killed(self, point: CrashPoint) -> int:
        """How often a process was killed at a point."""
        return len(list((self.directory / "fired").glob(f"{point}@kill*")))

    def reached(self) -> Counter[str]:
        """How often each point was reached, fired or not."""
        if not self._log.exists():
            return Counter()
        return Counter(self._log.read_text(encoding="utf-8").split())

    # --- the process's side -------------------------------------------------------------------

    def install(self) -> None:
        """Look at every point from now on, in this process and its children."""
        install(self._reached)

    def _reached(self, point: CrashPoint) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{point}\n")
        armed = self.directory / "armed" / point
        if not armed.exists():
            return
        try:
            action, _, argument = armed.read_text(encoding="utf-8").partition(" ")
            again = action == "every"
            if again:
                action, _, argument = argument.partition(" ")
            name = f"{point}@{action}-{os.getpid()}-{time.monotonic_ns()}"
            fired = self.directory / "fired" / name
            if again:
                fired.touch()
            else:
                armed.rename(fired)
        except FileNotFoundError:
            return  # another process was faster
        self._act(point, action, argument)

    def _act(self, point: CrashPoint, action: str, argument: str) -> None:
        if action == "kill":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        elif action == "kill-one":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "raise":
            raise InjectedError(argument or point)
        elif action == "delay":
            time.sleep(float(argument))
        elif action == "hold":
            released = self.directory / "released" / point
            while not released.exists():
                time.sleep(_POLL_SECONDS)
            released.unlink()
        else:
            raise AssertionError(action)
