"""Putting turns on the queue, each of them once.

A hint in Redis says that a turn is queued or running. It shares the fate of the queue: when Redis
is lost both are gone, and ``reconcile`` sends the turn again from the bucket's records. Two tasks
of one turn do no harm, they end at one contribution.
"""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from typing import cast

import redis
from celery import Celery

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import FINETUNE_QUEUE
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.leases import SENT_SECONDS
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

#: A turn that its worker gives back may be another's by now, whose lease stands.
_MARK_UNLESS_RUNNING = """
local hint = redis.call('GET', KEYS[1])
if hint and string.sub(hint, 1, 8) == 'running:' then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

#: A hint that is older than its message can be on its way is compared with the queue.
_DROP_IF_SENT = """
if redis.call('GET', KEYS[1]) == 'sent' then
  return redis.call('DEL', KEYS[1])
end
return 0
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
    """Sends the turns of one repository's submissions."""

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
        self._mark_unless_running = client.register_script(_MARK_UNLESS_RUNNING)
        self._claim_missing = client.register_script(_CLAIM_MISSING)
        self._drop_if_sent = client.register_script(_DROP_IF_SENT)

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
        with broker_errors(self._settings):
            hint = self._keys.turn(contribution_id(submission_id, turn))
            if not self._client.set(hint, "sending", nx=True, px=self._sending_milliseconds):
                return False
            self._publish(submission_id, turn)
        return True

    def send_missing(self, submission_id: str, turn: int) -> Look:
        """Enqueue a turn that has been neither queued nor running for a sixth of the lease.

        Idempotent: the first call only notes that it is missing.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        name = contribution_id(submission_id, turn)
        patience = int(1000 * self._settings.lease_seconds / 6)
        with broker_errors(self._settings):
            keys = [self._keys.turn(name), self._keys.missing(name)]
            arguments = [patience, self._sending_milliseconds]
            look = Look(self._claim_missing(keys=keys, args=arguments))
            if look is Look.SENT:
                reach(CrashPoint.RECONCILE_FOUND)
                self._publish(submission_id, turn)
        return look

    def send_again(self, submission_id: str, turn: int) -> bool:
        """Enqueue a turn that this worker had in hand and gives back.

        Returns:
            Whether it was sent; False if another worker has it by now.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            hint = self._keys.turn(contribution_id(submission_id, turn))
            arguments: list[str | int] = ["sending", self._sending_milliseconds]
            if not self._mark_unless_running(keys=[hint], args=arguments):
                return False
            self._publish(submission_id, turn)
        return True

    def put_off(self, submission_id: str, turn: int, seconds: float) -> None:
        """Say that a turn waits for its retry; when the time is over ``reconcile`` sends it.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            hint = self._keys.turn(contribution_id(submission_id, turn))
            self._mark_unless_running(keys=[hint], args=["waiting", int(1000 * seconds)])

    def count_retry(self, submission_id: str, turn: int) -> int:
        """Count one more retry of a turn, and answer how many there were with it.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        key = self._keys.retries(contribution_id(submission_id, turn))
        with broker_errors(self._settings), self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, SENT_SECONDS)
            return int(pipeline.execute()[0])

    def forget_retries(self, submission_id: str, turn: int) -> None:
        """Begin to count anew, because the turn was given up or failed.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            self._client.delete(self._keys.retries(contribution_id(submission_id, turn)))

    def hinted(self) -> set[str]:
        """Submissions of which a turn is queued or running, as far as Redis knows.

        Writes: takes back that these turns were missing, which a look may have noted.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            names = list(self._hints())
            if names:
                self._client.delete(*map(self._keys.missing, names))
        return {name.rpartition(".t")[0] for name in names}

    def forget_lost(self) -> list[str]:
        """Delete hints of turns whose message is neither queued nor with a worker.

        A message is lost when a worker dies between taking it off the queue and noting it as
        unacknowledged. One that a worker is about to note seems lost too: its hint goes, and comes
        back as a lease before ``send_missing`` has looked twice.

        Cost: one pass over the keys of the database; if a turn has waited for longer than a third
        of the lease, the whole queue and all unacknowledged messages are read.

        Returns:
            Contribution ids of the turns.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        youngest_doubtful = 1000 * (SENT_SECONDS - self._settings.lease_seconds / 3)
        with broker_errors(self._settings):
            sent = [name for name, value in self._hints().items() if value == "sent"]
            remaining = zip(sent, self._remaining_milliseconds(sent), strict=True)
            doubtful = {name for name, left in remaining if left < youngest_doubtful}
            lost = doubtful - self._queued() if doubtful else set()
            return sorted(name for name in lost if self._drop_if_sent(keys=[self._keys.turn(name)]))

    def _publish(self, submission_id: str, turn: int) -> None:
        reach(CrashPoint.SEND_HINTED)
        self._app.send_task(
            "coldfusion.finetune", args=(self._repository, submission_id, turn), retry=False
        )
        reach(CrashPoint.SEND_SENT)
        hint = self._keys.turn(contribution_id(submission_id, turn))
        self._mark_sent(keys=[hint], args=[SENT_SECONDS])

    def _hints(self) -> dict[str, str]:
        """Value of each hint, by contribution id."""
        start = self._keys.turn("")
        keys = [str(key) for key in self._client.scan_iter(f"{start}*", count=1000)]
        values = cast("list[str | None]", self._client.mget(keys) if keys else [])
        pairs = zip(keys, values, strict=True)
        return {key.removeprefix(start): value for key, value in pairs if value is not None}

    def _remaining_milliseconds(self, names: list[str]) -> list[int]:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.pttl(self._keys.turn(name))
            return pipeline.execute()

    def _queued(self) -> set[str]:
        """Contribution ids of all turns that are on the queue or with a worker."""
        # At one moment: a message that moves in between, either way, would be seen nowhere.
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.lrange(FINETUNE_QUEUE, 0, -1)
            pipeline.hvals("unacked")
            waiting, taken = cast("list[list[str]]", pipeline.execute())
        messages = [json.loads(item) for item in waiting]
        messages += [json.loads(item)[0] for item in taken]
        return {name for message in messages if (name := self._turn_of(message)) is not None}

    def _turn_of(self, message: dict[str, object]) -> str | None:
        headers = message.get("headers")
        if not isinstance(headers, dict) or headers.get("task") != "coldfusion.finetune":
            return None
        arguments = json.loads(base64.b64decode(str(message["body"])))[0]
        if len(arguments) != 3 or arguments[0] != self._repository:
            return None
        return contribution_id(arguments[1], arguments[2])
