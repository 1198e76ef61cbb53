"""Drives an experiment: all of its courses at once, on whatever workers there are."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis
from celery import Celery

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.experiment.arms import arms_of, datasets_of
from coldfusion_queue.experiment.course import Course
from coldfusion_queue.experiment.datasets import prepare_datasets
from coldfusion_queue.experiment.lab import Lab
from coldfusion_queue.experiment.spec import Experiment
from coldfusion_queue.intake.s3 import fetch_s3_with
from coldfusion_queue.queue.app import EVALUATION_QUEUE, FINETUNE_QUEUE, FUSION_QUEUE
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store

__all__ = ["check_workers", "run_experiment"]

_POLL_SECONDS = 0.5
_ANSWER_SECONDS = 2.0

#: Workers that were just started take so long to come up.
_START_SECONDS = 15.0


def run_experiment(
    experiment: Experiment,
    settings: Settings,
    app: Celery,
    client: redis.Redis,
    tell: Callable[[str], None],
) -> None:
    """Run an experiment to its end, or go on with it.

    Idempotent: what is in the bucket is not done again.
    Writes: repositories ``<experiment>-<arm>-s<seed>``.

    Args:
        experiment: what to run.
        settings: where store and broker are; device and threads of what is trained here.
        app: of the broker.
        client: of the same.
        tell: told each event, as one line.

    Raises:
        UsageError: datasets that cannot be taken; nothing was uploaded.
        ColdFusionError: see ``Course.steps``; begun again, it goes on.
    """
    arms = arms_of(experiment)
    names = tuple(dict.fromkeys(name for arm in arms for name in datasets_of(experiment, arm)))
    with tempfile.TemporaryDirectory(prefix="coldfusion-") as directory:
        data_dir, work_dir = Path(directory) / "data", Path(directory) / "work"
        work_dir.mkdir()
        datasets = prepare_datasets(experiment, names, data_dir, fetch_s3_with(settings), tell)
        lab = Lab(experiment, settings, Store.open(settings), app, client, datasets, work_dir, tell)
        try:
            _run([Course(lab, arm, seed) for seed in experiment.seeds for arm in arms])
        finally:
            lab.close()


def check_workers(app: Celery, settings: Settings) -> None:
    """Refuse to begin where nobody would take the work.

    Raises:
        NotFoundError: no worker answers that consumes one of the queues.
        BrokerUnavailableError: the broker does not answer.
    """
    end = time.monotonic() + _START_SECONDS
    while missing := _unserved(app, settings):
        if time.monotonic() > end:
            remedy = "run 'coldfusion up', start workers, or add --local"
            raise NotFoundError("worker of queue", ", ".join(missing), remedy)


def _unserved(app: Celery, settings: Settings) -> list[str]:
    """Queues that no worker consumes which answers."""
    with broker_errors(settings):
        answers = app.control.inspect(timeout=_ANSWER_SECONDS).active_queues() or {}
    served = {queue["name"] for queues in answers.values() for queue in queues}
    return [name for name in (FINETUNE_QUEUE, FUSION_QUEUE, EVALUATION_QUEUE) if name not in served]


def _run(courses: list[Course]) -> None:
    running = [course.steps() for course in courses]
    while running:
        # Each goes as far as it can without waiting.
        running = [steps for steps in running if next(steps, steps) is not steps]
        if running:
            time.sleep(_POLL_SECONDS)
