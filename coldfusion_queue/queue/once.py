"""Putting a task on its queue once.

A hint in Redis says that it is queued or running. It shares the fate of the queue: when Redis
is lost both are gone, and ``reconcile`` sends the task again from the bucket's records. Two tasks
of one turn do no harm, they end at one contribution; so do two of one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import redis
from celery import Celery

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.hints import KEPT_SECONDS, MARK_UNLESS_ANOTHER_RUNS
from coldfusion_queue.settings import Settings

__all__ = ["Look", "OnceSender"]

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
if redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then
  return 'due'
end
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
    #: It was missing for long enough, and was sent: its message was lost, or never sent.
    SENT = "sent"
    #: The same, but it is known why: its retry is due, or its worker died.
    DUE = "due"

    @property
    def is_sent(self) -> bool:
        """Whether it was sent."""
        return self in {Look.SENT, Look.DUE}


class OnceSender:
    """What senders of one repository's tasks have in common.

    ``sending.TurnSender`` says what each method does. What a task is about has an id, its
    ``name``, under which the hint is. ``publish`` sends the message.
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

    def _send(self, name: str, publish: Callable[[], None]) -> bool:
        with broker_errors(self._settings):
            hint = self._keys.turn(name)
            if not self._client.set(hint, "sending", nx=True, px=self._sending_milliseconds):
                return False
            self._publish(name, publish)
        return True

    def _send_missing(self, name: str, publish: Callable[[], None]) -> Look:
        patience_milliseconds = int(1000 * self._settings.lease_seconds / 6)
        with broker_errors(self._settings):
            keys = [self._keys.turn(name), self._keys.missing(name)]
            keys += [self._keys.retries(name), self._keys.starts(name)]
            arguments = [patience_milliseconds, self._sending_milliseconds]
            look = Look(self._claim_missing(keys=keys, args=arguments))
            if look.is_sent:
                reach(CrashPoint.RECONCILE_FOUND)
                self._publish(name, publish)
        return look

    def _send_again(self, name: str, publish: Callable[[], None]) -> bool:
        with broker_errors(self._settings):
            arguments: list[str | int] = ["sending", self._sending_milliseconds]
            if not self._mark(keys=[self._keys.turn(name)], args=arguments):  # its lease stands
                return False
            self._publish(name, publish)
        return True

    def _put_off(self, name: str, seconds: float) -> None:
        with broker_errors(self._settings):
            self._mark(keys=[self._keys.turn(name)], args=["waiting", int(1000 * seconds)])

    def _count_retry(self, name: str) -> int:
        key = self._keys.retries(name)
        with broker_errors(self._settings), self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, KEPT_SECONDS)
            return int(pipeline.execute()[0])

    def _forget_retries(self, name: str) -> None:
        with broker_errors(self._settings):
            self._client.delete(self._keys.retries(name))

    def _publish(self, name: str, publish: Callable[[], None]) -> None:
        reach(CrashPoint.SEND_HINTED)
        publish()
        reach(CrashPoint.SEND_SENT)
        self._mark_sent(keys=[self._keys.turn(name)], args=[KEPT_SECONDS])
