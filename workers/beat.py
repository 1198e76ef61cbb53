"""Beat: fires ``fuse`` and ``reconcile`` at their intervals; run exactly one.

``python -m workers.beat``. The schedule is kept in memory: its intervals are short, and a
restart fires late by one of them at most.
"""

from __future__ import annotations

from coldfusion_queue.queue.app import make_app
from workers.starting import prepare

__all__ = ["main"]


def main() -> None:
    """Run until told to stop."""
    settings = prepare()
    app = make_app(settings)
    beat = app.Beat(scheduler="celery.beat:Scheduler", loglevel=settings.log_level, quiet=True)
    beat.run()


if __name__ == "__main__":
    main()
