"""Runs a module as ``python -m`` does, with an injector in it and perhaps a clock that is wrong.

``python -m tests.faulty MODULE ARGUMENT...``; the variables ``INJECTOR_DIRECTORY`` and
``CLOCK_OFFSET_SECONDS`` say what is wrong. The module's own code is what runs in production.
"""

from __future__ import annotations

import os
import runpy
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.injector import Injector

__all__ = ["main", "prepare"]


def prepare() -> None:
    """Install in this process what the environment asks for."""
    directory = os.environ.get("INJECTOR_DIRECTORY")
    if directory:
        Injector(Path(directory)).install()
    offset = float(os.environ.get("CLOCK_OFFSET_SECONDS", "0"))
    if offset:
        import time_machine

        time_machine.travel(datetime.now(UTC) + timedelta(seconds=offset), tick=True).start()


def main(argv: list[str]) -> None:
    """Prepare this process and run a module in it."""
    prepare()
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
