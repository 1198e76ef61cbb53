"""A large fusion is shared: other fusion workers do pieces of it while its own worker does others.

They are helpers and no more. What a helper did not finish, because it died, lost the store or was
never there, is done by the worker whose fusion it is, with the same bits. So no message is sent
twice and none is waited for: a piece counts when its result is in the bucket.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import redis
from celery import Celery

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import BrokerUnavailableError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.lock import single_flight
from coldfusion_queue.repository.fusion_job import Alone, FusionJob, Step
from coldfusion_queue.settings import Settings

__all__ = ["SharedCrew", "help_with"]

log = logging.getLogger(__name__)

#: Between two looks for results, when all pieces that are left are somebody's.
_POLL_SECONDS = 0.5


class SharedCrew:
    """See ``repository.fusion_job.Crew``: this worker, and helpers if the job is worth them."""

    def __init__(
        self, app: Celery, client: redis.Redis, settings: Settings, repository: str
    ) -> None:
        self._app = app
        self._client = client
        self._settings = settings
        self._repository = repository

    def share(self, job: FusionJob, number: int, step: Step) -> Sequence[bytes]:
        """See ``Crew.share``.

        Idempotent: see ``FusionJob.do``.
        Writes: ``fusions/<attempt>/``, messages on ``fusion``.
        """
        if not self._is_shared(job):
            return Alone().share(job, number, step)
        job.publish_plan()
        reach(CrashPoint.SHARE_PLANNED)
        self._call_helpers(job, number)
        pieces = _Pieces(self._client, self._settings, self._repository, job)
        results: dict[int, bytes] = {}
        while len(results) < job.num_files:
            num_before = len(results)
            # From the end, because the helpers begin with the first.
            for file in reversed(range(job.num_files)):
                result = None if file in results else pieces.take(number, step, file)
                if result is not None:
                    results[file] = result
            if len(results) == num_before:
                time.sleep(_POLL_SECONDS)
        return [results[file] for file in range(job.num_files)]

    def leave(self, job: FusionJob) -> None:
        """See ``Crew.leave``."""
        if self._is_shared(job):
            job.close()

    def _is_shared(self, job: FusionJob) -> bool:
        is_large = job.num_bytes >= self._settings.fusion_share_bytes
        return is_large and job.num_files > 1 and self._settings.fusion_helpers > 0

    def _call_helpers(self, job: FusionJob, number: int) -> None:
        arguments = (self._repository, job.attempt, number)
        try:
            with broker_errors(self._settings):
                for _ in range(min(self._settings.fusion_helpers, job.num_files - 1)):
                    self._app.send_task("coldfusion.help_fusion", args=arguments, retry=False)
        except BrokerUnavailableError as error:
            log.warning("no helpers: %s", error, extra={"event": "fusion_help_unavailable"})


def help_with(
    client: redis.Redis, settings: Settings, repository: str, job: FusionJob, number: int
) -> int:
    """Do the pieces of a step that nobody else does.

    Idempotent: see ``FusionJob.do``.

    Args:
        client: where pieces are leased.
        settings: how long.
        repository: name of the job's repository.
        job: the work.
        number: which step. The results of those before are in the bucket.

    Returns:
        How many pieces were done here.

    Raises:
        All that ``FusionJob.do`` does; the piece is left to the worker whose fusion it is.
    """
    step = job.find_step(number)
    pieces = _Pieces(client, settings, repository, job)
    for file in range(job.num_files):
        if step is None or job.is_over():
            break
        pieces.take(number, step, file)
    return pieces.num_done


class _Pieces:
    """The pieces of a job, each of which one worker at a time does."""

    def __init__(
        self, client: redis.Redis, settings: Settings, repository: str, job: FusionJob
    ) -> None:
        self._client = client
        self._lease_seconds = settings.fusion_lock_seconds
        self._keys = RedisKeys(repository)
        self._job = job
        self.num_done = 0
        """How many were done here."""

    def take(self, number: int, step: Step, file: int) -> bytes | None:
        """The result of a piece, done here unless somebody has; None while somebody is at it."""
        result = self._job.find(number, file)
        if result is not None:
            return result
        with self._lease(number, file) as is_free:
            # Whoever held it may have finished since we looked.
            result = self._job.find(number, file)
            if is_free and result is None:
                result = self._job.do(step, file)
                self._job.keep(number, file, result)
                self.num_done += 1
                reach(CrashPoint.SHARE_KEPT)
        return result

    @contextmanager
    def _lease(self, number: int, file: int) -> Iterator[bool]:
        """Yields whether nobody else does this piece; without Redis nobody does."""
        key = self._keys.piece(self._job.attempt, number, file)
        lease = single_flight(self._client, key, self._lease_seconds)
        with ExitStack() as stack:
            try:
                is_free = stack.enter_context(lease)
            except redis.RedisError:
                is_free = True
            yield is_free
