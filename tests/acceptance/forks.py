"""Processes forked from one that has loaded torch: the same programs, up seconds sooner."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path

__all__ = ["forks", "run_command", "run_worker"]

#: What takes commands and workers their time: it is loaded once, and each is forked from there.
_PRELOADED = [
    *(
        "torch",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
    ),
    *("transformers.models.bert.modeling_bert", "pyarrow.parquet", "kombu.transport.redis"),
    *("coldfusion_queue.finetune.pretrained", "coldfusion_queue.queue.app", "rich.progress"),
    *("coldfusion_queue.repository.repository", "coldfusion_queue.intake.prepare"),
    *("coldfusion_queue.cli.main", "coldfusion_queue.local.processes", "pytest"),
    *("coldfusion_queue.finetune.run", "celery.apps.worker", "celery.worker.worker"),
]


@functools.cache
def forks() -> ForkServerContext:
    """The one of this test run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def run_worker(argv: list[str], environment: dict[str, str], directory: Path, log: Path) -> None:
    """What a forked worker does: ``python -m tests.faulty`` in a session of its own."""
    from tests.faulty import main

    os.setsid()
    if sys.platform == "linux":  # die with the process that we are forked from
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _become(environment, directory)
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    main(argv)


def run_command(
    argv: list[str], environment: dict[str, str], directory: Path, out: Path, err: Path
) -> None:
    """What a forked command does: its entry point, with faults in it if they are asked for."""
    _become(environment, directory)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.argv = argv
    from coldfusion_queue.cli.main import main
    from tests.faulty import prepare

    prepare()
    main()


def _become(environment: dict[str, str], directory: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    tempfile.tempdir = None
