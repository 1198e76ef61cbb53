"""One fusion at a time: a leased lock in Redis.

It saves work, no more: two fusers at once are harmless, because one of them loses the ledger
entry. So a Redis that forgets the lock costs a fusion, not a model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from redis.exceptions import LockError

__all__ = ["single_flight"]


@contextmanager
def single_flight(client: redis.Redis, key: str, lease_seconds: float) -> Iterator[bool]:
    """Hold a lock for the time of the context, renewing its lease.

    Args:
        client: where the lock lives.
        key: its name.
        lease_seconds: after which a dead holder's lock is free again; renewed at a third of it.

    Yields:
        Whether the lock was free; False means that somebody else is at work.
    """
    lock = client.lock(key, timeout=lease_seconds, blocking=False, thread_local=False)
    if not lock.acquire():
        yield False
        return
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(lease_seconds / 3):
            with suppress(redis.RedisError):
                lock.extend(lease_seconds, replace_ttl=True)

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield True
    finally:
        stop.set()
        renewer.join()
        with suppress(LockError, redis.RedisError):
            lock.release()
