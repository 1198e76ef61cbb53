"""A fusion worker: fuses, settles, reconciles and collects garbage; needs no GPU and no torch.

``python -m workers.fusion_worker [--name NAME]``
"""

from __future__ import annotations

import argparse

from coldfusion_queue.queue.app import FUSION_QUEUE
from workers.starting import prepare, run_worker

__all__ = ["main"]

#: One each for a fusion, for garbage collection and for ``reconcile``: a turn whose worker died
#: does not wait for a fusion that takes an hour. Locks keep the first two single.
_NUM_CHILDREN = 3


def main() -> None:
    """Run until told to stop; see ``workers.starting.run_worker`` for signals."""
    parser = argparse.ArgumentParser(prog="workers.fusion_worker", description=__doc__)
    parser.add_argument("--name", default="fusion", help="unique on this host")
    arguments = parser.parse_args()
    settings = prepare()
    if settings.site is not None:
        raise SystemExit("a site runs finetune workers alone: unset COLDFUSION_SITE for this one")
    # Beat may be down, or its next reconcile some way off: what was lost is looked for now.
    first_tasks = ["coldfusion.reconcile"]
    run_worker(settings, [FUSION_QUEUE], arguments.name, _NUM_CHILDREN, first_tasks)


if __name__ == "__main__":
    main()
