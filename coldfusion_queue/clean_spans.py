"""Spans without what is in them by accident: texts of errors, credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from coldfusion_queue.redaction import Redaction

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes

__all__ = ["CleanExporter"]

#: Of an exception its class alone: the rest may quote a row of data, or a presigned URL.
_OF_EXCEPTIONS = ("exception.type",)


class CleanExporter(SpanExporter):
    """Cleans spans before another exporter sends them.

    Here and not where they are made, because the instrumentation of libraries records what it
    likes.
    """

    def __init__(self, inner: SpanExporter, redact: Redaction) -> None:
        self._inner = inner
        self._redact = redact

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send cleaned copies."""
        return self._inner.export([self._clean(span) for span in spans])

    def shutdown(self) -> None:
        """Send nothing more."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what the other one still has."""
        return self._inner.force_flush(timeout_millis)

    def _clean(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._cleaned(span.attributes),
            events=[
                Event(item.name, _named(item.attributes, _OF_EXCEPTIONS), item.timestamp)
                for item in span.events
            ],
            links=span.links,
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _cleaned(self, attributes: Attributes) -> Attributes:
        return {
            name: self._redact(value) if isinstance(value, str) else value
            for name, value in (attributes or {}).items()
        }


def _named(attributes: Attributes, names: Sequence[str]) -> Attributes:
    found: Mapping[str, object] = attributes or {}
    return {name: str(found[name]) for name in names if name in found}
