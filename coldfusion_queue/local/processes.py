"""Processes that outlive the command that starts them, and how to find them again.

A process is known by its pid and the time it was created, so that another one that got the same
pid later is neither taken for it nor killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coldfusion_queue.errors import MissingExtraError
from coldfusion_queue.records import Record

try:
    import psutil
except ImportError as error:
    raise MissingExtraError("the local stack", "psutil", "local") from error

__all__ = ["ProcessRecord", "is_running", "last_lines", "start", "stop"]

# The time of creation is counted from a boot time that follows corrections of the clock.
_CREATE_TIME_SECONDS = 5.0
_TAIL_BYTES = 16_384
_POLL_SECONDS = 0.05
_KILL_SECONDS = 10.0

# Replaces itself by the real command; the kernel kills it when its parent dies (Linux only).
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ProcessRecord(Record):
    """A started process."""

    name: str
    pid: int
    create_time: float
    """Seconds since the epoch, as psutil tells it."""
    command: tuple[str, ...]
    log: str
    """Path of the file that holds what it printed."""


def start(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    *,
    die_with_parent: bool = False,
) -> ProcessRecord:
    """Start a process in a session of its own; Ctrl-C in our terminal does not reach it.

    Args:
        name: what to call it.
        command: program, as an absolute path, and arguments.
        environment: its whole environment.
        directory: its working directory.
        log: file to which standard output and standard error are appended.
        die_with_parent: on Linux, have it killed when the calling thread ends, however it ends.
    """
    full = list(command)
    if die_with_parent and sys.platform == "linux":
        full = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            full,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    # From here on the record is the handle: Popen would complain about a child that it is not
    # asked to wait for. While it is a child of ours, _is_alive collects its exit status.
    process.returncode = 0
    try:
        create_time = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        create_time = time.time()
    return ProcessRecord(
        name=name,
        pid=process.pid,
        create_time=create_time,
        command=tuple(command),
        log=str(log),
    )


def is_running(record: ProcessRecord) -> bool:
    """Whether this very process still runs."""
    return _find(record) is not None


def stop(records: Iterable[ProcessRecord], grace_seconds: float) -> None:
    """Stop processes: SIGTERM to each, and after the grace SIGKILL to what is left of them.

    Children are killed with their parent's end, unless they ended before. Processes that do not
    run any more are passed over.

    Args:
        records: what to stop, all at the same time.
        grace_seconds: how long to wait for them; 0 kills at once.
    """
    doomed = [process for process in map(_find, records) if process is not None]
    offspring = _children(doomed)
    if grace_seconds > 0:
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _wait(doomed, grace_seconds)
    # Looked up again: what was started in the meantime, and what lost its parent.
    doomed += [*offspring, *_children(doomed)]
    for process in doomed:
        # psutil knows a process by its creation too: no other one that got its pid is killed.
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(doomed, _KILL_SECONDS)


def last_lines(log: Path, num_lines: int = 15) -> str:
    """The end of a log, for messages; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-num_lines:])


def _find(record: ProcessRecord) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.create_time) > _CREATE_TIME_SECONDS:
            return None
    except psutil.NoSuchProcess:
        return None
    return process if _is_alive(process) else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.is_running()
        # Its first thread has ended. A child of ours stays until somebody asks for its exit
        # status, which it has once all of its threads have ended; to reap another's child is for
        # its parent.
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(process.pid, os.WNOHANG)[0] == 0
        return process.num_threads() > 1
    except psutil.NoSuchProcess:  # or a zombie that tells nothing
        return False


def _children(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found += process.children(recursive=True)
    return found


def _wait(processes: Iterable[psutil.Process], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(map(_is_alive, processes)) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
