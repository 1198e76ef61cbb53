"""Which sites turns were sent to and which pools workers are in, and what these have in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

from coldfusion_queue.keys import POOLS, RedisKeys
from coldfusion_queue.queue.app import FINETUNE_QUEUE, finetune_queue, unacked_key

__all__ = ["Consumers", "finetune_consumers", "finetune_queues", "known_sites", "note_site"]


@dataclass(frozen=True)
class Consumers:
    """Workers that take from one queue and note what they took in one place."""

    queue: str
    """The queue's name, which is its list's key too."""
    pool: str
    """The pool that they are in; empty if they are in none."""
    unacked: str
    """Redis key of the messages that they took and have not acknowledged."""


def note_site(client: redis.Redis, keys: RedisKeys, site: str) -> None:
    """Note a site before a turn is sent to it; idempotent, and lost with the queue itself."""
    client.sadd(keys.sites, site)


def known_sites(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """The sites that turns of a repository were sent to, in order."""
    return sorted(cast("set[str]", client.smembers(keys.sites)))


def finetune_queues(client: redis.Redis, keys: RedisKeys) -> list[str]:
    """Names of the queues of a repository's turns: everybody's, then one for each site."""
    return [str(finetune_queue(site).name) for site in [None, *known_sites(client, keys)]]


def finetune_consumers(client: redis.Redis, keys: RedisKeys) -> list[Consumers]:
    """The finetune workers that may have turns: those in no pool, of each pool, and of each site.

    A pool is known from its first worker on (``presence``), a site from its first turn on.
    """
    everybody = str(finetune_queue(None).name)
    pools = sorted(cast("set[str]", client.smembers(POOLS)))
    return [
        Consumers(everybody, "", unacked_key(FINETUNE_QUEUE)),
        *(Consumers(everybody, pool, unacked_key(FINETUNE_QUEUE, pool=pool)) for pool in pools),
        *(
            Consumers(str(finetune_queue(site).name), "", unacked_key(FINETUNE_QUEUE, site=site))
            for site in known_sites(client, keys)
        ),
    ]
