"""Queue and clock of the model test: the real Redis, of which it is decided here what expires."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

import redis

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import FINETUNE_QUEUE, unacked_index_key, unacked_key
from coldfusion_queue.queue.hints import KEPT_SECONDS

__all__ = ["Broker", "Message"]

_HOUR = 3600
UNACKED = unacked_key(FINETUNE_QUEUE)
INDEX = unacked_index_key(UNACKED)


@dataclass(frozen=True)
class Message:
    """A message that asks for one turn, as it is on the queue."""

    text: str

    @property
    def arguments(self) -> tuple[str, str, int]:
        """Repository, submission and turn."""
        repository, submission_id, turn = json.loads(base64.b64decode(self._parsed["body"]))[0]
        return repository, submission_id, turn

    @property
    def turn_id(self) -> str:
        _, submission_id, turn = self.arguments
        return contribution_id(submission_id, turn)

    def request(self, worker: str) -> dict[str, Any]:
        """What Celery tells the task about it."""
        headers = self._parsed["headers"]
        known = {"id": headers["id"], "retries": headers["retries"]}
        return {**known, "hostname": worker, "called_directly": False}

    def as_taken(self) -> str:
        """As it is kept while a worker has it."""
        return json.dumps([self._parsed, FINETUNE_QUEUE, FINETUNE_QUEUE])

    @property
    def _parsed(self) -> dict[str, Any]:
        return dict(json.loads(self.text))


class Broker:
    """Messages of one repository, and the hints, leases and locks beside them."""

    def __init__(self, client: redis.Redis, repository: str) -> None:
        self._redis = client
        self._keys = RedisKeys(repository)
        self._taken: dict[str, Message] = {}

    def queued(self) -> list[Message]:
        """Messages on the queue, the oldest first."""
        return [Message(text) for text in self._redis.lrange(FINETUNE_QUEUE, 0, -1)[::-1]]

    def take(self, message: Message, tag: str) -> None:
        """A worker has a message now, which it may have had before."""
        self._redis.lrem(FINETUNE_QUEUE, 1, message.text)
        self._redis.hset(UNACKED, tag, message.as_taken())
        self._redis.zadd(INDEX, {tag: time.time()})  # hours pass, the clock does not: it is renewed
        self._taken[tag] = message

    def acknowledge(self, tag: str) -> None:
        """It is done with it."""
        self._redis.hdel(UNACKED, tag)
        self._redis.zrem(INDEX, tag)
        self._taken.pop(tag, None)

    def wipe(self) -> None:
        """Redis loses everything."""
        self._redis.flushdb()

    def end_lease(self, turn_id: str) -> None:
        """Nobody heard of its worker for too long."""
        self._redis.delete(self._keys.turn(turn_id))

    def pass_an_hour(self, tags: set[str], *, is_fusing: bool) -> None:
        """All expires that no process renews.

        Args:
            tags: of messages whose workers live.
            is_fusing: whether the holder of the fusion lock lives.
        """
        held = {message.turn_id for tag, message in self._taken.items() if tag in tags}
        for key in self._all(self._keys.turn("")):
            if self._redis.get(key) == "sent":
                self._redis.pexpire(key, 1000 * (KEPT_SECONDS - 2 * _HOUR))
            elif key.rpartition(":")[2] not in held:
                self._redis.delete(key)
        for key in self._all(self._keys.missing("")):
            since = int(self._redis.get(key) or 0)
            self._redis.set(key, since - 2000 * _HOUR, keepttl=True)
        if not is_fusing:
            self._redis.delete(self._keys.fusion_lock)
        for tag in self._taken.keys() - tags:
            message = self._taken.pop(tag)
            self._redis.zrem(INDEX, tag)
            if self._redis.hdel(UNACKED, tag):
                self._redis.rpush(FINETUNE_QUEUE, message.text)

    def _all(self, beginning: str) -> list[str]:
        return sorted(self._redis.scan_iter(f"{beginning}*"))
