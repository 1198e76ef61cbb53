"""Threads that go on with the work of whoever gave it to them: its ids in logs, its trace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["WorkThreads"]

P = ParamSpec("P")
T = TypeVar("T")


class WorkThreads(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` whose threads have the context variables of the caller.

    The library's own threads have none: what they log would have no ids, and each of their
    requests would be a trace by itself.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in one of the threads, with a copy of the caller's context."""
        return super().submit(copy_context().run, partial(fn, *args, **kwargs))
