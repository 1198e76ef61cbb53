"""What spans hold and what they do not, as a real receiver of OTLP gets them."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from coldfusion_queue import tracing
from coldfusion_queue.errors import MissingExtraError, StoreUnavailableError
from coldfusion_queue.log_ids import bind
from coldfusion_queue.queue.binding import task_ids
from coldfusion_queue.queue.tasks import evaluate, finetune, reconcile
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from coldfusion_queue.threads import WorkThreads
from tests.collector import Collected, Collector, collecting
from workers.starting import prepare

ROW = "zqx a row of somebody's data zqx"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened.endpoint)
        yield opened


@pytest.fixture
def traced(collector: Collector, settings: Settings) -> Iterator[Collector]:
    """A process that traces; its spans are there after ``stop_tracing``."""
    tracing.start_tracing(settings.model_copy(update={"traces": True}), "mine")
    yield collector
    bind({})
    tracing.stop_tracing()


def sent(collector: Collector, name: str | None = None) -> list[Collected]:
    """All spans, of a process that ends now."""
    tracing.stop_tracing()
    return collector.spans(name)


def test_a_span_has_the_ids_that_are_bound_and_its_own_in_threads_too(traced: Collector) -> None:
    bind({"submission": "s", "turn": 2})

    def work() -> None:
        with tracing.span("inner"):
            pass

    with tracing.span("outer", step=3), WorkThreads(1) as threads:
        threads.submit(work).result()
        tracing.note_ids(contribution="c")

    (outer,), (inner,) = sent(traced, "outer"), traced.spans("inner")
    own = {"coldfusion.step": 3, "coldfusion.contribution": "c"}
    bound = {"coldfusion.submission": "s", "coldfusion.turn": 2}
    assert outer.attributes == bound | own
    assert inner.attributes == bound
    assert (inner.trace, inner.parent) == (outer.trace, outer.span)
    assert outer.service == "mine"


def test_links_lead_to_what_a_span_came_from(traced: Collector) -> None:
    with tracing.span("commit"):
        came_from = tracing.traceparent()
    with tracing.span("before"), tracing.span("fuse", links=[came_from, None, "nonsense"]):
        pass
    with tracing.span("turn"), tracing.span("next", is_root=True):
        pass

    found = {item.name: item for item in sent(traced)}
    assert found["fuse"].links == {(found["commit"].trace, found["commit"].span)}
    assert found["fuse"].parent == found["before"].span
    assert found["next"].links == {(found["turn"].trace, found["turn"].span)}
    assert found["next"].parent == ""
    assert found["next"].trace != found["turn"].trace


def test_of_an_error_a_span_has_the_class_alone(traced: Collector) -> None:
    with pytest.raises(ValueError, match="zqx"), tracing.span("ours"):
        raise ValueError(ROW)
    with tracing.span("a library's"):
        # As the instrumentation of Celery and urllib3 does it.
        span = trace.get_current_span()
        span.record_exception(ValueError(ROW))
        span.set_status(Status(StatusCode.ERROR, ROW))

    assert [item.is_error for item in sent(traced)] == [True, True]
    assert traced.spans("ours")[0].attributes["error.type"] == "ValueError"
    assert ROW.encode() not in traced.raw
    assert b"test_tracing.py" not in traced.raw  # nor a place of a traceback
    assert b"exception.type" in traced.raw


def test_no_attribute_has_a_secret_of_the_settings(traced: Collector, settings: Settings) -> None:
    assert settings.s3_secret_key is not None
    secret = settings.s3_secret_key.get_secret_value()
    with tracing.span("ours", came_with=f"key {secret}"):
        pass

    assert sent(traced)[0].attributes == {"coldfusion.came_with": "key ***"}
    assert secret.encode() not in traced.raw


def test_a_request_is_a_span_without_its_signature_and_an_expected_answer_no_error(
    traced: Collector, store: Store, settings: Settings
) -> None:
    key = f"{settings.repository}/marker"
    with tracing.span("ours"):
        assert store.find(key) is None
        assert store.create(key, b"") is True  # by a presigned URL
        assert store.create(key, b"of another") is False

    (ours,) = sent(traced, "ours")
    requests = [item for item in traced.spans() if item.name in {"GET", "PUT"}]
    url = f"{settings.s3_endpoint}/{settings.s3_bucket}/{key}"
    assert {item.attributes["http.url"] for item in requests} == {url}
    assert [item.attributes["http.status_code"] for item in requests] == [404, 200, 412, 200]
    assert {(item.parent, item.is_error) for item in requests} == {(ours.span, False)}
    assert b"X-Amz" not in traced.raw


def test_a_store_that_is_away_is_an_error_without_the_url(
    traced: Collector, settings: Settings
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        away = Store.open(settings.model_copy(update={"s3_endpoint": endpoint}), 1)
        with pytest.raises(StoreUnavailableError):
            away.create("a/key", b"")

    (put,) = sent(traced, "PUT")
    assert put.is_error
    assert b"X-Amz" not in traced.raw
    assert b"Max retries" not in traced.raw


def test_ids_neither_come_from_seeded_numbers_nor_change_them(traced: Collector) -> None:
    numbers = []
    for _ in range(2):
        random.seed(1)
        with tracing.span("ours"):
            numbers.append(random.random())

    assert len({item.span for item in sent(traced)}) == 2
    assert len({item.trace for item in traced.spans()}) == 2
    random.seed(1)
    assert numbers == [random.random()] * 2


def test_what_is_not_sampled_leaves_no_trace_in_records(
    collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracing.start_tracing(settings.model_copy(update={"traces": True}), "mine")
    with tracing.span("ours"):
        assert tracing.traceparent() is None

    assert sent(collector) == []


def test_a_process_is_named_by_the_standard_variable_first(
    collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    tracing.start_tracing(settings.model_copy(update={"traces": True}), "mine")
    with tracing.span("ours"):
        pass

    assert sent(collector)[0].service == "theirs"


def test_a_collector_that_does_not_answer_holds_nobody_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        tracing.start_tracing(settings.model_copy(update={"traces": True}), "mine")
        with tracing.span("ours"):
            pass
        started = time.monotonic()
        tracing.stop_tracing()

        assert time.monotonic() - started < 6
        assert tracing.trace_ids() == {}


def test_a_task_is_no_part_of_a_message_that_could_not_be_sent(traced: Collector) -> None:
    # The instrumentation of Celery ends that span when the message is sent, which it never is.
    leaked = trace.use_span(
        trace.NonRecordingSpan(trace.SpanContext(1, 2, False, trace.TraceFlags(1)))
    )
    leaked.__enter__()
    with tracing.span("leaked into"):
        pass
    tracing.begin_anew()
    with tracing.span("task"):
        pass

    assert [item.parent for item in sent(traced)] == ["0000000000000002", ""]


@pytest.mark.parametrize(
    ("task", "arguments", "ids"),
    [
        pytest.param(
            *(finetune, ("r", "s", 2)),
            {"repository": "r", "submission": "s", "turn": 2, "contribution": "s.t00002"},
            id="finetune",
        ),
        pytest.param(evaluate, ("r", "e"), {"repository": "r", "evaluation": "e"}, id="evaluation"),
        pytest.param(reconcile, ("r",), {"repository": "r"}, id="reconcile"),
        pytest.param(reconcile, ("r", "too", "many"), {}, id="wrong-arguments"),
    ],
)
def test_ids_of_a_task_are_those_among_its_arguments(
    task: object, arguments: tuple[object, ...], ids: dict[str, object]
) -> None:
    assert task_ids(task.run, arguments, {}) == ids


def test_a_process_without_the_packages_does_not_begin(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("coldfusion_queue.tracing.find_spec", lambda name: None)
    monkeypatch.setenv("COLDFUSION_TRACES", "1")

    with pytest.raises(SystemExit) as ended:
        prepare()

    assert ended.value.code == MissingExtraError.exit_code
    assert "pip install 'coldfusion-queue[traces]'" in capsys.readouterr().err


def test_without_the_setting_nothing_is_traced(collector: Collector, store: Store) -> None:
    with tracing.span("ours", step=1):
        assert tracing.traceparent() is None
        assert tracing.trace_ids() == {}
        tracing.note_ids(step=2)
        store.find("nothing")

    assert sent(collector) == []
