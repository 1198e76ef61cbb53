"""A collector of traces: takes OTLP over HTTP as any other does, and keeps what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["Collected", "Collector", "collecting"]


@dataclass(frozen=True)
class Collected:
    """One span."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    """Empty for the root of a trace."""
    links: frozenset[tuple[str, str]]
    """Trace and span of each."""
    attributes: dict[str, Any]
    is_error: bool


class Collector:
    """Where to send to, and all that came."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.raw = bytearray()
        self._spans: list[Collected] = []
        self._lock = threading.Lock()

    def take(self, body: bytes) -> None:
        """What the body of one request says."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.raw += body
            self._spans += _read(request)

    def spans(self, name: str | None = None, **ids: object) -> list[Collected]:
        """Those with a name and ids, as far as they have come."""
        wanted = {f"coldfusion.{key}": value for key, value in ids.items()}
        with self._lock:
            return [
                span
                for span in self._spans
                if name in {None, span.name} and wanted.items() <= span.attributes.items()
            ]


def _read(request: ExportTraceServiceRequest) -> Iterator[Collected]:
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Collected(
                service=service,
                name=span.name,
                trace=span.trace_id.hex(),
                span=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                links=frozenset((item.trace_id.hex(), item.span_id.hex()) for item in span.links),
                attributes=_values(span.attributes),
                is_error=span.status.code == span.status.STATUS_CODE_ERROR,
            )


def _values(attributes: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in attributes
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port, for the time of the context."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            server.shutdown()
