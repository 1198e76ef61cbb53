"""An evaluation worker: one evaluation at a time on this machine's device.

``python -m workers.evaluation_worker [--name NAME]``
"""

from __future__ import annotations

import argparse

from coldfusion_queue.queue.app import EVALUATION_QUEUE
from workers.starting import prepare, run_worker

__all__ = ["main"]


def main() -> None:
    """Run until told to stop; see ``workers.starting.run_worker`` for signals."""
    parser = argparse.ArgumentParser(prog="workers.evaluation_worker", description=__doc__)
    parser.add_argument("--name", default="evaluation", help="unique on this host")
    arguments = parser.parse_args()
    settings = prepare()
    if settings.site is not None:
        raise SystemExit("a site runs finetune workers alone: unset COLDFUSION_SITE for this one")
    # It loads torch with its first evaluation: beside a repository without a gate it costs little.
    run_worker(settings, [EVALUATION_QUEUE], arguments.name)


if __name__ == "__main__":
    main()
