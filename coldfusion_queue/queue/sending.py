"""Putting turns on the queue, each of them once.

A hint in Redis says that a turn is queued or running. It shares the fate of the queue: when Redis
is lost both are gone, and ``reconcile`` sends the turn again from the bucket's records. Two tasks
of one turn do no harm, they end at one contribution.
"""

from __future__ import annotations

import redis
from celery import Celery

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.settings import Settings

__all__ = ["TurnSender"]

_SENDING_SECONDS = 30


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
            # Longer than the message can stay unacknowledged with a dead worker.
            self._client.set(key, "sent", ex=2 * self._settings.visibility_timeout_seconds)
        return True

    def done(self, submission_id: str, turn: int) -> None:
        """Forget a turn that has ended."""
        with broker_errors(self._settings):
            self._client.delete(self._keys.turn(contribution_id(submission_id, turn)))
