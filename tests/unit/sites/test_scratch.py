"""Scratch directories of private data are private and do not stay."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

from coldfusion_queue.sites.scratch import scratch_directory

_HOLD = """
import sys, time
from pathlib import Path
from coldfusion_queue.sites.scratch import scratch_directory
with scratch_directory(Path(sys.argv[1])) as path:
    (path / "train.parquet").write_text("a row")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_scratch_directory_is_its_owners_and_gone_at_the_end(tmp_path: Path) -> None:
    parent = tmp_path / "site" / "scratch"
    with scratch_directory(parent) as path, scratch_directory(parent) as another:
        assert path != another
        for directory in (parent, path, another):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (path / "train.parquet").touch()

    assert list(parent.iterdir()) == []


def test_what_a_killed_process_left_is_deleted_by_the_next_and_not_what_one_still_uses(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with scratch_directory(tmp_path):
            assert len(list(tmp_path.iterdir())) == 2
        (left,) = tmp_path.iterdir()

        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        assert (left / "train.parquet").exists()
        with scratch_directory(tmp_path) as path:
            assert list(tmp_path.iterdir()) == [path]
