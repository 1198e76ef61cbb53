"""Log records: a sentence, an ``event`` name and ids; JSON for machines, text for people."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from coldfusion_queue.library_logs import adopt_libraries
from coldfusion_queue.log_ids import bound_ids
from coldfusion_queue.outlines import outline
from coldfusion_queue.redaction import Redaction
from coldfusion_queue.settings import Settings
from coldfusion_queue.tracing import trace_ids

__all__ = ["configure_logs"]

log = logging.getLogger(__name__)

#: What every record has, and Celery's own ``data``, which holds a task's arguments.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "data"}

#: Events of records that are not ours.
_EVENT_OF = {"celery": "celery", "kombu": "celery"}
_LIBRARY = "library"

#: Fields of a record that are ours alone, and hold no secret even if one is the same word.
_FIXED = frozenset({"time", "level", "logger", "event"})

#: What people can do without, because other ids say it or nobody reads it.
_FOR_MACHINES = frozenset({"event", "repository", "task", "trace", "span"})
_IN_CONTRIBUTION = frozenset({"submission", "turn"})


def configure_logs(settings: Settings) -> None:
    """Send all log records to standard error in the format of the settings.

    So go warnings, and what ends the process or one of its threads. At a site, where the text of
    an error might quote private data, a traceback becomes an outline.
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter(settings) if as_json else _TextFormatter(settings))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("urllib3", "httpx", "celery.utils.functional", "kombu", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    adopt_libraries()
    logging.captureWarnings(True)
    sys.excepthook = _process_crashed
    threading.excepthook = _thread_crashed


def _process_crashed(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)
        return
    extra = {"event": "process_crashed"}
    log.critical("this process ends", exc_info=(kind, error, where), extra=extra)


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        extra = {"event": "thread_crashed"}
        log.error("a thread of this process ends", exc_info=crash.exc_value, extra=extra)


class _Formatter(logging.Formatter):
    """What both formats have in common: no secret, and at a site no text of an error."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._redact = Redaction(settings)
        self._is_at_site = settings.site is not None
        self._repository = settings.repository

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name that logging calls
        if self._is_at_site:
            return "" if ei[1] is None else outline(ei[1])
        return super().formatException(ei)

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Event and ids of a record: its own, and those of what goes on where it is written."""
        own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        package = record.name.partition(".")[0]
        ids = {"repository": self._repository, **_celery_ids(record), **bound_ids()}
        return {"event": _EVENT_OF.get(package, _LIBRARY), **ids, **own, **trace_ids()}


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        clean = {
            name: value if name in _FIXED else self._clean(value) for name, value in fields.items()
        }
        return json.dumps(clean, default=str, ensure_ascii=False)

    def _clean(self, value: object) -> object:
        """A value without secrets: names and numbers stay, or the line might be JSON no more."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {str(name): self._clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item) for item in value]
        return self._redact(str(value))


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        unseen = _FOR_MACHINES | (_IN_CONTRIBUTION if "contribution" in fields else set())
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        parts = [f"{time} {record.levelname:<7} {record.getMessage()}"]
        parts += [f"{name}={value}" for name, value in fields.items() if name not in unseen]
        text = "  ".join(parts)
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return self._redact(text)


def _celery_ids(record: logging.LogRecord) -> dict[str, object]:
    """The task that one of Celery's own records is about."""
    data = getattr(record, "data", None)
    return {"task": data["id"]} if isinstance(data, dict) and "id" in data else {}
