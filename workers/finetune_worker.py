"""A finetune worker: one finetune at a time on this machine's device.

``python -m workers.finetune_worker [--name NAME] [--queues finetune]``
"""

from __future__ import annotations

import argparse

from coldfusion_queue.queue.app import FINETUNE_QUEUE
from workers.starting import check_store, prepare, run_worker

__all__ = ["main"]


def main() -> None:
    """Run until told to stop; see ``workers.starting.run_worker`` for signals."""
    parser = argparse.ArgumentParser(prog="workers.finetune_worker", description=__doc__)
    parser.add_argument("--name", default="finetune", help="unique on this host")
    parser.add_argument("--queues", default=FINETUNE_QUEUE, help="comma-separated")
    arguments = parser.parse_args()
    settings = prepare()
    check_store(settings)
    run_worker(settings, arguments.queues.split(","), arguments.name)


if __name__ == "__main__":
    main()
