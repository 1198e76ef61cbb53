"""The HTTP pool through which every request to the store goes, and is counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util import Retry

if TYPE_CHECKING:
    from coldfusion_queue.metrics.traffic import Operation, Reason, StoreTraffic

__all__ = ["CountedPool"]

_DENIED = frozenset({401, 403})
#: There is no such object, or there is one although there should be none, or it ends before.
_ANSWERS = frozenset({404, 409, 412, 416})


class CountedPool(urllib3.PoolManager):
    """A pool that counts.

    Args:
        traffic: where.
        retries: of each request.
        options: see ``urllib3.PoolManager``.
    """

    def __init__(self, traffic: StoreTraffic, retries: Retry, **options: Any) -> None:
        super().__init__(retries=retries, **options)
        self.traffic = traffic
        self._max_retries = int(retries.total or 0)

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """See ``urllib3.PoolManager``; content that is not read here, the caller counts."""
        if _is_sent_elsewhere(options.get("retries")):  # a part of the request that is counted
            return super().urlopen(method, url, redirect, **options)
        operation = _operation(method, url, options.get("headers"))
        started = time.perf_counter()
        try:
            response = super().urlopen(method, url, redirect, **options)
        except (HTTPError, OSError) as error:
            if isinstance(error, MaxRetryError):
                self.traffic.retried(operation, self._max_retries)
            self.traffic.failed(operation, "unreachable")
            raise
        seconds = time.perf_counter() - started
        self.traffic.answered(operation, seconds, _num_bytes(options.get("body")))
        self.traffic.retried(operation, _num_retries(response.retries))
        if (reason := _problem(response.status)) is not None:
            self.traffic.failed(operation, reason)
        if options.get("preload_content", True):
            self.traffic.received(operation, len(response.data))
        return response


def _operation(method: str, url: str, headers: Any) -> Operation:
    # No value in a query has an equals sign of its own: they are encoded.
    query = url.partition("?")[2]
    if "uploadId=" in query or query.startswith("uploads"):
        return "upload"
    if method == "HEAD" or query.startswith("location"):
        return "look_up"
    if method == "GET":
        return "list" if "list-type=" in query else "read"
    if method == "PUT":
        return "create" if headers and "If-None-Match" in headers else "write"
    return "delete"


def _problem(status: int) -> Reason | None:
    """Why an answer is none; None if it is one."""
    if status < 400 or status in _ANSWERS:
        return None
    return "denied" if status in _DENIED else "failed"


def _is_sent_elsewhere(retries: object) -> bool:
    """Whether the pool itself asks, where an answer sent it: it hands on what it tried so far."""
    return isinstance(retries, Retry) and any(item.redirect_location for item in retries.history)


def _num_retries(retries: Retry | None) -> int:
    history = retries.history if retries else ()
    return sum(1 for item in history if not item.redirect_location)


def _num_bytes(body: bytes | memoryview | None) -> int:
    return memoryview(body).nbytes if body else 0
