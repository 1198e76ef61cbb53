"""A function in a process of its own: how long it took, and how its anonymous memory grew."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["Measured", "measure"]

_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Measured:
    """One call."""

    result: Any
    seconds: float
    cpu_seconds: float
    """Of the process, servers not included."""
    peak_growth_bytes: int
    """Peak of RssAnon over what it was when the call began, imports done; Linux only."""


def measure(function: Callable[..., Any], *arguments: object) -> Measured:
    """Call a function of a module in a fresh process; what it needs is imported with its module.

    Args:
        function: returns something small.
        *arguments: what it is called with.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        measured: Measured = ours.recv()
    finally:
        process.join()
    return measured


def _measure(
    answer: Connection, function: Callable[..., Any], arguments: tuple[object, ...]
) -> None:
    before = peak = _anonymous_bytes()
    stopped = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not stopped.wait(_SAMPLE_SECONDS):
            peak = max(peak, _anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        result = function(*arguments)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    finally:
        stopped.set()
        sampler.join()
    answer.send(Measured(result, seconds, cpu_seconds, peak - before))


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell RssAnon")
