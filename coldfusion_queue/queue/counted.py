"""A Redis client that counts its requests to the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError, NoScriptError

if TYPE_CHECKING:
    from coldfusion_queue.metrics.traffic import BrokerTraffic, Reason

__all__ = ["CountedRedis", "is_denied"]

#: One of these is in the reason if the credentials were refused.
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM", "invalid username", redis.AuthenticationError.__name__)


class CountedRedis(redis.Redis):
    """Counts what it asks; a pipeline is one request. ``traffic`` is set by who makes it."""

    traffic: BrokerTraffic

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See ``redis.Redis``."""
        with _counted(self.traffic):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """See ``redis.Redis``."""
        pipeline = _CountedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        pipeline.traffic = self.traffic
        return pipeline


class _CountedPipeline(Pipeline):
    traffic: BrokerTraffic

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """See ``redis.client.Pipeline``."""
        with _counted(self.traffic):
            answers: list[Any] = super().execute(raise_on_error)
            return answers


def is_denied(error: BaseException) -> bool:
    """Whether the broker refused the credentials, or a right that the user lacks."""
    # The lack of a right is told in a sentence of many forms, and by the class alone.
    if isinstance(error, redis.AuthenticationError | NoPermissionError):
        return True
    return any(mark in str(error) for mark in _DENIED)


@contextmanager
def _counted(traffic: BrokerTraffic) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    except (redis.RedisError, OSError) as error:
        if (reason := _reason(error)) is not None:
            traffic.failed(reason)
        raise
    traffic.answered(time.perf_counter() - started)


def _reason(error: Exception) -> Reason | None:
    if isinstance(error, NoScriptError):  # an answer: the client sends the script and asks again
        return None
    if is_denied(error):
        return "denied"
    is_away = isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)
    return "unreachable" if is_away else "failed"
