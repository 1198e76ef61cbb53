"""Putting turns on the queue, each of them once.

A hint in Redis says that a turn is queued or running. It shares the fate of the queue: when Redis
is lost both are gone, and ``reconcile`` sends the turn again from the bucket's records. Two tasks
of one turn do no harm, they end at one contribution.
"""

from __future__ import annotations

from enum import StrEnum

import redis
from celery import Celery

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import finetune_queue
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.hints import KEPT_SECONDS, MARK_UNLESS_ANOTHER_RUNS
from coldfusion_queue.queue.sites import note_site
from coldfusion_queue.settings import Settings

__all__ = ["Look", "TurnSender"]

#: A worker may have taken the message up, or even ended it, before we say that it was sent.
_MARK_SENT = """
if redis.call('GET', KEYS[1]) == 'sending' then
  redis.call('SET', KEYS[1], 'sent', 'EX', ARGV[1])
end
"""

#: A turn is sent again only when it was missing at two looks: after Redis was lost, workers have
#: the time between them to take their leases anew. The server's clock counts.
_CLAIM_MISSING = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[2])
  return 'about'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local since = redis.call('GET', KEYS[2])
if not since then
  redis.call('SET', KEYS[2], now, 'EX', 3600)
  return 'noted'
end
if now - since < tonumber(ARGV[1]) then
  return 'waiting'
end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], 'sending', 'PX', ARGV[2])
return 'sent'
"""


class Look(StrEnum):
    """What a look for a turn found, or did about it."""

    #: It is queued or running.
    ABOUT = "about"
    #: It is missing for the first time; that is noted.
    NOTED = "noted"
    #: It was missing a moment ago already.
    WAITING = "waiting"
    #: It was missing for long enough, and was sent.
    SENT = "sent"


class TurnSender:
    """Sends the turns of one repository's submissions.

    ``site`` is the submission's: its turns go to the queue that the workers of that site consume.
    """

    def __init__(
        self, app: Celery, client: redis.Redis, settings: Settings, repository: str
    ) -> None:
        self._app = app
        self._client = client
        self._settings = settings
        self._repository = repository
        self._keys = RedisKeys(repository)
        # A sender that dies before its message is sent holds the turn up no longer than a worker
        # that dies with it.
        self._sending_milliseconds = int(1000 * settings.lease_seconds / 3)
        self._mark_sent = client.register_script(_MARK_SENT)
        self._mark = client.register_script(MARK_UNLESS_ANOTHER_RUNS)
        self._claim_missing = client.register_script(_CLAIM_MISSING)

    def send(self, submission_id: str, turn: int, site: str | None = None) -> bool:
        """Enqueue a turn unless it is queued or running already.

        Idempotent: while the hint stands, nothing is sent.
        Writes: ``coldfusion:<repository>:turn:<contribution_id>``, one message on the queue of
        ``site``, which is that of the submission.

        Returns:
            Whether it was sent.

        Raises:
            BrokerUnavailableError: Redis does not answer; the bucket's records remain, and
                ``reconcile`` sends the turn later.
        """
        with broker_errors(self._settings):
            hint = self._keys.turn(contribution_id(submission_id, turn))
            if not self._client.set(hint, "sending", nx=True, px=self._sending_milliseconds):
                return False
            self._publish(submission_id, turn, site)
        return True

    def send_missing(self, submission_id: str, turn: int, site: str | None = None) -> Look:
        """Enqueue a turn that has been neither queued nor running for a sixth of the lease.

        Idempotent: the first call only notes that it is missing.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        name = contribution_id(submission_id, turn)
        patience_milliseconds = int(1000 * self._settings.lease_seconds / 6)
        with broker_errors(self._settings):
            keys = [self._keys.turn(name), self._keys.missing(name)]
            arguments = [patience_milliseconds, self._sending_milliseconds]
            look = Look(self._claim_missing(keys=keys, args=arguments))
            if look is Look.SENT:
                reach(CrashPoint.RECONCILE_FOUND)
                self._publish(submission_id, turn, site)
        return look

    def send_again(self, submission_id: str, turn: int, site: str | None = None) -> bool:
        """Enqueue a turn that this worker had in hand and gives back.

        Returns:
            Whether it was sent; False if another worker has it by now.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            hint = self._keys.turn(contribution_id(submission_id, turn))
            arguments: list[str | int] = ["sending", self._sending_milliseconds]
            if not self._mark(keys=[hint], args=arguments):  # its lease stands
                return False
            self._publish(submission_id, turn, site)
        return True

    def put_off(self, submission_id: str, turn: int, seconds: float) -> None:
        """Say that a turn waits for its retry; when the time is over ``reconcile`` sends it.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            hint = self._keys.turn(contribution_id(submission_id, turn))
            self._mark(keys=[hint], args=["waiting", int(1000 * seconds)])

    def count_retry(self, submission_id: str, turn: int) -> int:
        """Count one more retry of a turn, and answer how many there were with it.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        key = self._keys.retries(contribution_id(submission_id, turn))
        with broker_errors(self._settings), self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, KEPT_SECONDS)
            return int(pipeline.execute()[0])

    def forget_retries(self, submission_id: str, turn: int) -> None:
        """Begin to count anew, because the turn was given up or failed.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            self._client.delete(self._keys.retries(contribution_id(submission_id, turn)))

    def _publish(self, submission_id: str, turn: int, site: str | None) -> None:
        if site is not None:
            note_site(self._client, self._keys, site)
        reach(CrashPoint.SEND_HINTED)
        self._app.send_task(
            "coldfusion.finetune",
            args=(self._repository, submission_id, turn),
            queue=finetune_queue(site),
            retry=False,
        )
        reach(CrashPoint.SEND_SENT)
        hint = self._keys.turn(contribution_id(submission_id, turn))
        self._mark_sent(keys=[hint], args=[KEPT_SECONDS])
