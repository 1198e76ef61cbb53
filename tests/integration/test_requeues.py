"""Tasks that are put on their queue once more, each counted once, by the reason."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coldfusion_queue.evaluating import EvaluationInterrupted
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue import evaluations, tasks
from coldfusion_queue.queue.evaluations import EvaluationDelivery
from coldfusion_queue.queue.sending import Look
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import DeviceBusy, TurnInterrupted
from tests.integration.deliveries import AWAY, NAME, Bench, open_bench, raises

Counts = dict[tuple[str, str], float]


@pytest.fixture
def bench(repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return open_bench(repository, settings, monkeypatch)


def requeued(bench: Bench) -> Counts:
    """How often each task was requeued for each reason."""
    return {
        (sample.labels["task"], sample.labels["reason"]): sample.value
        for metric in bench.registry.collect()
        for sample in metric.samples
        if sample.name == "coldfusion_requeues_total"
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(TurnInterrupted(NAME, 3, 6), "interrupted", id="told-to-stop"),
        pytest.param(DeviceBusy(NAME, 3, 6), "passed_on", id="waited-too-long"),
        pytest.param(AWAY, "retried", id="store-is-away"),
    ],
)
def test_a_turn_that_its_worker_gives_back_is_counted_by_why(
    error: Exception, reason: str, bench: Bench
) -> None:
    bench.submit().act = raises(error)

    bench.deliver()

    assert requeued(bench) == {("finetune", reason): 1}


def test_a_turn_that_another_worker_has_by_now_is_not_requeued(bench: Bench) -> None:
    def sleep_and_raise() -> None:
        bench.client.set(bench.keys.turn(NAME), "running:b", px=60_000)
        raise TurnInterrupted(NAME, 3, 6)

    bench.submit().act = sleep_and_raise

    bench.deliver()

    assert requeued(bench) == {}


def test_a_turn_whose_worker_died_is_counted_by_who_begins_it_again(bench: Bench) -> None:
    bench.submit()
    bench.client.set(bench.keys.starts(NAME), 1)

    bench.deliver()

    assert requeued(bench) == {("finetune", "worker_lost"): 1}


@pytest.mark.parametrize(
    ("known", "look", "counts"),
    [
        pytest.param(None, Look.SENT, {("finetune", "missing"): 1}, id="lost"),
        pytest.param("retries", Look.DUE, {}, id="put-off"),
        pytest.param("starts", Look.DUE, {}, id="worker-died"),
    ],
)
def test_a_turn_that_reconcile_sends_is_missing_unless_it_is_known_why(
    known: str | None, look: Look, counts: Counts, bench: Bench
) -> None:
    bench.submit()
    bench.client.flushdb()
    if known is not None:
        bench.client.set(getattr(bench.keys, known)(NAME), 1)
    patience = bench.process.settings.lease_seconds / 6
    sender = bench.process.sender(bench.repository.name)
    assert sender.send_missing("s", 1) is Look.NOTED
    now = bench.client.time()[0]  # type: ignore[index]
    bench.client.set(bench.keys.missing(NAME), 1000 * (now - int(patience) - 1))

    looks = list(tasks._send_missing_turns(bench.process, bench.repository))

    assert looks == [look]
    assert requeued(bench) == counts
    assert len([message for message in bench.take() if message["headers"]]) == 1


@pytest.mark.parametrize(
    ("error", "starts", "counts"),
    [
        pytest.param(
            EvaluationInterrupted(), 0, {("evaluate", "interrupted"): 1}, id="told-to-stop"
        ),
        pytest.param(AWAY, 0, {("evaluate", "retried"): 1}, id="store-is-away"),
        pytest.param(ValueError("odd"), 0, {("evaluate", "retried"): 1}, id="its-fault-perhaps"),
        pytest.param(None, 1, {("evaluate", "worker_lost"): 1}, id="worker-died"),
        pytest.param(None, 0, {}, id="done"),
    ],
)
def test_an_evaluation_that_is_requeued_is_counted_by_why(
    error: Exception | None,
    starts: int,
    counts: Counts,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*_: object) -> bool:
        if error is not None:
            raise error
        return True

    request = SimpleNamespace(spec=SimpleNamespace(kind="frozen"))
    monkeypatch.setattr(evaluations, "run_evaluation", run)
    monkeypatch.setattr(type(bench.repository.evaluations), "request", lambda *_: request)
    name = "e" * 32 + ".d.frozen-0-0"
    if starts:
        bench.client.set(RedisKeys(bench.repository.name).starts(name), starts)

    EvaluationDelivery(bench.process, "a", bench.repository.name, name).handle()

    assert requeued(bench) == counts
