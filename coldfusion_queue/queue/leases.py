"""One worker at a time finetunes a turn: a lease in Redis with a heartbeat.

The lease stands in the place of the hint that says a turn is queued (``hints``). It saves work
and no more: two workers at one turn end at one contribution. A Redis that loses it costs nothing
either, because the worker takes it anew at its next heartbeat.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import redis

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue.hints import KEPT_SECONDS, MARK_UNLESS_ANOTHER_RUNS, UNLESS_ANOTHER_RUNS

__all__ = ["Lease", "TurnLeases"]

#: A turn that another worker holds is left alone. The count of starts goes with the lease: it is
#: reset when a turn ends in order, so it counts the workers that died in it.
_ACQUIRE = f"""{UNLESS_ANOTHER_RUNS}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local starts = redis.call('INCR', KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return starts
"""

_GIVE_BACK = f"""{UNLESS_ANOTHER_RUNS}
if hint == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
redis.call('DEL', KEYS[2])
return 1
"""

#: The process is torn down because it was told to stop, which is no death. Its message goes back on
#: the queue: whoever gets it may start.
_HAND_ON = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], 'sent', 'EX', ARGV[2])
  redis.call('DEL', KEYS[2])
end
"""


@dataclass
class Lease:
    """What a worker knows of the lease that it asked for."""

    is_held: bool
    """Whether it is ours; another worker may take it when our heartbeat stops too long. What is
    lost once stays lost, also when the other worker has given it back."""
    starts: int
    """How often the turn was started since it last ended in order, this time included."""


class TurnLeases:
    """Leases of the turns of one repository.

    Args:
        client: where they live.
        keys: of the repository.
        holder: who asks; the same worker gets a lease of its own again, as after the death of its
            pool's child.
        lease_seconds: within which a dead worker's turn is queued again. The lease itself stands
            for a third of that and is renewed at a quarter of its time; the rest is for
            ``reconcile`` to look twice.
    """

    def __init__(
        self, client: redis.Redis, keys: RedisKeys, holder: str, lease_seconds: float
    ) -> None:
        self._client = client
        self._keys = keys
        self._holder = f"running:{holder}"
        self._milliseconds = int(1000 * lease_seconds / 3)
        self._acquire = client.register_script(_ACQUIRE)
        self._renew = client.register_script(MARK_UNLESS_ANOTHER_RUNS)
        self._give_back = client.register_script(_GIVE_BACK)
        self._hand_on = client.register_script(_HAND_ON)

    @contextmanager
    def hold(self, contribution_id: str) -> Iterator[Lease]:
        """Hold a turn's lease for the time of the context, if no other worker does.

        It is given back with an ending in order, errors included. A process that is torn down
        leaves the turn queued, because its message is put back. Without Redis every turn counts
        as held: the commit decides.
        """
        lease = self._ask(contribution_id)
        if not lease.is_held:
            yield lease
            return
        stop = threading.Event()
        renewer = threading.Thread(
            target=self._keep_renewing, args=(contribution_id, lease, stop), daemon=True
        )
        renewer.start()
        is_over = True
        try:
            yield lease
        except BaseException as error:
            is_over = isinstance(error, Exception)
            raise
        finally:
            stop.set()
            renewer.join()
            self._end(contribution_id, is_over)

    def renew(self, contribution_id: str, lease: Lease) -> None:
        """Renew a lease that is held, and note in it if it is another worker's by now.

        One that is gone, or whose turn is queued once more, is taken back.
        """
        arguments = [self._holder, str(self._milliseconds)]
        with suppress(redis.RedisError):
            if not self._renew(keys=self._names(contribution_id)[:1], args=arguments):
                lease.is_held = False

    def _ask(self, contribution_id: str) -> Lease:
        arguments = [self._holder, str(self._milliseconds), str(KEPT_SECONDS)]
        try:
            starts = int(self._acquire(keys=self._names(contribution_id), args=arguments))
        except redis.RedisError:
            return Lease(is_held=True, starts=1)
        return Lease(is_held=starts > 0, starts=starts)

    def _keep_renewing(self, contribution_id: str, lease: Lease, stop: threading.Event) -> None:
        while lease.is_held and not stop.wait(self._milliseconds / 4000):
            self.renew(contribution_id, lease)

    def _end(self, contribution_id: str, is_over: bool) -> None:
        keys = self._names(contribution_id)
        with suppress(redis.RedisError):
            script = self._give_back if is_over else self._hand_on
            script(keys=keys, args=[self._holder, str(KEPT_SECONDS)])

    def _names(self, contribution_id: str) -> list[str]:
        return [self._keys.turn(contribution_id), self._keys.starts(contribution_id)]
