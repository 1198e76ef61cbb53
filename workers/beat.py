"""Beat: fires ``fuse``, ``reconcile`` and ``collect_garbage`` at their intervals; run one.

``python -m workers.beat``. The schedule is kept in memory: its intervals are short, and a
restart fires late by one of them at most.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.beating import BoundedScheduler
from workers.health import PULSE_SECONDS, Health, broker_check
from workers.serving import serve
from workers.starting import prepare

__all__ = ["main"]


def main() -> None:
    """Run until told to stop."""
    settings = prepare()
    broker = broker_check(settings)
    health = Health(broker, [("broker", broker)])
    serve(settings, REGISTRY, health)
    app = make_app(settings)
    # Between two looks at the schedule it sleeps, and shows nobody that it lives.
    app.conf.beat_max_loop_interval = PULSE_SECONDS

    class Scheduler(BoundedScheduler):
        """Shows that it lives whenever it has looked at the schedule."""

        def tick(self, *args: Any, **kwargs: Any) -> Any:
            """Send what is due."""
            waiting = super().tick(*args, **kwargs)
            health.pulse()
            return waiting

    app.Beat(scheduler=Scheduler, loglevel=settings.log_level, quiet=True).run()


if __name__ == "__main__":
    main()
