"""Which values of settings can be taken together, and the form of the store's endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from coldfusion_queue.broker_url import is_sentinel

if TYPE_CHECKING:
    from coldfusion_queue.settings import Settings

__all__ = ["checked_endpoint", "contradictions"]


def checked_endpoint(value: str) -> str:
    """The URL of an S3 endpoint in its shortest form.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(value)
    if "@" in value or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("expected only scheme, host and port: no path, query or credentials")
    try:
        parts.port  # noqa: B018 - it is checked when it is asked for
        is_complete = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError(f"got {value!r}, expected a URL such as https://s3.example.org:9000")
    return f"{parts.scheme}://{parts.netloc}"


def contradictions(settings: Settings) -> Iterator[str]:
    """What is wrong with settings each of which can be taken by itself."""
    yield from _credentials(settings)
    yield from _times(settings)
    is_rounded = (
        "contribution_dtype" in settings.model_fields_set
        and settings.contribution_dtype != "float32"
    )
    if settings.contribution_form == "full" and is_rounded:
        yield (
            f"COLDFUSION_CONTRIBUTION_DTYPE is {settings.contribution_dtype}, expected float32 "
            "with COLDFUSION_CONTRIBUTION_FORM=full: a finetune changes parameters by less "
            "than rounding would, so that most of it would be lost; upload the delta"
        )
    if (settings.site is None) != (settings.site_data_dir is None):
        yield "COLDFUSION_SITE and COLDFUSION_SITE_DATA_DIR: give both or neither"
    if settings.site_data_dir is not None and not settings.site_data_dir.is_dir():
        yield f"COLDFUSION_SITE_DATA_DIR: no directory at {settings.site_data_dir}"
    for name in ("s3_ca_file", "broker_ca_file"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            yield f"COLDFUSION_{name.upper()}: no file at {path}"


def _credentials(settings: Settings) -> Iterator[str]:
    if (settings.s3_access_key is None) != (settings.s3_secret_key is None):
        yield "COLDFUSION_S3_ACCESS_KEY and COLDFUSION_S3_SECRET_KEY: give both or neither"
    if settings.broker_username is not None and settings.broker_password is None:
        yield "COLDFUSION_BROKER_USERNAME: give COLDFUSION_BROKER_PASSWORD as well"
    if is_sentinel(settings.broker_url.get_secret_value()):
        if settings.broker_sentinel_master is None:
            yield (
                "COLDFUSION_BROKER_SENTINEL_MASTER: expected the name by which the Sentinels of "
                "COLDFUSION_BROKER_URL know the server"
            )
        return
    for name in ("broker_sentinel_master", "broker_sentinel_password"):
        if getattr(settings, name) is not None:
            yield (
                f"COLDFUSION_{name.upper()} is for Sentinels: unset it, or give theirs as "
                "COLDFUSION_BROKER_URL (sentinel://host:port,host:port/db)"
            )


def _times(settings: Settings) -> Iterator[str]:
    if settings.reconcile_interval_seconds > settings.lease_seconds / 6:
        yield (
            f"COLDFUSION_RECONCILE_INTERVAL_SECONDS is {settings.reconcile_interval_seconds:g}, "
            f"expected at most a sixth of COLDFUSION_LEASE_SECONDS ({settings.lease_seconds}): "
            "a dead worker's turn would be queued again too late"
        )
    if settings.gc_grace_seconds < settings.finetune_time_limit_seconds + 60:
        yield (
            f"COLDFUSION_GC_GRACE_SECONDS is {settings.gc_grace_seconds}, expected at least 60 s "
            "more than COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS "
            f"({settings.finetune_time_limit_seconds}): what a finetune needs would be collected "
            "while it still runs"
        )
