"""Processes that are started, found again and stopped."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from coldfusion_queue.local.processes import ProcessRecord, is_running, last_lines, start, stop

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = (
    "import subprocess, sys; "
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(p.pid, flush=True); p.wait()"
)

Run = Callable[..., ProcessRecord]


@pytest.fixture
def run(tmp_path: Path, wait_until: Callable[..., object]) -> Iterator[Run]:
    """Starts a Python program; killed at the end."""
    records: list[ProcessRecord] = []

    def run_program(program: str, *, wait: bool = True) -> ProcessRecord:
        log = tmp_path / "logs" / f"{len(records)}.log"
        environment = {"PATH": os.environ["PATH"], "GREETING": "hello"}
        command = [sys.executable, "-c", program]
        record = start("sleeper", command, environment, tmp_path, log)
        records.append(record)
        if wait:
            wait_until(log.read_text, 10)
        return record

    yield run_program
    stop(records, 0)


def test_process_is_detached_and_writes_to_its_log(run: Run, tmp_path: Path) -> None:
    record = run(
        "import os, sys; print(os.getsid(0) == os.getpid(), os.getcwd(), os.environ['GREETING'],"
        "'HOME' in os.environ); print('to stderr', file=sys.stderr, flush=True);"
        "sys.stdin.read() == '' and sys.stdout.flush(); import time; time.sleep(600)"
    )
    text = Path(record.log).read_text()
    assert "to stderr\n" in text
    assert is_running(record)
    stop([record], 5)
    text = Path(record.log).read_text()
    assert f"True {tmp_path} hello False\n" in text


def test_log_of_the_last_start_is_kept(tmp_path: Path, wait_until: Callable[..., object]) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    record = start("p", [sys.executable, "-c", "print('after')"], {}, tmp_path, log)
    wait_until(lambda: not is_running(record), 10)
    assert log.read_text() == "before\nafter\n"


def test_record_survives_being_written(run: Run) -> None:
    record = run(SLEEP)
    again = ProcessRecord.from_bytes(record.to_bytes(), "file")
    assert is_running(again)
    stop([again], 5)
    assert not is_running(record)


def test_process_that_ended_leaves_no_zombie(run: Run, wait_until: Callable[..., object]) -> None:
    record = run("print('up')")
    wait_until(lambda: not is_running(record), 10)
    assert not psutil.pid_exists(record.pid)


def test_another_process_with_the_pid_is_neither_taken_for_it_nor_killed(run: Run) -> None:
    record = run(SLEEP)
    earlier = record.model_copy(update={"create_time": record.create_time - 60})
    assert not is_running(earlier)
    stop([earlier], 0)
    stop([earlier], 1)
    assert is_running(record)


def test_stop_lets_a_process_end_by_itself(run: Run) -> None:
    record = run(
        "import signal, sys, time\n"
        "def bye(*_):\n    print('bye', flush=True)\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, bye)\n" + SLEEP
    )
    stop([record], 10)
    assert not is_running(record)
    assert "bye" in Path(record.log).read_text()


def test_stop_kills_what_ignores_the_first_request(run: Run) -> None:
    stubborn, willing = run(STUBBORN), run(SLEEP)
    begin = time.monotonic()
    stop([stubborn, willing], 0.5)
    assert 0.5 <= time.monotonic() - begin < 5
    assert not is_running(stubborn)
    assert not is_running(willing)


@pytest.mark.parametrize("grace_seconds", [0, 5])
def test_stop_takes_children_along(
    run: Run, wait_until: Callable[..., object], grace_seconds: float
) -> None:
    record = run(PARENT)
    child = psutil.Process(int(Path(record.log).read_text()))
    stop([record], grace_seconds)
    assert not is_running(record)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5)


def test_stop_of_what_does_not_run_does_nothing(run: Run) -> None:
    record = run(SLEEP)
    os.kill(record.pid, signal.SIGKILL)
    stop([record], 5)
    stop([record], 5)
    stop([], 5)


def test_last_lines_of_a_long_log_and_of_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == ""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(100_000)) + b"\xff end\n\n")
    assert last_lines(log, 3) == "line 99998\nline 99999\n\ufffd end"
