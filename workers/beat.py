"""Beat: fires ``fuse``, ``reconcile`` and ``collect_garbage`` at their intervals; run one.

``python -m workers.beat``. The schedule is kept in memory: its intervals are short, and a
restart fires late by one of them at most.
"""

from __future__ import annotations

from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.beating import BoundedScheduler
from workers.starting import prepare

__all__ = ["main"]


def main() -> None:
    """Run until told to stop."""
    settings = prepare()
    app = make_app(settings)
    beat = app.Beat(scheduler=BoundedScheduler, loglevel=settings.log_level, quiet=True)
    beat.run()


if __name__ == "__main__":
    main()
