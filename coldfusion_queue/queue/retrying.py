"""What is tried again after an error that may pass, and when."""

from __future__ import annotations

import random

from coldfusion_queue.errors import DiskFullError, RetryableError

__all__ = ["RETRIED", "backoff_seconds"]

#: A full disk is this machine's; another worker may have room.
RETRIED = (RetryableError, DiskFullError)

_MAX_BACKOFF_SECONDS = 300.0


def backoff_seconds(retry: int) -> float:
    """How long to wait before a retry, from 1: twice as long each time, with jitter."""
    backoff = min(_MAX_BACKOFF_SECONDS, 2.0 ** (retry - 1))
    return backoff * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
