"""The Redis client for locks, hints and progress, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from kombu.exceptions import OperationalError
from redis.sentinel import MasterNotFoundError, Sentinel

from coldfusion_queue.broker_url import SentinelUrl, is_sentinel, masked_url
from coldfusion_queue.errors import AccessDeniedError, BrokerUnavailableError
from coldfusion_queue.queue.broker import sentinel_connections, ssl_options
from coldfusion_queue.queue.counted import CountedRedis, is_denied
from coldfusion_queue.settings import Settings

__all__ = ["broker_errors", "connect_redis"]


def connect_redis(settings: Settings) -> redis.Redis:
    """Make a client; nothing is connected yet."""
    # Not at the top: a worker says first where its metrics go.
    from coldfusion_queue.metrics.traffic import broker_traffic

    client = _client(settings)
    client.traffic = broker_traffic(settings.repository)
    return client


def _client(settings: Settings) -> CountedRedis:
    url = settings.broker_url.get_secret_value()
    options: dict[str, Any] = {
        "socket_connect_timeout": settings.broker_connect_timeout_seconds,
        "socket_timeout": settings.broker_connect_timeout_seconds,
        "health_check_interval": 25,
        "decode_responses": True,
    }
    if is_sentinel(url):
        return _behind_sentinel(settings, SentinelUrl.parse(url), options)
    if url.startswith("rediss://") and settings.broker_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.broker_ca_file)
    client: CountedRedis = CountedRedis.from_url(url, **options)  # type: ignore[assignment]
    return client


def _behind_sentinel(settings: Settings, url: SentinelUrl, options: dict[str, Any]) -> CountedRedis:
    """A client that asks the Sentinels for the server whenever it connects."""
    encrypted = ssl_options(settings)
    if encrypted is not None:
        options = {**options, "ssl": True, **encrypted}
    sentinel = Sentinel(url.sentinels, sentinel_kwargs=sentinel_connections(settings))  # type: ignore[no-untyped-call]
    client: CountedRedis = sentinel.master_for(  # type: ignore[no-untyped-call]
        str(settings.broker_sentinel_master),
        redis_class=CountedRedis,
        username=url.username,
        password=url.password,
        db=url.db,
        **options,
    )
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
        reason = _reason(cause)
        if is_denied(error) or is_denied(cause):
            raise AccessDeniedError(f"broker {url}", reason, _credentials(settings)) from error
        raise BrokerUnavailableError(url, reason) from error


def _reason(cause: BaseException) -> str:
    text = str(cause)
    if isinstance(cause, MasterNotFoundError):
        # It shows each Sentinel's client with all of its options, and then what went wrong.
        failures = sorted(set(re.findall(r"\)> - (?:\w+:)?(\w+)", text)))
        if failures:
            return f"no Sentinel says where it is: {', '.join(failures)}"
        known = text.partition(" : ")[0].replace("No master found for", "no Sentinel knows of")
        return f"{known}, COLDFUSION_BROKER_SENTINEL_MASTER, that it is up"
    return next(iter(text.splitlines()), type(cause).__name__)


def _credentials(settings: Settings) -> str:
    """Names of the variables that hold the credentials."""
    names = ["COLDFUSION_BROKER_URL"]
    if settings.broker_username is not None:
        names = ["COLDFUSION_BROKER_USERNAME", "COLDFUSION_BROKER_PASSWORD"]
    elif settings.broker_password is not None:
        names = ["COLDFUSION_BROKER_PASSWORD"]
    if is_sentinel(settings.broker_url.get_secret_value()):
        names.append("COLDFUSION_BROKER_SENTINEL_PASSWORD")
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
