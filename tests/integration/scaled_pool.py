"""Workers of a cluster that take real messages, and end them in the time of a test's clock.

A message moves as it does for a real worker: with the transport options of its pool, from the list
of its queue to the hash of its pool. Nothing is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import Celery

from coldfusion_queue.queue.app import (
    FINETUNE_QUEUE,
    finetune_queue,
    make_app,
    unacked_index_key,
    unacked_key,
)
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.settings import Settings
from tests.integration.scaling import Autoscaler, Clock

__all__ = ["Pool", "Simulation", "Work", "Worker"]

#: Between the end of a training and its acknowledgement.
UPLOAD_SECONDS = 15

Turn = tuple[str, int]


@dataclass
class Work:
    """What there is to do: seconds of training that each turn needs still, and how it went."""

    sender: TurnSender
    seconds_left: dict[str, float] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)

    def submit(self, name: str, seconds: float, site: str | None = None) -> None:
        """Send a turn that takes so long."""
        self.seconds_left[name] = seconds
        assert self.sender.send(name, 1, site)


@dataclass
class _InHand:
    message: Any
    name: str
    trained_at: float


class Worker:
    """One pod: ready some time after it is made, with a connection and a channel of its own."""

    def __init__(self, app: Celery, ready_at: float) -> None:
        self._connection = app.connection_for_read()
        self.channel = self._connection.channel()
        self.ready_at = ready_at
        self.hand: list[_InHand] = []
        self.is_leaving = False

    def die(self) -> None:
        """Close without putting anything back, as after SIGKILL."""
        self.channel.qos.restore_at_shutdown = False
        self._connection.close()


class Pool:
    """A Deployment of finetune workers, whose number an autoscaler sets.

    Args:
        settings: of its workers.
        scaler: sets the number.
        scale_in: what a worker does that is taken away while it is busy: ``drain`` ends the turn
            first; else it goes back on the queue with what is done of it.
        start_seconds: from the decision for a worker until it takes turns, nodes included.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        work: Work,
        scaler: Autoscaler,
        *,
        scale_in: str = "zeroOnly",
        start_seconds: float = 90,
    ) -> None:
        self._app = make_app(settings)
        self._settings, self._clock, self._work, self._scaler = settings, clock, work, scaler
        self._scale_in, self._start_seconds = scale_in, start_seconds
        pool = settings.pool if settings.site is None else None
        self.unacked = unacked_key(FINETUNE_QUEUE, pool=pool, site=settings.site)
        self.queue = finetune_queue(settings.site)
        self._restored_at = clock.now
        self.workers: list[Worker] = []
        #: Turns that workers were at when they were chosen to go; how many replicas, at each step.
        self.taken_from: list[str] = []
        self.replicas: list[int] = []

    @property
    def num_replicas(self) -> int:
        return sum(not worker.is_leaving for worker in self.workers)

    def kill(self, worker: Worker) -> None:
        """End a worker at once; its Deployment makes another one."""
        worker.die()
        self.workers.remove(worker)
        self._add()

    def close(self) -> None:
        for worker in self.workers:
            worker.die()

    def go_on(self, client: redis.Redis) -> None:
        """End what is due, renew what is not, and put back what dead workers had."""
        for worker in self.workers[:]:
            for item in worker.hand[:]:
                if item.trained_at + UPLOAD_SECONDS <= self._clock.now:
                    item.message.ack()
                    worker.hand.remove(item)
                    self._work.done.append(item.name)
            if worker.is_leaving and not worker.hand:
                self._end(worker)
            for item in worker.hand:
                stamp = {item.message.delivery_tag: self._clock.now}
                client.zadd(unacked_index_key(self.unacked), stamp, xx=True)
        ready = [worker for worker in self.workers if worker.ready_at <= self._clock.now]
        if ready and self._clock.now >= self._restored_at + self._settings.lease_seconds / 6:
            self._restored_at = self._clock.now
            ready[0].channel.qos.restore_visible(interval=1)

    def wants(self, worker: Worker) -> bool:
        """Whether a worker takes one more turn, as in ``queue.slots``."""
        if worker.is_leaving or worker.ready_at > self._clock.now:
            return False
        in_line = [item for item in worker.hand if item.trained_at > self._clock.now]
        ahead = self._settings.prepare_ahead_seconds
        return not in_line or (
            len(in_line) == 1 and in_line[0].trained_at - self._clock.now <= ahead
        )

    def take(self, worker: Worker) -> None:
        message = self.queue(worker.channel).get(accept=["json"])
        if message is None:
            return
        _, name, _ = message.payload[0]
        begins = max([self._clock.now, *(item.trained_at for item in worker.hand)])
        worker.hand.append(_InHand(message, name, begins + self._work.seconds_left[name]))
        self._work.starts[name] += 1

    def scale(self) -> None:
        """Have the autoscaler look; whoever has most to do goes first, which is the worst case."""
        wanted = self._scaler.look(self.num_replicas)
        for _ in range(wanted - self.num_replicas):
            self._add()
        staying = [worker for worker in self.workers if not worker.is_leaving]
        staying.sort(key=lambda worker: max([0.0, *(item.trained_at for item in worker.hand)]))
        for worker in staying[wanted:]:
            self._stop(worker)
        self.replicas.append(wanted)

    def _add(self) -> None:
        self.workers.append(Worker(self._app, self._clock.now + self._start_seconds))

    def _stop(self, worker: Worker) -> None:
        self.taken_from += [item.name for item in worker.hand]
        first = 1 if self._scale_in == "drain" else 0
        for item in worker.hand[first:]:
            left = max(0.0, item.trained_at - self._clock.now)
            self._work.seconds_left[item.name] = min(left, self._work.seconds_left[item.name])
            item.message.requeue()
        worker.hand = worker.hand[:first]
        worker.is_leaving = True
        if not worker.hand:
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.die()
        self.workers.remove(worker)


@dataclass
class Simulation:
    """Pools that share a broker."""

    clock: Clock
    client: redis.Redis
    pools: Sequence[Pool]

    def run(
        self, seconds: float, *, step: float = 15, until: Callable[[], bool] = lambda: False
    ) -> bool:
        """Let time pass, at most until something is so; whether it is."""
        end = self.clock.now + seconds
        while self.clock.now < end and not until():
            self.clock.now += step
            for pool in self.pools:
                pool.go_on(self.client)
            self._take()
            for pool in self.pools:
                pool.scale()
        return until()

    def _take(self) -> None:
        # Idle ones first, those longest that have been there for longest: Redis serves in order.
        waiting = {pool.queue.name: self.client.llen(pool.queue.name) for pool in self.pools}
        everybody = [(pool, worker) for pool in self.pools for worker in pool.workers]
        everybody.sort(key=lambda pair: (len(pair[1].hand), pair[1].ready_at))
        for pool, worker in everybody:
            if waiting[pool.queue.name] > 0 and pool.wants(worker):
                pool.take(worker)
                waiting[pool.queue.name] -= 1
