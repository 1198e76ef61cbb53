"""What the broker says of itself; a Redis Cluster is refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import redis

from coldfusion_queue.broker_url import NO_CLUSTER, masked_url
from coldfusion_queue.errors import SettingsError
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.settings import Settings

__all__ = ["check_broker", "read_info", "refuse_cluster"]

log = logging.getLogger(__name__)


def read_info(client: redis.Redis) -> Mapping[str, Any] | None:
    """The server's answer to INFO; None if it may not be asked, which says nothing against it."""
    try:
        return cast("Mapping[str, Any]", client.info())
    except redis.AuthenticationError:
        raise
    except redis.ResponseError as error:  # an ACL, or a command that was renamed
        log.info("broker not asked: %s", error, extra={"event": "broker_unchecked"})
        return None


def refuse_cluster(settings: Settings, info: Mapping[str, Any]) -> None:
    """Refuse a server that is a node of a Redis Cluster, also of one with no other node.

    Raises:
        SettingsError: it is one.
    """
    if str(info.get("cluster_enabled", 0)) == "1":
        url = masked_url(settings.broker_url)
        raise SettingsError(f"  COLDFUSION_BROKER_URL: {url} is a cluster. {NO_CLUSTER}")


def check_broker(settings: Settings) -> None:
    """Connect, and refuse what cannot be the broker.

    Raises:
        AccessDeniedError: it refuses the credentials.
        BrokerUnavailableError: it does not answer.
        SettingsError: it is a Redis Cluster.
    """
    with broker_errors(settings), connect_redis(settings) as client:
        info = read_info(client)
    refuse_cluster(settings, info or {})
