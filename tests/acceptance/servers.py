"""Servers that misbehave: a slow way to the store, and a store that keeps no promise."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["SlowProxy", "promiseless_store", "slow_proxy"]

_PIECE_BYTES = 16 * 1024


class SlowProxy:
    """Passes bytes on to a server, each way at most so many a second and connection.

    Args:
        target: URL of the server.
        up: bytes a second to the server; None is unlimited.
        down: bytes a second from it.
    """

    def __init__(self, target: str, up: int | None, down: int | None) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._up, self._down = up, down
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.num_bytes_up = 0
        self.num_bytes_down = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # it is away: so are we, to this client
                    client.close()
                    continue
                self._sockets.append(server)
                self._run(self._pump, client, server, self._up, "num_bytes_up")
                self._run(self._pump, server, client, self._down, "num_bytes_down")

    def _pump(
        self, source: socket.socket, sink: socket.socket, rate: int | None, name: str
    ) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                sink.sendall(piece)
                setattr(self, name, getattr(self, name) + len(piece))
                if rate is not None:
                    time.sleep(len(piece) / rate)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break every connection."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def slow_proxy(
    target: str, *, up: int | None = None, down: int | None = None
) -> Iterator[SlowProxy]:
    """A proxy for the time of the context."""
    proxy = SlowProxy(target, up, down)
    try:
        yield proxy
    finally:
        proxy.close()


class _Promiseless(BaseHTTPRequestHandler):
    """Stores what it is given, ``If-None-Match`` or not, and answers 200."""

    server: _PromiselessServer
    server_version, sys_version = "Promiseless/1.0", ""

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.server.objects[self._key()] = self._body()
        self._answer(200)

    def do_HEAD(self) -> None:
        self._send_object()

    def do_GET(self) -> None:
        self._send_object()

    def do_POST(self) -> None:
        for key in re.findall("<Key>([^<]+)</Key>", self._body().decode()):
            bucket = self._key().partition("/")[0]
            self.server.objects.pop(f"{bucket}/{key}", None)
        self._answer(200, b"<DeleteResult/>")

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send_object(self) -> None:
        key = self._key()
        if "/" not in key:
            self._answer(200)
        elif key in self.server.objects:
            self._answer(200, self.server.objects[key])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Dec 2022 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _PromiselessServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Promiseless)
        self.objects: dict[str, bytes] = {}


@contextmanager
def promiseless_store() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An S3 server that ignores ``If-None-Match``: its URL, and what it holds by key."""
    with _PromiselessServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.objects
        finally:
            server.shutdown()
            thread.join()
