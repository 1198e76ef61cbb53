"""Spans by OpenTelemetry: made, cleaned of what is nobody's business, and sent away by OTLP."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from coldfusion_queue import __version__
from coldfusion_queue.clean_spans import CleanExporter
from coldfusion_queue.log_ids import bound_ids
from coldfusion_queue.redaction import Redaction
from coldfusion_queue.settings import Settings

__all__ = ["Spans"]

#: How long a process that ends waits for a collector to take its last spans.
_CLOSE_SECONDS = 3.0
#: Answers of the store that are expected: there is no such object; there is one already.
_ANSWERS = frozenset({404, 409, 412})
_PREFIX = "coldfusion."
_PROPAGATOR = TraceContextTextMapPropagator()


class Spans:
    """The spans of one process, Celery's and urllib3's among them.

    Args:
        settings: secrets that no span may hold.
        service: name of the kind of process, unless ``OTEL_*`` variables say another.
    """

    def __init__(self, settings: Settings, service: str) -> None:
        own = {"service.name": service, "service.version": __version__}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        # Nothing waits for a collector at the end, but for ``close``.
        self._provider = TracerProvider(
            resource=resource, id_generator=_Ids(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(_Bound())
        exporter = CleanExporter(OTLPSpanExporter(), Redaction(settings))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("coldfusion_queue", __version__)
        self._celery = CeleryInstrumentor()  # type: ignore[no-untyped-call]
        self._celery.instrument(tracer_provider=self._provider)
        self._urllib3 = URLLib3Instrumentor()
        self._urllib3.instrument(
            tracer_provider=self._provider,
            url_filter=_without_query,
            response_hook=_tell_answers,
            # Whatever variables say: one of the headers is a signature.
            captured_request_headers=[],
            captured_response_headers=[],
        )

    def close(self) -> None:
        """Send what is left, and leave the two libraries as they were."""
        self._celery.uninstrument()
        self._urllib3.uninstrument()
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    @contextmanager
    def span(
        self, name: str, links: Iterable[str | None], ids: Mapping[str, object], *, is_root: bool
    ) -> Iterator[None]:
        """See ``tracing.span``."""
        found = [Link(item) for item in map(_parsed, links) if item is not None]
        if is_root:
            found.append(Link(trace.get_current_span().get_span_context()))
        with self._tracer.start_as_current_span(
            name,
            context=context.Context() if is_root else None,
            links=[link for link in found if link.context.is_valid],
            attributes=_attributes(ids),
            set_status_on_exception=False,
            record_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise

    def note_ids(self, ids: Mapping[str, object]) -> None:
        """See ``tracing.note_ids``."""
        trace.get_current_span().set_attributes(_attributes(ids))

    def begin_anew(self) -> None:
        """See ``tracing.begin_anew``."""
        context.attach(context.Context())

    def traceparent(self) -> str | None:
        """See ``tracing.traceparent``; None too for a span that is not recorded."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return None
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")

    def trace_ids(self) -> Mapping[str, str]:
        """See ``tracing.trace_ids``."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return {}
        return {
            "trace": trace.format_trace_id(found.trace_id),
            "span": trace.format_span_id(found.span_id),
        }


class _Bound(SpanProcessor):
    """Gives each span, whoever began it, the ids of what goes on there."""

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        span.set_attributes(_attributes(bound_ids()))


class _Ids(IdGenerator):
    """Ids from the system, so that a finetune's seeded numbers neither make them nor change."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


def _attributes(ids: Mapping[str, object]) -> dict[str, str | int]:
    return {
        f"{_PREFIX}{name}": value if isinstance(value, int) else str(value)
        for name, value in ids.items()
    }


def _parsed(traceparent: str | None) -> trace.SpanContext | None:
    if traceparent is None:
        return None
    found = _PROPAGATOR.extract({"traceparent": traceparent}, context.Context())
    return trace.get_current_span(found).get_span_context()


def _without_query(url: str) -> str:
    """A presigned URL is a credential by what follows its path."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


def _tell_answers(span: Span, pool: object, response: object) -> None:
    if getattr(response, "status", None) in _ANSWERS:
        span.set_status(StatusCode.OK)
