"""How the store is reached: TLS, time-outs, retries, and what its errors mean."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from pydantic import SecretStr
from urllib3.util import Retry, Timeout

from coldfusion_queue.errors import (
    AccessDeniedError,
    ColdFusionError,
    NotFoundError,
    SettingsError,
    StoreUnavailableError,
)
from coldfusion_queue.settings import Settings
from coldfusion_queue.store.clock import ClockedMinio
from coldfusion_queue.store.pool import CountedPool

__all__ = ["Place", "connect", "mapped_errors", "raise_for_code"]

_KEYS = "COLDFUSION_S3_ACCESS_KEY and COLDFUSION_S3_SECRET_KEY"
_DENIED = {
    "AccessDenied": _KEYS,
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "InvalidToken": "COLDFUSION_S3_SESSION_TOKEN",
    "ExpiredToken": "COLDFUSION_S3_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock",
    "AuthorizationHeaderMalformed": "COLDFUSION_S3_REGION",
}
#: As many as look into an inbox at once, and a few.
_MIN_CONNECTIONS = 20
_RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Place:
    """Endpoint and bucket, for messages."""

    endpoint: str
    bucket: str


def connect(
    settings: Settings, max_attempts: int | None = None
) -> tuple[ClockedMinio, CountedPool]:
    """Make a client and the HTTP pool it uses; nothing is sent yet.

    Args:
        settings: endpoint, credentials, TLS and time-outs.
        max_attempts: overrides ``s3_max_attempts``; interactive commands give up sooner.
    """
    # Not at the top: a worker says first where its metrics go.
    from coldfusion_queue.metrics.traffic import store_traffic

    attempts = max_attempts or settings.s3_max_attempts
    pool = CountedPool(
        store_traffic(settings.repository),
        # Every request of ours can be repeated: keys are unique to an attempt or conditional.
        Retry(
            total=attempts - 1,
            backoff_factor=0.2,
            backoff_max=20,
            backoff_jitter=0.2,
            status_forcelist=_RETRYABLE_STATUS,
            allowed_methods=None,
            raise_on_status=False,
            # A server may ask for hours; our own backoff is enough.
            respect_retry_after_header=False,
        ),
        # Connections that are kept open; of more threads some would connect anew each time.
        maxsize=max(_MIN_CONNECTIONS, 2 * settings.transfer_threads + 4),
        timeout=Timeout(
            connect=settings.s3_connect_timeout_seconds, read=settings.s3_read_timeout_seconds
        ),
        ssl_context=_ssl_context(settings),
    )
    client = ClockedMinio(
        settings.s3_endpoint.partition("://")[2],
        access_key=_secret(settings.s3_access_key),
        secret_key=_secret(settings.s3_secret_key),
        session_token=_secret(settings.s3_session_token),
        secure=settings.s3_endpoint.startswith("https://"),
        region=settings.s3_region,
        http_client=pool,
    )
    if settings.s3_addressing == "virtual":
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    elif settings.s3_addressing == "path":
        client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client, pool


@contextmanager
def mapped_errors(place: Place, operation: str, key: str) -> Iterator[None]:
    """Turn what the minio client or its HTTP pool raises into errors of ours."""
    try:
        yield
    except ColdFusionError:
        raise
    except S3Error as error:
        raise_for_code(place, operation, key, error.code or "unknown", error.message or "", error)
    except (ServerError, InvalidResponseError) as error:
        raise StoreUnavailableError(place.endpoint, operation, key, str(error)) from error
    except (MinioException, urllib3.exceptions.HTTPError, OSError, ParseError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a local file's error, not the store's
        raise StoreUnavailableError(place.endpoint, operation, key, _root_reason(error)) from error


def raise_for_code(
    place: Place, operation: str, key: str, code: str, message: str, cause: Exception | None
) -> NoReturn:
    """Raise the error that an S3 error code stands for."""
    if code == "NoSuchBucket":
        remedy = "create it, or run 'coldfusion init --create-bucket', or set COLDFUSION_S3_BUCKET"
        raise NotFoundError("bucket", place.bucket, remedy) from cause
    # NoSuchUpload is not among them: it is what a repeated request meets whose first answer was
    # lost, and the upload can be tried anew.
    if code == "NoSuchKey":
        remedy = "it was never written, or it was collected as garbage"
        raise NotFoundError("object", key, remedy) from cause
    if code in _DENIED:
        raise AccessDeniedError(f"object store {place.endpoint}", code, _DENIED[code]) from cause
    raise StoreUnavailableError(
        place.endpoint, operation, key, f"{code} {message}".strip()
    ) from cause


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.s3_endpoint.startswith("https://"):
        return None
    try:
        return ssl.create_default_context(
            cafile=str(settings.s3_ca_file) if settings.s3_ca_file else None
        )
    except (ssl.SSLError, OSError) as error:
        problem = f"  COLDFUSION_S3_CA_FILE: {settings.s3_ca_file} is no readable PEM file"
        raise SettingsError(f"{problem} ({error})") from error


def _root_reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    while isinstance(reason, BaseException):
        error, reason = reason, getattr(reason, "reason", None)
    text = str(reason or error)
    # urllib3 puts "HTTPConnection(host=...): " in front of the sentence.
    return re.sub(r"^\w+\([^)]*\): ", "", text) or type(error).__name__
