"""Requests through presigned URLs: what the minio client's own methods cannot send, or send slowly.

``put_object`` has no conditional headers, and over plain HTTP it digests every part a second time
to sign it. A presigned URL signs the request's head alone, through public API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import S3Error

from coldfusion_queue.store.clock import ClockedMinio

__all__ = ["SignedRequests", "code_and_message"]

_EXPIRES = timedelta(seconds=900)


@dataclass(frozen=True)
class SignedRequests:
    """Sends presigned requests to the objects of one bucket; may be shared between threads."""

    client: ClockedMinio
    pool: urllib3.PoolManager
    bucket: str

    def put(
        self,
        key: str,
        body: bytes | memoryview,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """PUT an object, or with a query a part of one; signed anew if the clock was wrong.

        Args:
            key: of the object.
            body: sent as it is, not copied; it must not change meanwhile.
            headers: sent beside it, not signed.
            query: parameters of the request, such as the number of a part.
        """

        def request() -> urllib3.BaseHTTPResponse:
            url = self.client.get_presigned_url(
                "PUT",
                self.bucket,
                key,
                expires=_EXPIRES,
                extra_query_params=None if query is None else dict(query),
            )
            return self.pool.urlopen("PUT", url, body=body, headers=headers)

        return self.client.clock.send(request)


def code_and_message(response: urllib3.BaseHTTPResponse) -> tuple[str, str]:
    """The S3 error code of an answer and what it says; the HTTP status if it is no S3 error."""
    try:
        error = S3Error.fromxml(response)
    except (ParseError, ValueError):  # a proxy's page, or nothing at all
        return str(response.status), response.reason or ""
    return error.code or str(response.status), error.message or ""
