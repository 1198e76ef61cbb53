"""A worker that is told to stop, as two real processes: a parent that gets signals, and a child."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

#: Like a Celery worker: handlers of its own first, then ours before them, then a child.
_WORKER = """
import os, signal, sys, time
from coldfusion_queue.queue.stopping import is_stopping, stop_gently_on_signals

def celerys(number, frame):
    print("celery", signal.Signals(number).name, flush=True)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, celerys)
stop_gently_on_signals(float(sys.argv[1]))
child = os.fork()
if child == 0:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    print("child", is_stopping(), flush=True)
    while not is_stopping():
        time.sleep(0.01)
    print("child", is_stopping(), flush=True)
    os._exit(0)
end = time.monotonic() + 20
while time.monotonic() < end:
    time.sleep(0.05)
"""


@contextmanager
def worker(grace_seconds: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _WORKER, str(grace_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert line(process) == "child False"
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_child_of_a_worker_that_is_told_to_stop_sees_it_and_celery_hears_of_it(
    number: signal.Signals,
) -> None:
    with worker(60) as process:
        process.send_signal(number)

        assert {line(process), line(process)} == {"child True", f"celery {number.name}"}


def test_a_task_that_does_not_end_in_time_is_ended_by_celerys_cold_shutdown() -> None:
    with worker(0.2) as process:
        process.send_signal(signal.SIGTERM)

        told = [line(process) for _ in range(3)]
        assert told[-1] == "celery SIGQUIT"
        assert set(told) == {"child True", "celery SIGTERM", "celery SIGQUIT"}


def test_to_be_told_twice_neither_shortens_the_time_nor_ends_the_task_twice() -> None:
    grace_seconds = 2.0  # long enough for a loaded machine to tell the worker twice in it
    with worker(grace_seconds) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert {line(process), line(process)} == {"child True", "celery SIGTERM"}
        process.send_signal(signal.SIGTERM)

        assert line(process) == "celery SIGTERM"
        assert line(process) == "celery SIGQUIT"
        assert time.monotonic() - began >= grace_seconds
        time.sleep(grace_seconds)  # in which a second countdown would end
        process.kill()
        assert line(process) == ""


_CHILD_STOPS_ITS_WORKER = """
import os, signal, time
from coldfusion_queue.queue.stopping import *

stop_this_worker()  # in no worker: nothing happens
signal.signal(signal.SIGTERM, lambda *_: print("celery SIGTERM", flush=True))
remember_this_worker()
if os.fork() == 0:
    time.sleep(0.2)
    stop_this_worker()
    os._exit(0)
stop_gently_on_signals(60)  # as Celery has it: when the worker is ready, its pool is there
os.wait()
time.sleep(0.1)
print("over", flush=True)
"""


def test_a_child_can_end_its_worker_and_a_process_without_one_nothing() -> None:
    command = [sys.executable, "-c", _CHILD_STOPS_ITS_WORKER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines() == ["celery SIGTERM", "over"]
