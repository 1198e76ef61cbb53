"""What Redis says of a repository's turns and evaluations, and whether its queues bear that out.

An evaluation has a hint as a turn has, under its own id. The hint is ``sending``, ``sent``,
``waiting`` (for its retry) or ``running:<worker>``, which is that worker's lease (``leases``). It
may be wrong or gone at any time: it saves work.
"""

from __future__ import annotations

import base64
import json
from typing import cast

import redis

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id, is_contribution_id
from coldfusion_queue.queue.app import EVALUATION_QUEUE, unacked_index_key, unacked_key
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.sites import finetune_consumers, finetune_queues
from coldfusion_queue.settings import Settings

__all__ = ["KEPT_SECONDS", "MARK_UNLESS_ANOTHER_RUNS", "UNLESS_ANOTHER_RUNS", "TurnHints"]

#: For which Redis keeps hints and counts: only a bound on what nobody takes back, because
#: ``forget_lost`` finds a message that is lost much sooner.
KEPT_SECONDS = 7 * 24 * 3600

#: Begins scripts whose KEYS[1] is a hint and whose ARGV[1] is what it is to become: they answer 0
#: and change nothing while another worker runs the turn.
UNLESS_ANOTHER_RUNS = """
local hint = redis.call('GET', KEYS[1])
if hint and string.sub(hint, 1, 8) == 'running:' and hint ~= ARGV[1] then
  return 0
end
"""

#: Sets a hint for ARGV[2] milliseconds.
MARK_UNLESS_ANOTHER_RUNS = f"""{UNLESS_ANOTHER_RUNS}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_DROP_IF_SENT = """
if redis.call('GET', KEYS[1]) == 'sent' then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


class TurnHints:
    """Reads the hints of one repository's turns, and deletes those that are wrong."""

    def __init__(self, client: redis.Redis, settings: Settings, repository: str) -> None:
        self._client = client
        self._settings = settings
        self._repository = repository
        self._keys = RedisKeys(repository)
        self._drop_if_sent = client.register_script(_DROP_IF_SENT)

    def submissions(self) -> set[str]:
        """Submissions of which a turn is queued or running, as far as Redis knows.

        Writes: see ``about``.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        return {name.rpartition(".t")[0] for name in self.about() if is_contribution_id(name)}

    def about(self) -> set[str]:
        """Turns and evaluations that are queued or running, as far as Redis knows, by their ids.

        Writes: takes back that these were missing, which a look may have noted.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            names = set(self._values())
            if names:
                self._client.delete(*map(self._keys.missing, names))
        return names

    def forget_lost(self) -> list[str]:
        """Delete hints of turns whose message is neither queued nor with a worker.

        A message is lost when a worker dies between taking it off the queue and noting it as
        unacknowledged; and when it dies after that, and its pool has no worker any more that puts
        back what the dead ones had. One that a worker is about to note seems lost too: its hint
        goes, and comes back as a lease before ``TurnSender.send_missing`` has looked twice.

        Cost: one pass over the keys of the database; if a turn has waited for longer than a third
        of the lease, all queues of turns and all unacknowledged messages are read.

        Returns:
            Ids of the turns' contributions and of evaluations.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with broker_errors(self._settings):
            sent = [name for name, value in self._values().items() if value == "sent"]
            ages = zip(sent, self._ages_seconds(sent), strict=True)
            doubtful = {name for name, age in ages if age > self._settings.lease_seconds / 3}
            lost = doubtful - self._queued() if doubtful else set()
            return sorted(name for name in lost if self._drop_if_sent(keys=[self._keys.turn(name)]))

    def _values(self) -> dict[str, str]:
        """Value of each hint, by the id of what it is about."""
        start = self._keys.turn("")
        keys = [str(key) for key in self._client.scan_iter(f"{start}*", count=1000)]
        values = cast("list[str | None]", self._client.mget(keys) if keys else [])
        pairs = zip(keys, values, strict=True)
        return {key.removeprefix(start): value for key, value in pairs if value is not None}

    def _ages_seconds(self, names: list[str]) -> list[float]:
        """How long ago these were marked as sent."""
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.pttl(self._keys.turn(name))
            return [KEPT_SECONDS - remaining / 1000 for remaining in pipeline.execute()]

    def _queued(self) -> set[str]:
        """Ids of all that is on a queue or with a worker."""
        queues = [*finetune_queues(self._client, self._keys), EVALUATION_QUEUE]
        consumers = finetune_consumers(self._client, self._keys)
        hashes = [*(item.unacked for item in consumers), unacked_key(EVALUATION_QUEUE)]
        # A worker renews what it has, and puts back what one beside it had that died, all within
        # the lease. What is older is nobody's: its pool is gone.
        seconds, microseconds = self._client.time()
        since = seconds + microseconds / 1e6 - self._settings.lease_seconds
        # At one moment: a message that moves in between, either way, would be seen nowhere.
        with self._client.pipeline(transaction=True) as pipeline:
            for queue in queues:
                pipeline.lrange(queue, 0, -1)
            for unacked in hashes:
                pipeline.hgetall(unacked)
                pipeline.zrangebyscore(unacked_index_key(unacked), since, "+inf")
            found = pipeline.execute()
        messages = [json.loads(item) for waiting in found[: len(queues)] for item in waiting]
        taken = found[len(queues) :]
        for by_tag, renewed in zip(taken[::2], taken[1::2], strict=True):
            messages += [json.loads(by_tag[tag])[0] for tag in renewed if tag in by_tag]
        return {name for message in messages if (name := self._name_of(message)) is not None}

    def _name_of(self, message: dict[str, object]) -> str | None:
        headers = message.get("headers")
        task = headers.get("task") if isinstance(headers, dict) else None
        if task not in {"coldfusion.finetune", "coldfusion.evaluate"}:
            return None
        arguments = json.loads(base64.b64decode(str(message["body"])))[0]
        if arguments[:1] != [self._repository]:
            return None
        if task == "coldfusion.evaluate":
            return str(arguments[1])
        return contribution_id(*arguments[1:]) if len(arguments) == 3 else None
