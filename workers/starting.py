"""What every process does before it works: settings, logs, checks, metrics and probes."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.errors import ColdFusionError, DeviceLostError, NotFoundError, RetryableError
from coldfusion_queue.logs import configure_logs
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store, check_conditional_writes
from coldfusion_queue.tracing import check_tracing, start_tracing, stop_tracing

if TYPE_CHECKING:
    from coldfusion_queue.queue.slots import Slots
    from workers.health import Health

__all__ = ["check_broker", "check_store", "keep_from_cleaners", "prepare", "run_worker"]

log = logging.getLogger(__name__)

#: What takes seconds to load, and would take them from the training of another child's turn.
_FINETUNES_WITH = (
    "coldfusion_queue.finetune.run",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)

#: Celery kills a child that is not ready by then, and another one begins again; its default is 4.
#: Loading torch takes seconds from a fast disk, minutes from a cold one over a network.
_CHILD_READY_SECONDS = 600


def prepare() -> Settings:
    """Read the settings and configure the logs; wrong settings end the process."""
    try:
        settings = load_settings()
        check_tracing(settings)
    except ColdFusionError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    configure_logs(settings)
    return settings


def check_store(settings: Settings) -> None:
    """Refuse a store that ignores conditional writes; one that is not there yet may come.

    Raises:
        SystemExit: the store cannot be used; the exit code is the error's.
    """
    try:
        check_conditional_writes(Store.open(settings), f"{settings.repository}/")
    except (RetryableError, NotFoundError) as error:
        log.warning("store not checked: %s", error, extra={"event": "store_unchecked"})
    except ColdFusionError as error:
        log.error("%s", error, extra={"event": "store_refused"})
        raise SystemExit(error.exit_code) from None


def check_broker(settings: Settings) -> None:
    """Refuse a Redis Cluster, and wrong credentials; a broker that is not there yet may come.

    Raises:
        SystemExit: the broker cannot be used; the exit code is the error's.
    """
    from coldfusion_queue.queue import server

    try:
        server.check_broker(settings)
    except RetryableError as error:
        log.warning("broker not checked: %s", error, extra={"event": "broker_unchecked"})
    except ColdFusionError as error:
        log.error("%s", error, extra={"event": "broker_refused"})
        raise SystemExit(error.exit_code) from None


def run_worker(
    settings: Settings,
    queues: Sequence[str],
    name: str,
    num_children: int = 1,
    first_tasks: Sequence[str] = (),
    *,
    has_device: bool = False,
) -> None:
    """Look at broker and store, then run a Celery worker until it is told to stop.

    Args:
        settings: read by ``prepare``.
        queues: queues to consume.
        name: part of the worker's name, unique on its host.
        num_children: processes of its pool, each of which runs one task at a time.
        first_tasks: tasks of the repository to send when the worker is ready.
        has_device: its children take turns at one device; it consumes one queue then.

    Raises:
        SystemExit: see ``check_broker`` and ``check_store``.
    """
    with tempfile.TemporaryDirectory(prefix="coldfusion-worker-") as directory:
        keep_from_cleaners(directory)
        # The pool's children write their metrics there; read by the server in this process. The
        # library looks for it once, when it is imported, as it is by the first request.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        check_broker(settings)
        check_store(settings)
        from celery.signals import worker_process_init, worker_process_shutdown, worker_ready

        from coldfusion_queue.queue.app import FINETUNE_QUEUE, make_app
        from coldfusion_queue.queue.binding import bind_tasks
        from coldfusion_queue.queue.presence import announcing_step
        from coldfusion_queue.queue.process import this_process
        from coldfusion_queue.queue.reconnecting import mend_reconnecting
        from coldfusion_queue.queue.renewal import renewing_step
        from coldfusion_queue.queue.slots import open_slots
        from coldfusion_queue.queue.stopping import (
            log_what_celery_says,
            remember_this_worker,
            stop_gently_on_signals,
        )
        from coldfusion_queue.queue.taking import taking_step
        from workers.health import pulse_step

        remember_this_worker()
        mend_reconnecting()
        bind_tasks()
        log_what_celery_says()
        slots: Slots | None = None
        if has_device:
            slots = open_slots(Path(directory), num_children, settings.prepare_ahead_seconds)
        health = _serve(settings, Path(directory), slots)
        app = make_app(settings, FINETUNE_QUEUE if has_device else queues[0])
        app.conf.worker_proc_alive_timeout = _CHILD_READY_SECONDS
        app.steps["consumer"].add(renewing_step(settings))
        app.steps["consumer"].add(pulse_step(health))
        app.steps["consumer"].add(announcing_step(settings, queues[0]))
        if slots is not None:
            app.steps["consumer"].add(taking_step(slots, queues[0]))

        def child_ready(**_: object) -> None:
            # It says that it is idle, in the place of one that died.
            this_process().metrics.begin(settings.repository, queues[0])
            if has_device:
                _prepare_for_finetunes(settings)
            start_tracing(settings, f"coldfusion-{queues[0]}")

        def child_ends(**_: object) -> None:
            stop_tracing()

        def ready(**_: object) -> None:
            health.pulse()
            stop_gently_on_signals(settings.soft_shutdown_seconds, settings.drain_seconds)
            for task in first_tasks:
                app.send_task(task, args=(settings.repository,))

        worker_process_init.connect(child_ready, weak=False)
        worker_process_shutdown.connect(child_ends, weak=False)
        worker_ready.connect(ready, weak=False)
        app.worker_main(
            [
                "--quiet",  # its banner is no log record
                "worker",
                "--pool=prefork",
                f"--concurrency={num_children}",
                f"--queues={','.join(queues)}",
                f"--hostname={name}@%h",
                f"--loglevel={settings.log_level}",
                "--without-gossip",
                "--without-mingle",
                *(["--without-heartbeat"] if settings.site is not None else []),
            ]
        )


def _prepare_for_finetunes(settings: Settings) -> None:
    """Load what a finetune needs; a worker without its device ends before it takes a turn."""
    for name in _FINETUNES_WITH:
        import_module(name)
    from coldfusion_queue.finetune.device import pick_device
    from coldfusion_queue.queue.stopping import stop_this_worker

    try:
        pick_device(settings.device)
    except DeviceLostError as error:
        log.error("this worker ends: %s", error, extra={"event": "device_lost"})
        stop_this_worker()


def keep_from_cleaners(directory: str) -> None:
    """Hold a lock on a directory until this process ends: systemd-tmpfiles passes it over then.

    What no longer changes in it, as the file by whose lock the device is held, would go after ten
    days.
    """
    fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_SH)


def _serve(settings: Settings, directory: Path, slots: Slots | None) -> Health:
    # All that the server's threads will need is imported here: a fork must not find one of them in
    # the middle of an import.
    from prometheus_client import CollectorRegistry

    from coldfusion_queue.metrics.processes import DeviceCollector, ProcessesCollector
    from coldfusion_queue.queue.stopping import is_closing
    from workers.health import Health, broker_check, store_check
    from workers.serving import serve

    broker = broker_check(settings)
    health = Health(broker, [("broker", broker), ("store", store_check(settings))], is_closing)
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(directory))
    if slots is not None:
        idle_seconds = slots.device_time.idle_seconds
        registry.register(DeviceCollector(settings.repository, settings.site, idle_seconds))
    serve(settings, registry, health)
    return health
