"""Which sites turns were sent to, and the queues that they have."""

from __future__ import annotations

from typing import cast

import redis

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue.app import finetune_queue

__all__ = ["finetune_queues", "known_sites", "note_site"]


def note_site(client: redis.Redis, keys: RedisKeys, site: str) -> None:
    """Note a site before a turn is sent to it; idempotent, and lost with the queue itself."""
    client.sadd(keys.sites, site)


def known_sites(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """The sites that turns of a repository were sent to, in order."""
    return sorted(cast("set[str]", client.smembers(keys.sites)))


def finetune_queues(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """Names of the queues of a repository's turns: everybody's, then one for each site."""
    return [str(finetune_queue(site).name) for site in [None, *known_sites(client, keys)]]
