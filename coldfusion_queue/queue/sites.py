"""Which sites turns were sent to and which pools workers are in, and what these have in Redis."""

from __future__ import annotations

from typing import cast

import redis

from coldfusion_queue.keys import POOLS, RedisKeys
from coldfusion_queue.queue.app import FINETUNE_QUEUE, finetune_queue, unacked_key

__all__ = ["finetune_queues", "known_pools", "known_sites", "note_site", "unacked_finetunes"]


def note_site(client: redis.Redis, keys: RedisKeys, site: str) -> None:
    """Note a site before a turn is sent to it; idempotent, and lost with the queue itself."""
    client.sadd(keys.sites, site)


def known_sites(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """The sites that turns of a repository were sent to, in order."""
    return sorted(cast("set[str]", client.smembers(keys.sites)))


def finetune_queues(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """Names of the queues of a repository's turns: everybody's, then one for each site."""
    return [str(finetune_queue(site).name) for site in [None, *known_sites(client, keys)]]


def known_pools(client: redis.Redis) -> list[str]:
    """The pools that finetune workers said that they are in (``presence``), in order."""
    return sorted(cast("set[str]", client.smembers(POOLS)))


def unacked_finetunes(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """Redis keys of the turns that workers have: of those in no pool, of each pool and site."""
    pools: list[str | None] = [None, *known_pools(client)]
    own = [unacked_key(FINETUNE_QUEUE, pool=pool) for pool in pools]
    return own + [unacked_key(FINETUNE_QUEUE, site=site) for site in known_sites(client, keys)]
