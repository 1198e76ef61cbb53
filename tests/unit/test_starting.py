"""What a worker does with its own directory."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

_HOLDER = """
import sys
from workers.starting import keep_from_cleaners

keep_from_cleaners(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_cleaner_that_wants_the_directory_for_itself_finds_it_locked_while_the_worker_lives(
    tmp_path: Path,
) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.communicate("", timeout=60)

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
