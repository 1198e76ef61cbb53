"""What a process serves: ``/metrics``, and ``/livez``, ``/readyz`` and ``/startupz`` for probes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, disable_created_metrics, make_wsgi_app

from coldfusion_queue.settings import Settings

if TYPE_CHECKING:
    from workers.health import Health

__all__ = ["serve"]


def serve(settings: Settings, registry: CollectorRegistry, health: Health) -> None:
    """Serve from a thread of this process until it ends; with port 0 nothing is served.

    Raises:
        OSError: the port is taken.
    """
    if settings.metrics_port == 0:
        return
    # When each series began, which nobody asks for, would be as many series again.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    host = settings.metrics_host
    server_class = _SixServer if ":" in host else _Server
    server = make_server(
        host,
        settings.metrics_port,
        _application(registry, health),
        server_class=server_class,
        handler_class=_SilentHandler,
    )
    threading.Thread(target=server.serve_forever, daemon=True, name="http").start()


def _application(registry: CollectorRegistry, health: Health) -> Callable[..., Iterable[bytes]]:
    metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)
    probes = {
        "/livez": health.why_not_alive,
        "/readyz": health.why_not_ready,
        "/startupz": health.why_not_started,
    }

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        ask = probes.get(environ["PATH_INFO"])
        if ask is None:
            return metrics(environ, start_response)
        problems = ask()
        status = "503 Service Unavailable" if problems else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return ["\n".join([*(problems or ["ok"]), ""]).encode()]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a probe does not wait for a scrape."""

    daemon_threads = True


class _SixServer(_Server):
    address_family = socket.AF_INET6


class _SilentHandler(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
