"""Log records: a sentence, an ``event`` name and ids; JSON for machines, text for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from coldfusion_queue.outlines import outline
from coldfusion_queue.settings import Settings

__all__ = ["configure_logs"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "data"}


def configure_logs(settings: Settings) -> None:
    """Send all log records to standard error in the format of the settings.

    At a site, where the text of an error might quote private data, a traceback becomes an outline.
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    handler = logging.StreamHandler()
    if settings.site is None:
        handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    else:
        handler.setFormatter(_OutliningJsonFormatter() if as_json else _OutliningTextFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("urllib3", "httpx", "celery.utils.functional", "kombu", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        extras = "  ".join(f"{name}={value}" for name, value in _extras(record).items())
        text = super().format(record)
        return f"{text}  {extras}" if extras else text


class _Outlining(logging.Formatter):
    """Writes an outline in the place of a traceback."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name that logging calls
        return "" if ei[1] is None else outline(ei[1])


class _OutliningJsonFormatter(_Outlining, _JsonFormatter):
    pass


class _OutliningTextFormatter(_Outlining, _TextFormatter):
    pass
