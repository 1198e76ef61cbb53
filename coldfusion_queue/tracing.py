"""Traces, if the settings ask for them: what is traced, and by which names.

Off, which is the default, nothing of OpenTelemetry is loaded and a span costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from coldfusion_queue.errors import MissingExtraError

if TYPE_CHECKING:
    from coldfusion_queue.settings import Settings
    from coldfusion_queue.spans import Spans

__all__ = [
    "begin_anew",
    "check_tracing",
    "note_ids",
    "span",
    "start_tracing",
    "stop_tracing",
    "trace_ids",
    "traceparent",
]

_spans: Spans | None = None


def check_tracing(settings: Settings) -> None:
    """Refuse settings that ask for traces where the packages for them are missing.

    Raises:
        MissingExtraError: the extra ``traces`` is not installed.
    """
    if settings.traces and find_spec("opentelemetry") is None:
        raise MissingExtraError("COLDFUSION_TRACES", "opentelemetry-sdk", "traces")


def start_tracing(settings: Settings, service: str) -> None:
    """Trace what this process does from here on, if the settings say so.

    Call it after the last fork: what sends spans away is a thread.

    Args:
        settings: ``traces``, and the credentials that no span may hold.
        service: name of the kind of process; ``OTEL_SERVICE_NAME`` goes before it.

    Raises:
        MissingExtraError: see ``check_tracing``.
    """
    global _spans
    if not settings.traces or _spans is not None:
        return
    check_tracing(settings)
    from coldfusion_queue.spans import Spans

    _spans = Spans(settings, service)


def stop_tracing() -> None:
    """Send what is left, for a few seconds at most, and trace nothing more."""
    global _spans
    if _spans is not None:
        _spans.close()
        _spans = None


@contextmanager
def span(
    name: str, *, links: Iterable[str | None] = (), is_root: bool = False, **ids: object
) -> Iterator[None]:
    """A span of the work that is done within the context.

    Args:
        name: what is done.
        links: ``traceparent`` of spans that led to it; None is passed over.
        is_root: begin a trace of its own, which is linked to the one that goes on here.
        ids: what it is about, beside what is bound (``log_ids``).
    """
    if _spans is None:
        yield
    else:
        with _spans.span(name, links, ids, is_root=is_root):
            yield


def note_ids(**ids: object) -> None:
    """Say what the span that goes on here is about, once that is known."""
    if _spans is not None:
        _spans.note_ids(ids)


def begin_anew() -> None:
    """Leave the span that goes on here: what follows is not part of it."""
    if _spans is not None:
        _spans.begin_anew()


def traceparent() -> str | None:
    """The span that goes on here, in the form of W3C Trace Context; None if nothing is traced."""
    return None if _spans is None else _spans.traceparent()


def trace_ids() -> Mapping[str, str]:
    """``trace`` and ``span`` of what goes on here, for log records; empty if nothing is traced."""
    return {} if _spans is None else _spans.trace_ids()
