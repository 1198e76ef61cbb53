"""Traces over the real command line, broker, store and workers, at a real OTLP receiver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually
from tests.collector import Collected, Collector, collecting
from tests.rows import rows, write_rows

OPTIONS = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


@pytest.fixture(scope="module")
def traced(make_world: MakeWorld, collector: Collector) -> Iterator[tuple[World, str]]:
    """A world in which a submission of two turns was traced to its end, and that submission."""
    variables = {
        "COLDFUSION_TRACES": "1",
        "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        # So long that all comes when a process ends: none may keep its last spans.
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        # What somebody might ask for, and must not get: one of the headers is a signature.
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
    }
    with make_world(**variables) as world:
        world.start_all()
        data = write_rows(world.data / "notes.jsonl", rows("single"))
        submission = world.submit(data, *OPTIONS, "--turns", "2")
        world.wait_complete(submission)
        for name in ("finetune0", "fusion_worker"):
            world.terminate(name)
        eventually(lambda: not world.runs("finetune0") and not world.runs("fusion_worker"))
        yield world, submission


def one(found: list[Collected]) -> Collected:
    assert len(found) == 1, found
    return found[0]


def chain(collector: Collector, span: Collected) -> list[str]:
    """Names of a span and of what it is part of, the innermost first."""
    names = [span.name]
    while span.parent:
        span = one([item for item in collector.spans() if item.span == span.parent])
        names.append(span.name)
    return names


def test_a_trace_goes_from_the_command_over_the_task_to_the_commit(
    traced: tuple[World, str], collector: Collector
) -> None:
    _, submission = traced
    commit = one(collector.spans("commit", contribution=f"{submission}.t00001"))

    assert chain(collector, commit) == [
        "commit",
        "run/coldfusion.finetune",
        "apply_async/coldfusion.finetune",
        "coldfusion submit",
    ]
    root = one(collector.spans("coldfusion submit"))
    assert root.trace == commit.trace
    assert root.attributes["coldfusion.submission"] == submission
    assert (root.service, commit.service) == ("coldfusion", "coldfusion-finetune")


def test_a_fusion_is_linked_to_the_commits_of_what_it_fused(
    traced: tuple[World, str], collector: Collector
) -> None:
    world, submission = traced

    for turn in (1, 2):
        name = f"{submission}.t{turn:05d}"
        commit = one(collector.spans("commit", contribution=name))
        fusion = one(
            [item for item in collector.spans("fuse") if (commit.trace, commit.span) in item.links]
        )
        assert fusion.service == "coldfusion-fusion"
        assert chain(collector, fusion)[1] == "run/coldfusion.fuse"
        recorded = world.repository.contributions.find(name)
        assert recorded is not None
        assert recorded.traceparent == f"00-{commit.trace}-{commit.span}-01"


def test_each_turn_is_a_trace_of_its_own_that_is_linked_to_the_turn_before(
    traced: tuple[World, str], collector: Collector
) -> None:
    _, submission = traced
    first = one(collector.spans("run/coldfusion.finetune", submission=submission, turn=1))
    second = one(collector.spans("run/coldfusion.finetune", submission=submission, turn=2))
    between = one([item for item in collector.spans("next turn") if item.trace == second.trace])

    assert first.trace != second.trace
    assert between.parent == ""
    assert between.links == {(first.trace, first.span)}
    assert chain(collector, second)[-1] == "next turn"


def test_requests_of_all_threads_are_part_of_what_they_are_made_for(
    traced: tuple[World, str], collector: Collector
) -> None:
    requests = [item for item in collector.spans() if item.name in {"GET", "PUT", "POST", "HEAD"}]
    in_fusion = {item.span for item in collector.spans("fuse")}

    assert len(requests) > 50
    # But for those of a command and a worker that begin: there is nothing yet that they are for.
    assert {item.name for item in requests if not item.parent} == set()
    assert any(item.parent in in_fusion for item in requests)
    # That there is no such object yet, or that there is one already, is no error.
    assert [item.attributes for item in requests if item.is_error] == []


def test_no_span_has_a_credential_or_a_query(
    traced: tuple[World, str], collector: Collector
) -> None:
    world, _ = traced
    urls = {str(item.attributes.get("http.url", "")) for item in collector.spans()}
    key, secret = world.settings.s3_access_key, world.settings.s3_secret_key
    assert key is not None
    assert secret is not None

    assert any(url.startswith(world.settings.s3_endpoint) for url in urls)
    assert not any("?" in url for url in urls)
    for text in (
        "X-Amz-",
        "Signature",
        "AWS4-HMAC",
        key.get_secret_value(),
        secret.get_secret_value(),
    ):
        assert text.encode() not in collector.raw


def test_log_records_name_the_trace_that_they_are_part_of(
    traced: tuple[World, str], collector: Collector
) -> None:
    world, submission = traced
    run = one(collector.spans("run/coldfusion.finetune", submission=submission, turn=1))
    mine = [item for item in world.events("finetune0") if item.get("turn") == 1]

    assert {item["trace"] for item in mine} == {run.trace}
