"""What the queue library is told of the broker: its URL, its Sentinels and its certificate."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from coldfusion_queue.broker_url import SentinelUrl, is_sentinel, is_tls
from coldfusion_queue.settings import Settings

__all__ = ["library_url", "sentinel_connections", "sentinel_options", "ssl_options"]


def library_url(settings: Settings) -> str:
    """The broker's URL as kombu reads it; it holds the password."""
    url = settings.broker_url.get_secret_value()
    if is_sentinel(url):  # each by itself, and TLS is an option, not a scheme
        return ";".join(SentinelUrl.parse(url).each())
    if url.startswith("unix://"):
        parts = urlsplit(url)
        db = dict(parse_qsl(parts.query)).get("db", "0")
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={db}"
    return url


def ssl_options(settings: Settings) -> dict[str, Any] | None:
    """How the broker's certificate is verified; None if connections are not encrypted."""
    if not is_tls(settings.broker_url.get_secret_value()):
        return None
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if settings.broker_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.broker_ca_file)
    return options


def sentinel_options(settings: Settings) -> dict[str, Any]:
    """Further options of kombu's transport; none without Sentinel."""
    if not is_sentinel(settings.broker_url.get_secret_value()):
        return {}
    return {
        "master_name": settings.broker_sentinel_master,
        "sentinel_kwargs": sentinel_connections(settings),
        # A server that another one replaced may be a machine that is gone, and not say so: without
        # these a renewal would wait for its answer for as long as the kernel sends again, and a
        # worker for a message twice as long as the default interval, 25 s.
        "socket_timeout": settings.broker_connect_timeout_seconds,
        "health_check_interval": 5,
    }


def sentinel_connections(settings: Settings) -> dict[str, Any]:
    """Options of redis-py for the connections to the Sentinels themselves."""
    options: dict[str, Any] = {
        "socket_connect_timeout": settings.broker_connect_timeout_seconds,
        "socket_timeout": settings.broker_connect_timeout_seconds,
    }
    if settings.broker_sentinel_password is not None:
        options["password"] = settings.broker_sentinel_password.get_secret_value()
    encrypted = ssl_options(settings)
    return options if encrypted is None else {**options, "ssl": True, **encrypted}
