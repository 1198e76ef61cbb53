"""Putting turns on the queue, each of them once.

A hint in Redis says that a turn is queued or running. It shares the fate of the queue: when Redis
is lost both are gone, and ``reconcile`` sends the turn again from the bucket's records. Two tasks
of one turn do no harm, they end at one contribution.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from celery import Celery

from coldfusion_queue.errors import BrokerUnavailableError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.settings import Settings

__all__ = ["TurnSender"]

#: A worker may have taken the message up, or even ended it, before we say that it was sent.
_MARK_SENT = """
if redis.call('GET', KEYS[1]) == 'sending' then
  redis.call('SET', KEYS[1], 'sent', 'EX', ARGV[1])
end
"""

_SENDING_SECONDS = 30
_RUNNING_SECONDS = 60


class TurnSender:
    """Sends the turns of one repository's submissions."""

    def __init__(
        self, app: Celery, client: redis.Redis, settings: Settings, repository: str
    ) -> None:
        self._app = app
        self._client = client
        self._settings = settings
        self._repository = repository
        self._keys = RedisKeys(repository)
        self._mark_sent = client.register_script(_MARK_SENT)

    def send(self, submission_id: str, turn: int) -> bool:
        """Enqueue a turn unless it is queued or running already.

        Idempotent: while the hint stands, nothing is sent.
        Writes: ``coldfusion:<repository>:turn:<contribution_id>``, one message on ``finetune``.

        Returns:
            Whether it was sent.

        Raises:
            BrokerUnavailableError: Redis does not answer; the bucket's records remain, and
                ``reconcile`` sends the turn later.
        """
        key = self._keys.turn(contribution_id(submission_id, turn))
        with broker_errors(self._settings):
            if not self._client.set(key, "sending", nx=True, ex=_SENDING_SECONDS):
                return False
            self._app.send_task(
                "coldfusion.finetune",
                args=(self._repository, submission_id, turn),
                retry=False,
            )
            self._mark_sent(keys=[key], args=[self._sent_seconds])
        return True

    @contextmanager
    def running(self, submission_id: str, turn: int) -> Iterator[None]:
        """Keep a turn's hint alive while it runs, and drop it afterwards.

        A worker that dies stops renewing it, and within a minute ``reconcile`` may send the turn
        again. One that is told to stop puts its task back on the queue, so the hint says that. A
        Redis that is away meanwhile stops nothing.
        """
        key = self._keys.turn(contribution_id(submission_id, turn))
        stop = threading.Event()

        def renew() -> None:
            with suppress(redis.RedisError):
                self._client.set(key, "running", ex=_RUNNING_SECONDS)
            while not stop.wait(_RUNNING_SECONDS / 3):
                with suppress(redis.RedisError):
                    self._client.set(key, "running", ex=_RUNNING_SECONDS)

        renewer = threading.Thread(target=renew, daemon=True)
        renewer.start()
        is_over = True
        try:
            yield
        except BaseException as error:
            is_over = isinstance(error, Exception)
            raise
        finally:
            stop.set()
            renewer.join()
            with suppress(redis.RedisError, BrokerUnavailableError):
                if is_over:
                    self._client.delete(key)
                else:
                    self.keep(submission_id, turn)

    def keep(self, submission_id: str, turn: int) -> None:
        """Say that a turn is queued: it waits for its retry."""
        with broker_errors(self._settings):
            self._client.set(
                self._keys.turn(contribution_id(submission_id, turn)), "sent", ex=self._sent_seconds
            )

    @property
    def _sent_seconds(self) -> int:
        # Longer than the message can stay unacknowledged with a dead worker.
        return 2 * self._settings.visibility_timeout_seconds
