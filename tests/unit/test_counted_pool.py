"""Requests that a gateway in front of the store sends elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest
from urllib3.util import Retry

from coldfusion_queue.metrics.traffic import StoreTraffic
from coldfusion_queue.store.pool import CountedPool


class Gateway(BaseHTTPRequestHandler):
    """Has objects below ``/b/`` alone, and says so; the second request fails."""

    num_asked = 0

    def do_GET(self) -> None:
        type(self).num_asked += 1
        body = b"abc" if self.path.startswith("/b/") else b""
        status = 307 if not body else 503 if self.num_asked == 2 else 200
        self.send_response(status)
        if not body:
            self.send_header("Location", f"/b{self.path}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Gateway.num_asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Told:
    """What a pool told of its requests."""

    def __init__(self) -> None:
        self.answered_by: list[str] = []
        self.num_retries = self.num_bytes = 0

    def answered(self, operation: str, seconds: float, num_bytes: int) -> None:
        self.answered_by.append(operation)

    def received(self, operation: str, num_bytes: int) -> None:
        self.num_bytes += num_bytes

    def retried(self, operation: str, times: int = 1) -> None:
        self.num_retries += times


def test_a_request_that_is_sent_elsewhere_is_one_request_and_no_retry(address: str) -> None:
    told = Told()
    retries = Retry(total=3, status_forcelist=[503], raise_on_status=False)

    with CountedPool(cast(StoreTraffic, told), retries) as pool:
        assert pool.urlopen("GET", f"{address}/object").data == b"abc"

    assert Gateway.num_asked == 3  # sent elsewhere, a failure there, an answer
    assert told.answered_by == ["read"]
    assert (told.num_bytes, told.num_retries) == (3, 1)
