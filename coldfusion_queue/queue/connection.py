"""The Redis client for locks, hints and progress, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from kombu.exceptions import OperationalError

from coldfusion_queue.errors import AccessDeniedError, BrokerUnavailableError
from coldfusion_queue.settings import Settings, masked_url

__all__ = ["broker_errors", "connect_redis"]


def connect_redis(settings: Settings) -> redis.Redis:
    """Make a client; nothing is connected yet."""
    url = settings.broker_url.get_secret_value()
    options: dict[str, Any] = {
        "socket_connect_timeout": settings.broker_connect_timeout_seconds,
        "socket_timeout": settings.broker_connect_timeout_seconds,
        "health_check_interval": 25,
        "decode_responses": True,
    }
    if url.startswith("rediss://") and settings.broker_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.broker_ca_file)
    client: redis.Redis = redis.Redis.from_url(url, **options)
    return client


@contextmanager
def broker_errors(settings: Settings) -> Iterator[None]:
    """Turn what redis and kombu raise into errors of ours.

    Raises:
        AccessDeniedError: the password or user was refused.
        BrokerUnavailableError: anything else.
    """
    try:
        yield
    except (redis.RedisError, OperationalError, OSError) as error:
        url = masked_url(settings.broker_url)
        cause = error.__cause__ or error
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        denied = isinstance(error, redis.AuthenticationError) or any(
            mark in reason for mark in ("NOAUTH", "WRONGPASS", "NOPERM", "invalid username")
        )
        if denied:
            raise AccessDeniedError(f"broker {url}", reason, "COLDFUSION_BROKER_URL") from error
        raise BrokerUnavailableError(url, reason) from error
