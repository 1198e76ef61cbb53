"""What the tasks of one worker process share; made after the fork."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import redis
from celery import current_app

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.metrics.fusions import FusionMetrics, fusion_metrics
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.hints import TurnHints
from coldfusion_queue.queue.leases import TurnLeases
from coldfusion_queue.queue.sending import EvaluationSender, TurnSender
from coldfusion_queue.queue.sharing import SharedCrew
from coldfusion_queue.queue.slots import Slot, this_slot
from coldfusion_queue.settings import Settings, load_settings

__all__ = ["Process", "this_process"]


@dataclass(frozen=True)
class Process:
    """Settings, Redis, metrics, and the device of its turns."""

    settings: Settings
    client: redis.Redis
    metrics: TaskMetrics
    slot: Slot = field(default_factory=Slot)
    fusions: FusionMetrics = field(default_factory=fusion_metrics)

    def sender(self, repository: str) -> TurnSender:
        """Sends turns of a repository."""
        return TurnSender(current_app, self.client, self.settings, repository)

    def evaluation_sender(self, repository: str) -> EvaluationSender:
        """Sends evaluations of a repository."""
        return EvaluationSender(current_app, self.client, self.settings, repository)

    def crew(self, repository: str) -> SharedCrew:
        """Does the work of a repository's fusions."""
        return SharedCrew(current_app, self.client, self.settings, repository)

    def hints(self, repository: str) -> TurnHints:
        """Hints of a repository's turns and evaluations."""
        return TurnHints(self.client, self.settings, repository)

    def leases(self, repository: str, holder: str) -> TurnLeases:
        """Leases of a repository's turns and evaluations."""
        keys = RedisKeys(repository)
        return TurnLeases(self.client, keys, holder, self.settings.lease_seconds)


@functools.cache
def this_process() -> Process:
    """The one of this process."""
    settings = load_settings()
    metrics = TaskMetrics(site=settings.site)
    return Process(settings, connect_redis(settings), metrics, this_slot())
