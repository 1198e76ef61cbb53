"""Signatures by the store's clock, when the store says that this machine's is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from minio import Minio
from minio.error import S3Error
from minio.time import to_amz_date

__all__ = ["ClockedMinio", "StoreClock"]

log = logging.getLogger(__name__)

#: A store that refuses a wrong time answers one of these, with a code of its own or with none.
_REFUSED = frozenset({400, 401, 403})
#: Below this the two clocks agree: stores allow for minutes, and a request takes its time.
_TOLERANCE = timedelta(seconds=60)


class StoreClock:
    """Tells the store's time as far as it is known; until a refusal it is this machine's.

    It learns from refusals alone: where this machine's clock is good enough, nothing changes,
    whatever ``Date`` a proxy on the way may answer. May be shared between threads.
    """

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    @property
    def ahead(self) -> timedelta:
        """How far the store's clock is ahead of this machine's; negative if it is behind."""
        return self._ahead

    def now(self) -> datetime:
        """The time to sign with."""
        return datetime.now(UTC) + self._ahead

    def was_wrong(self, answer: urllib3.BaseHTTPResponse, signed_with: timedelta) -> bool:
        """Whether an answer refuses a signature that was made with another time than its own.

        Then the store's time is taken over, and the request is worth signing and sending again.

        Args:
            answer: what the store said.
            signed_with: what ``ahead`` was when the request was signed.
        """
        if answer.status not in _REFUSED:
            return False
        try:
            ahead = parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)
        except (KeyError, ValueError, TypeError):  # no date, none that can be read, or no zone
            return False
        if abs(ahead - signed_with) <= _TOLERANCE:
            return False
        self._ahead = ahead
        ids = {"event": "store_clock", "seconds": round(ahead.total_seconds())}
        log.warning("signing by the store's clock: it is %(seconds)+d s from ours", ids, extra=ids)
        return True

    def send(self, request: Callable[[], urllib3.BaseHTTPResponse]) -> urllib3.BaseHTTPResponse:
        """Sign and send a request, and once more if the time was why it was refused.

        Args:
            request: signs with ``now()`` and sends; may raise a refusal as well as answer it.
        """
        signed_with = self._ahead
        try:
            answer = request()
        except S3Error as error:
            if not self.was_wrong(error.response, signed_with):
                raise
        else:
            if not self.was_wrong(answer, signed_with):
                return answer
        return request()


class ClockedMinio(Minio):
    """A minio client that signs by the store's clock.

    The client has no public way to do that for anything but presigned URLs; the two methods are
    those of minio 7.2 through which every request of it goes.
    """

    clock: StoreClock

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = StoreClock()

    def get_presigned_url(self, *args: Any, **kwargs: Any) -> str:
        """See ``Minio``; the date is the store's."""
        kwargs.setdefault("request_date", self.clock.now())
        return super().get_presigned_url(*args, **kwargs)

    def _build_headers(self, *args: Any, **kwargs: Any) -> tuple[Any, datetime]:
        headers, _ = super()._build_headers(*args, **kwargs)
        date = self.clock.now()
        headers["x-amz-date"] = to_amz_date(date)
        return headers, date

    def _url_open(self, *args: Any, **kwargs: Any) -> urllib3.BaseHTTPResponse:
        def request() -> urllib3.BaseHTTPResponse:
            # The client writes its headers into the dictionary that it is given.
            own = {**kwargs, "headers": dict(kwargs.get("headers") or {})}
            return super(ClockedMinio, self)._url_open(*args, **own)

        return self.clock.send(request)
