"""Processes of which one runs at a time, and each stops or dies at a named point.

Each is a thread that runs the real code. It hands control back when it ends, and it can be made to
pause or to crash when it reaches a ``CrashPoint``. So a test decides how several processes
interleave, and the same decisions lead to the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import pytest
import redis
import urllib3

from coldfusion_queue.crash_points import CrashPoint, install

__all__ = ["Actor", "Crashed", "Fate", "State", "current_actor", "interleaved"]

_HANG_SECONDS = 60.0

_here = threading.local()


class Crashed(BaseException):
    """Ends a process where it is; no handler of errors may take it for one."""


class State(Enum):
    """What became of a process since it was last told to go on."""

    #: It waits at a point, as if its machine slept.
    PAUSED = auto()
    #: It died at a point.
    CRASHED = auto()
    #: It did all that it had to do.
    ENDED = auto()


@dataclass(frozen=True)
class Fate:
    """What happens to a process when it reaches a point, if it does."""

    ending: State
    point: CrashPoint


class Actor:
    """One process.

    Args:
        name: for messages.
        act: what it does.
        observe: told of each point that it reaches, before it pauses or dies there.
        about: id of what it is about.
        training: what its finetune does, if it has one.
    """

    def __init__(
        self,
        name: str,
        act: Callable[[], object],
        observe: Callable[[Actor, CrashPoint], None],
        *,
        about: str = "",
        training: str = "trains",
    ) -> None:
        self.name = name
        self.about = about
        self.training = training
        self.state = State.PAUSED
        self.was_paused = False
        self.is_dead = False
        self.seen_at: dict[CrashPoint, int] = {}
        """When it reached a point, as the observer counts time."""
        self._act = act
        self._observe = observe
        self._fate: Fate | None = None
        self._error: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._handed_back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def go_on(self, fate: Fate | None = None) -> State:
        """Let it run until it ends or meets its fate; raises what it raised."""
        self._fate = fate
        self._go.release()
        assert self._handed_back.acquire(timeout=_HANG_SECONDS), f"{self.name} hangs"
        if self._error is not None:
            raise self._error
        return self.state

    def kill(self) -> None:
        """Let it die where it waits."""
        self.is_dead = True
        self.go_on()

    def reach(self, point: CrashPoint) -> None:
        """Called by the code that it runs."""
        try:
            self._observe(self, point)
        except Exception as error:  # not to be handled by the code under test
            self._error = error
            self._die()
        if self._fate is None or point is not self._fate.point:
            return
        if self._fate.ending is State.CRASHED:
            self._die()
        self.state, self.was_paused = State.PAUSED, True
        self._wait()

    def _run(self) -> None:
        _here.actor = self
        try:
            self._go.acquire()
            if self.is_dead:
                raise Crashed
            self._act()
            self.state = State.ENDED
        except Crashed:
            self.state = State.CRASHED
        except BaseException as error:
            self._error = error
        self._handed_back.release()

    def _wait(self) -> None:
        self._handed_back.release()
        self._go.acquire()
        if self.is_dead:
            raise Crashed

    def _die(self) -> None:
        self.is_dead = True
        raise Crashed


def current_actor() -> Actor | None:
    """The process that runs in this thread; None for the test's own thread."""
    return getattr(_here, "actor", None)


@contextmanager
def interleaved() -> Iterator[None]:
    """Within it actors are told of points, and a dead one reaches neither store nor Redis.

    Without the latter, what the code does in ``finally`` would run, as it does not at SIGKILL.
    """
    with pytest.MonkeyPatch.context() as patch:
        _cut_off(patch, urllib3.PoolManager, "urlopen")
        _cut_off(patch, redis.connection.AbstractConnection, "send_packed_command")
        install(_reached)
        try:
            yield
        finally:
            install(None)


def _reached(point: CrashPoint) -> None:
    actor = current_actor()
    if actor is not None:
        actor.reach(point)


def _cut_off(patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    send = getattr(owner, name)

    def send_if_alive(*args: Any, **kwargs: Any) -> Any:
        actor = current_actor()
        if actor is not None and actor.is_dead:
            raise Crashed
        return send(*args, **kwargs)

    patch.setattr(owner, name, send_if_alive)
