"""A proxy before the real S3 server that makes trouble."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy(ThreadingHTTPServer):
    """Forwards to the real server, after one fault for each of the first requests.

    Faults: ``drop`` closes without an answer, ``lost`` forwards and then closes, ``cut`` ends the
    answer's body half-way, ``503`` and ``html`` answer by themselves, ``slow`` waits for half a
    second first, ``pass`` is none.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: list[str] = []
        self.methods: list[str] = []
        self.ignored_headers: set[str] = set()
        self.guard = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        with self.server.guard:
            fault = self.server.faults.pop(0) if self.server.faults else "pass"
            self.server.methods.append(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(0.5)
        if fault in {"503", "html"}:
            status, text = (503, b"") if fault == "503" else (403, b"<html>go away<br></html>")
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in self.server.ignored_headers
            }
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault == "lost":
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)
