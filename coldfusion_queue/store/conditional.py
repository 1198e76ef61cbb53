"""Does a store honour ``If-None-Match: *``? Some ignore it, answer 200 and overwrite."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

from coldfusion_queue.errors import UnsupportedStoreError
from coldfusion_queue.store.client import Store

__all__ = ["check_conditional_writes"]

_NUM_RACERS = 8


def check_conditional_writes(store: Store, prefix: str) -> None:
    """Write twice in a row, then race; refuse a store where not exactly one writer wins.

    Args:
        store: the store to try.
        prefix: key prefix below which the trial objects are written, and deleted again.

    Raises:
        UnsupportedStoreError: a second writer overwrote the first, or several won a race.
    """
    keys = [f"{prefix}.probe-{secrets.token_hex(8)}" for _ in range(2)]
    try:
        store.create(keys[0], b"first")
        if store.create(keys[0], b"second"):
            raise _refusal(store, "a second conditional PUT of one key succeeded and overwrote it")
        with ThreadPoolExecutor(_NUM_RACERS) as racers:
            claims = [f"racer {n}".encode() for n in range(_NUM_RACERS)]
            winners = list(racers.map(lambda claim: store.create(keys[1], claim), claims))
        if sum(winners) != 1:
            raise _refusal(store, f"{sum(winners)} of {_NUM_RACERS} racing writers won")
    finally:
        store.delete(keys)


def _refusal(store: Store, evidence: str) -> UnsupportedStoreError:
    return UnsupportedStoreError(store.endpoint, store.server_name(), evidence)
