"""A finetune worker: one finetune at a time on this machine's device.

``python -m workers.finetune_worker [--name NAME] [--site SITE]``
"""

from __future__ import annotations

import argparse
import os

from coldfusion_queue.queue.app import finetune_queue
from workers.starting import prepare, run_worker

__all__ = ["main"]


def main() -> None:
    """Run until told to stop; see ``workers.starting.run_worker`` for signals."""
    parser = argparse.ArgumentParser(prog="workers.finetune_worker", description=__doc__)
    parser.add_argument("--name", default="finetune", help="unique on this host")
    parser.add_argument("--site", help="serve this site alone; the same as COLDFUSION_SITE")
    arguments = parser.parse_args()
    if arguments.site is not None:  # the pool's children read the settings anew
        os.environ["COLDFUSION_SITE"] = arguments.site
    settings = prepare()
    # Two: one trains while the other prepares the next turn or uploads the last one.
    num_children = 2 if settings.prepare_ahead_seconds > 0 else 1
    queue = finetune_queue(settings.site).name
    run_worker(settings, [queue], arguments.name, num_children, has_device=True)


if __name__ == "__main__":
    main()
