"""Deliveries of turns while store or broker are away: retries, and what becomes of the last."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from coldfusion_queue.errors import DeviceLostError
from coldfusion_queue.queue import reporting, turns
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.leases import Lease
from coldfusion_queue.queue.process import Process
from coldfusion_queue.queue.reporting import TurnCancelledError, TurnReporter
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.submissions import SubmissionState
from coldfusion_queue.settings import Settings
from coldfusion_queue.sites.labels import SiteLabels
from coldfusion_queue.store import Store
from coldfusion_queue.turn import Phase
from tests.integration.conftest import Contribute
from tests.integration.deliveries import AWAY, NAME, Bench, open_bench, raises


@pytest.fixture
def bench(repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return open_bench(repository, settings, monkeypatch)


def test_an_error_that_may_pass_is_retried_as_often_as_set_and_recorded_then(bench: Bench) -> None:
    limit = 10
    own = bench.process.settings.model_copy(update={"task_max_retries": limit})
    bench.process = Process(own, bench.client, bench.process.metrics)
    bench.submit().act = raises(AWAY)
    for attempt in range(limit):
        assert bench.deliver() == "SUCCESS"
        assert (bench.take(), bench.hint()) == ([], "waiting")
        backoff = min(300, 2**attempt)
        seconds = int(bench.client.pttl(bench.keys.turn(NAME))) / 1000  # type: ignore[arg-type]
        assert 0.5 * backoff - 5 < seconds <= 1.5 * backoff
        bench.client.delete(bench.keys.turn(NAME))  # the time is over
        assert bench.process.sender(bench.repository.name).send("s", 1)

    assert bench.deliver() == "SUCCESS"

    assert bench.calls == limit + 1
    assert "it was switched off" in str(bench.failure())
    assert (bench.take(), bench.hint()) == ([], None)
    assert bench.repository.submissions.count_open() == 0


def test_a_turn_whose_failure_cannot_be_recorded_is_given_up_and_left_to_reconcile(
    bench: Bench,
) -> None:
    away = {"s3_endpoint": "http://127.0.0.1:1", "s3_max_attempts": 1}
    settings = bench.process.settings.model_copy(update=away)
    bench.submit()
    process = bench.process
    bench.process = Process(settings, process.client, process.metrics)

    bench.client.set(bench.keys.retries(NAME), settings.task_max_retries)
    assert bench.deliver() == "SUCCESS"

    assert (bench.take(), bench.hint(), bench.failure()) == ([], None, None)
    bench.process = process
    assert "s" not in process.hints(bench.repository.name).submissions()
    assert [item.next_turn for item in bench.repository.submissions.open()] == [1]


def test_a_worker_that_lost_its_device_puts_the_turn_off_for_another_and_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[bool] = []
    monkeypatch.setattr(turns, "stop_this_worker", lambda: ends.append(True))
    bench.submit().act = raises(DeviceLostError("cuda", "CUDA error: unspecified launch failure"))

    assert bench.deliver() == "SUCCESS"

    assert (bench.hint(), bench.failure(), ends) == ("waiting", None, [True])
    assert "device cuda: CUDA error" in caplog.text
    bench.client.delete(bench.keys.turn(NAME))
    assert bench.process.sender(bench.repository.name).send("s", 1)
    bench.act = raises(AWAY)
    assert bench.deliver() == "SUCCESS"
    assert ends == [True]  # a store that is away is no reason to end


def test_a_device_that_no_worker_has_is_the_recorded_reason_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "stop_this_worker", lambda: None)
    bench.submit().act = raises(DeviceLostError("cuda", "it is not there"))
    labels = SiteLabels(bench.process.settings.site_labels_dir)
    labels.keep("s", 1, ["remembered until the submission ends"])
    bench.client.set(bench.keys.retries(NAME), bench.process.settings.task_max_retries)

    assert bench.deliver() == "SUCCESS"

    assert "device cuda: it is not there" in str(bench.failure())
    assert labels.find("s", 1) is None


def test_the_last_retry_of_a_turn_whose_commit_was_not_heard_of_records_no_failure(
    bench: Bench, contribute: Contribute
) -> None:
    def commit_unheard() -> None:
        contribute("s")
        raise AWAY

    bench.submit(turns=2).act = commit_unheard

    bench.client.set(bench.keys.retries(NAME), bench.process.settings.task_max_retries)
    assert bench.deliver() == "SUCCESS"

    assert bench.state() is SubmissionState.OPEN


@pytest.mark.parametrize("retries", [0, 8])
def test_a_broker_that_is_away_after_the_commit_makes_the_turn_neither_fail_nor_run_again(
    retries: int, bench: Bench, contribute: Contribute
) -> None:
    bench.submit(turns=2).act = lambda: contribute("s")
    bench.client.set(bench.keys.retries(NAME), retries)
    here, messages = bench.process, bench.take()
    url = {"broker_url": SecretStr("redis://127.0.0.1:1/0")}
    nowhere = connect_redis(here.settings.model_copy(update=url))
    bench.process = Process(here.settings, nowhere, here.metrics)
    bench.take = lambda: messages  # type: ignore[method-assign]

    assert bench.deliver() == "SUCCESS"

    assert (bench.state(), bench.num_ended("committed")) == (SubmissionState.OPEN, 1)
    assert here.client.llen("finetune") == 0  # reconcile will send the next one


def test_a_store_that_is_away_when_a_cancellation_is_looked_for_ends_no_training(
    bench: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_CANCEL_CHECK_SECONDS", 0)
    bench.submit()
    submission = bench.repository.submissions.get("s")
    bench.repository.submissions.cancel("s")
    away = settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})

    def report(of: Settings) -> None:
        repository = Repository(Store.open(of, 1), settings.repository)
        reporter = TurnReporter(
            bench.client,
            repository,
            submission,
            1,
            Lease(is_held=True, starts=1),
            "a",
            bench.process.metrics,
        )
        reporter(Phase.TRAINING, 0, None)

    report(away)
    with pytest.raises(TurnCancelledError):
        report(settings)
