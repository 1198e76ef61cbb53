"""The long-running processes: finetune and fusion workers, beat and exporter.

Each is started as ``python -m workers.<name>`` and takes its settings from ``COLDFUSION_*``.
"""

from __future__ import annotations

import os
import signal
import sys

if sys.argv[:1] == ["-m"]:  # while Python looks for the module that it is told to run
    # Process 1 of a container does not hear a signal for which it has no handler. Until Celery has
    # one, after seconds, or minutes from a cold disk, a pod that is deleted would go on starting,
    # take a turn, and be killed in the middle of it. No exception: one that is raised while a lock
    # of the import system is collected is lost.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
