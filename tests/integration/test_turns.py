"""How deliveries of turns end: real messages, leases and records, on real servers."""

from __future__ import annotations

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.queue.reporting import LeaseLostError, TurnCancelledError
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.submissions import SubmissionState
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import TurnInterrupted
from tests.integration.conftest import Contribute
from tests.integration.deliveries import AWAY, NAME, Bench, open_bench, raises


@pytest.fixture
def bench(repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return open_bench(repository, settings, monkeypatch)


# --- turns that are not run ---------------------------------------------------------------------


def test_a_message_of_a_turn_that_another_worker_holds_is_dropped(bench: Bench) -> None:
    bench.submit()
    bench.client.set(bench.keys.turn(NAME), "running:b", px=60_000)

    assert bench.deliver() == "SUCCESS"

    assert (bench.calls, bench.take(), bench.hint()) == (0, [], "running:b")


def test_a_message_of_a_submission_that_nobody_knows_is_dropped(bench: Bench) -> None:
    bench.process.sender(bench.repository.name).send("s", 1)

    assert bench.deliver() == "SUCCESS"

    assert (bench.calls, bench.take(), bench.hint()) == (0, [], None)


def test_a_late_message_of_a_turn_that_is_committed_sends_the_next(
    bench: Bench, contribute: Contribute
) -> None:
    bench.submit(turns=2)
    contribute("s")

    assert bench.deliver() == "SUCCESS"

    (message,) = bench.take()
    assert (bench.calls, message["headers"]["argsrepr"].endswith("'s', 2)")) == (0, True)


def test_a_submission_that_ended_leaves_no_residual_on_this_machine(
    bench: Bench, contribute: Contribute
) -> None:
    residual = bench.process.settings.residuals_dir / "s" / "00001-digest"
    residual.parent.mkdir(parents=True)
    residual.write_bytes(b"")
    bench.submit().act = lambda: contribute("s")

    assert bench.deliver() == "SUCCESS"

    assert not residual.parent.exists()


def test_after_the_last_turn_the_marker_of_an_open_submission_is_gone(
    bench: Bench, contribute: Contribute
) -> None:
    bench.submit().act = lambda: contribute("s")

    assert bench.deliver() == "SUCCESS"

    assert (bench.take(), bench.hint()) == ([], None)
    assert bench.repository.submissions.count_open() == 0
    assert bench.num_ended("committed") == 1


# --- turns that end before they are done --------------------------------------------------------


def test_an_interrupted_turn_is_queued_again_and_counts_as_no_loss(bench: Bench) -> None:
    bench.submit().act = raises(TurnInterrupted(NAME, 3, 6))

    assert bench.deliver() == "SUCCESS"

    assert bench.hint() == "sent"
    assert not bench.client.exists(bench.keys.starts(NAME))
    (message,) = bench.take()
    assert message["headers"]["retries"] == 0
    assert bench.num_ended("interrupted") == 1


def test_a_worker_that_lost_its_lease_queues_nothing(bench: Bench) -> None:
    bench.submit().act = raises(LeaseLostError())

    assert bench.deliver() == "SUCCESS"

    assert (bench.take(), bench.failure(), bench.num_ended("superseded")) == ([], None, 1)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(TurnInterrupted(NAME, 3, 6), id="interrupted"),
        pytest.param(AWAY, id="retried"),
        pytest.param(SoftTimeLimitExceeded(), id="too-long"),
        pytest.param(TrainingFailedError("it", "broke", "no"), id="failed"),
    ],
)
def test_however_a_worker_ends_that_slept_it_leaves_the_turn_to_the_one_that_took_it(
    error: Exception, bench: Bench
) -> None:
    def sleep_and_raise() -> None:
        bench.client.set(bench.keys.turn(NAME), "running:b", px=60_000)
        raise error

    bench.submit().act = sleep_and_raise

    assert bench.deliver() == "SUCCESS"

    assert (bench.take(), bench.hint(), bench.failure()) == ([], "running:b", None)


def test_a_worker_that_slept_until_its_turn_was_committed_records_no_failure(
    bench: Bench, contribute: Contribute
) -> None:
    def sleep_and_raise() -> None:
        contribute("s")
        raise SoftTimeLimitExceeded

    bench.submit(turns=2).act = sleep_and_raise

    assert bench.deliver() == "SUCCESS"

    assert (bench.state(), len(bench.take())) == (SubmissionState.OPEN, 1)


def test_a_cancelled_turn_is_no_failure_and_the_submission_is_closed(bench: Bench) -> None:
    def cancel() -> None:
        bench.repository.submissions.cancel("s")
        raise TurnCancelledError

    bench.submit(turns=None).act = cancel

    assert bench.deliver() == "SUCCESS"

    assert (bench.take(), bench.hint(), bench.num_ended("cancelled")) == ([], None, 1)
    assert bench.repository.submissions.count_open() == 0


# --- failures -----------------------------------------------------------------------------------


def test_a_turn_that_takes_too_long_is_recorded_with_what_to_do_about_it(bench: Bench) -> None:
    bench.submit(turns=2).act = raises(SoftTimeLimitExceeded())

    assert bench.deliver() == "SUCCESS"

    reason = str(bench.failure())
    assert "it took longer than 21600 s" in reason
    assert "COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS" in reason
    assert (bench.take(), bench.hint(), bench.num_ended("failed")) == ([], None, 1)
    assert bench.repository.submissions.count_open() == 0


@pytest.mark.parametrize(("more", "calls"), [(0, 1), (1, 0)])
def test_a_turn_in_which_too_many_workers_died_is_recorded_and_not_begun(
    more: int, calls: int, bench: Bench, contribute: Contribute
) -> None:
    losses = bench.process.settings.task_max_worker_losses + more
    bench.submit().act = lambda: contribute("s")
    bench.client.set(bench.keys.starts(NAME), losses)

    assert bench.deliver() == "SUCCESS"

    assert bench.calls == calls
    assert (bench.failure() is None) == (more == 0)
    assert more == 0 or f"its worker died {losses} times" in str(bench.failure())
    assert not bench.client.exists(bench.keys.starts(NAME))
