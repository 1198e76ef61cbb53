"""Whether a process lives and can work, as the probes of an orchestrator ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import bootsteps
from kombu.asynchronous.timer import Entry

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["PULSE_SECONDS", "Check", "Health", "broker_check", "pulse_step", "store_check"]

#: How often an event loop shows that it turns, and for how long it may fail to.
PULSE_SECONDS = 5.0
_MAX_SILENCE_SECONDS = 60.0

#: For how long an answer about broker and store is given again: probes may come from several sides.
_KEPT_SECONDS = 3.0

_TIMEOUT_SECONDS = 2.0

#: Raises ``ColdFusionError`` if the process cannot work without what it looks at.
Check = Callable[[], None]


class Health:
    """The state of one process; asked from the threads of its HTTP server.

    Args:
        broker: raises if the broker does not answer.
        checks: what the process needs to be ready, by name.
        is_closing: whether it was told to stop.
    """

    def __init__(
        self,
        broker: Check,
        checks: Sequence[tuple[str, Check]],
        is_closing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._broker = broker
        self._checks = checks
        self._is_closing = is_closing
        self._last_pulse: float | None = None
        self._lock = threading.Lock()
        self._answer: tuple[float, list[str]] = (float("-inf"), [])

    def pulse(self) -> None:
        """Say that the loop of this process turns; the first time, that it has started."""
        self._last_pulse = time.monotonic()

    def why_not_started(self) -> list[str]:
        """What is missing until the process works for the first time; nothing if it does."""
        return [] if self._last_pulse is not None else ["it has not begun to work yet"]

    def why_not_alive(self) -> list[str]:
        """Why a new process would do better than this one; nothing if it lives.

        A long task says nothing of its worker, and neither does a broker that is away: no restart
        brings it back. A loop that stands still although the broker answers is a loop that hangs.
        """
        if self._last_pulse is None or self._is_closing():
            return []
        silence = time.monotonic() - self._last_pulse
        if silence <= _MAX_SILENCE_SECONDS or _problem(self._broker) is not None:
            return []
        return [f"its loop has stood still for {silence:.0f} s, and the broker answers"]

    def why_not_ready(self) -> list[str]:
        """What the process cannot do its work without; nothing if it can."""
        if self._is_closing():
            return ["it is told to stop"]
        if problems := self.why_not_started():
            return problems
        with self._lock:
            asked, problems = self._answer
            if time.monotonic() - asked > _KEPT_SECONDS:
                found = [(name, _problem(check)) for name, check in self._checks]
                problems = [f"{name}: {text}" for name, text in found if text is not None]
                self._answer = (time.monotonic(), problems)
            return problems


def broker_check(settings: Settings) -> Check:
    """Whether the broker answers within two seconds."""
    quick = {"broker_connect_timeout_seconds": _TIMEOUT_SECONDS}
    client = connect_redis(settings.model_copy(update=quick))

    def check() -> None:
        with broker_errors(settings):
            client.ping()

    return check


def store_check(settings: Settings) -> Check:
    """Whether the repository is there, in a format that this version knows; with no retry."""
    quick = {
        "s3_connect_timeout_seconds": _TIMEOUT_SECONDS,
        "s3_read_timeout_seconds": _TIMEOUT_SECONDS,
    }
    own = settings.model_copy(update=quick)

    def check() -> None:
        Repository.open(own, attempts=1)

    return check


def pulse_step(health: Health) -> type[bootsteps.StartStopStep]:
    """A step of Celery's consumer by which its event loop shows that it turns."""

    class Pulse(bootsteps.StartStopStep):  # type: ignore[misc]
        """Beats from the loop itself: a thread would beat for a loop that hangs."""

        requires = ("celery.worker.consumer.tasks:Tasks",)
        _timer: Entry | None = None

        def start(self, consumer: Any) -> None:
            self.stop(consumer)
            self._timer = consumer.timer.call_repeatedly(PULSE_SECONDS, health.pulse)

        def stop(self, consumer: Any) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Pulse


def _problem(check: Check) -> str | None:
    try:
        check()
    except ColdFusionError as error:
        return str(error)
    return None
