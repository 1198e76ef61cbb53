"""A turn whose device is another turn's for now: what it does until it is free, and after."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.finetune import run
from coldfusion_queue.queue.reporting import TurnCancelledError
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import DeviceBusy, Phase, TurnInterrupted, run_turn
from tests.integration import deliveries
from tests.integration.conftest import Contribute
from tests.integration.deliveries import NAME, raises
from tests.integration.interruptions import Bench, away, open_bench, outcome
from tests.watching import ignore


class BusyDevice:
    """A device that is free at the ``num_tries``-th look; ``meanwhile`` happens at each before."""

    def __init__(self, num_tries: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.is_held = self.is_late = False
        self.seconds_left: list[float] = []
        self.given_up = 0
        self._num_tries = num_tries
        self._meanwhile = meanwhile

    def take(self) -> bool:
        self._num_tries -= 1
        self.is_held = self._num_tries <= 0
        if not self.is_held:
            self._meanwhile()
        return self.is_held

    def is_in_vain(self) -> bool:
        return self.is_late

    def tell(self, seconds_left: float) -> None:
        assert self.is_held
        self.seconds_left.append(seconds_left)

    def give_up(self) -> None:
        assert self.is_held
        self.is_held = False
        self.given_up += 1


@pytest.fixture
def bench(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> Bench:
    return open_bench(repository, settings, contribute, tmp_path)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TRY_SECONDS", "_REPORT_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(f"coldfusion_queue.turn_attempt.{name}", 0.001)


def test_the_base_version_that_is_published_while_a_turn_waits_is_the_one_it_trains_on(
    bench: Bench,
) -> None:
    published = iter([bench.publish])
    device = BusyDevice(50, lambda: next(published, lambda: None)())
    submission = bench.submit()
    told: list[tuple[Phase, int]] = []

    def report(phase: Phase, version: int, _: object) -> None:
        told.append((phase, version))

    run_turn(bench.repository, bench.settings, submission, 1, report, device=device)

    assert bench.committed(submission).base_version == 1
    # Prepared anew while it waited, not when it had the device.
    assert (Phase.WAITING, 1) in told
    expected = bench.run(bench.submit())
    assert outcome(bench.committed(submission)) == outcome(expected)


def test_the_base_version_that_is_published_just_before_the_device_is_free_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldfusion_queue.turn_attempt._LOOK_SECONDS", 60.0)
    device = BusyDevice(2, bench.publish)
    submission = bench.submit()

    run_turn(bench.repository, bench.settings, submission, 1, ignore, device=device)

    assert bench.committed(submission).base_version == 1


def test_a_submission_that_names_its_base_version_trains_on_it_whatever_was_published(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(bench.run(bench.submit()))
    bench.publish()
    published = iter([lambda: bench.contribute("third", seed=5), bench.fuse])
    device = BusyDevice(50, lambda: next(published, lambda: None)())
    submission = bench.submit_from(0)

    run_turn(bench.repository, bench.settings, submission, 1, ignore, device=device)

    assert bench.repository.ledger.base_version().version == 2
    assert outcome(bench.committed(submission)) == expected


def test_a_submission_that_names_a_base_version_nobody_published_does_not_begin(
    bench: Bench,
) -> None:
    with pytest.raises(NotFoundError, match="base version '7'"):
        bench.run(bench.submit_from(7))


def test_while_another_base_version_is_prepared_the_model_of_the_last_one_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldfusion_queue.turn_attempt._LOOK_SECONDS", 60.0)
    load, loaded = run.load_body, []
    alive: list[int] = []

    def load_body(directory: Path) -> torch.nn.Module:
        alive.append(sum(body() is not None for body in loaded))
        body = load(directory)
        loaded.append(weakref.ref(body))
        return body

    monkeypatch.setattr(run, "load_body", load_body)

    run_turn(
        *(bench.repository, bench.settings, bench.submit(), 1, ignore),
        device=BusyDevice(2, bench.publish),
    )

    assert alive == [0, 0]


def test_a_store_that_is_away_while_a_turn_waits_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = bench.repository.ledger
    device = BusyDevice(5, lambda: monkeypatch.setattr(ledger, "base_version", away))
    submission = bench.submit()

    run_turn(bench.repository, bench.settings, submission, 1, ignore, device=device)

    assert bench.committed(submission).base_version == 0


def test_a_turn_goes_on_from_its_checkpoint_whatever_was_published_while_it_waited(
    bench: Bench,
) -> None:
    expected = outcome(bench.run(bench.submit()))
    submission = bench.submit()
    bench.interrupt(submission, 2)
    bench.publish()
    device = BusyDevice(10)

    run_turn(bench.repository, bench.settings, submission, 1, ignore, device=device)

    assert outcome(bench.committed(submission)) == expected


def test_the_device_is_given_up_before_the_upload_and_told_of_before_that(bench: Bench) -> None:
    device = BusyDevice(1)
    held: list[tuple[Phase, bool]] = []
    talkative = bench.settings.model_copy(update={"progress_interval_seconds": 1e-9})

    def report(phase: Phase, *_: object) -> None:
        held.append((phase, device.is_held))

    run_turn(bench.repository, talkative, bench.submit(), 1, report, device=device)

    assert held[0] == (Phase.DOWNLOADING, False)
    assert held[-1] == (Phase.UPLOADING, False)
    assert dict(held)[Phase.TRAINING]
    assert device.given_up == 1
    assert device.seconds_left[0] > device.seconds_left[-1] == 0


def test_a_turn_that_waited_too_long_begins_nothing_and_keeps_its_checkpoint(bench: Bench) -> None:
    submission = bench.submit()
    bench.interrupt(submission, 2)
    before = bench.checkpoints()
    device = BusyDevice(1000)
    device.is_late = True

    with pytest.raises(DeviceBusy) as caught:
        run_turn(bench.repository, bench.settings, submission, 1, ignore, device=device)

    assert caught.value.step == 2
    assert "the device is not free yet" in str(caught.value)
    assert bench.checkpoints() == before


def test_a_worker_that_is_told_to_stop_hands_a_waiting_turn_back(bench: Bench) -> None:
    stopping: list[bool] = []
    device = BusyDevice(1000, lambda: stopping.append(True))

    with pytest.raises(TurnInterrupted) as caught:
        run_turn(
            *(bench.repository, bench.settings, bench.submit(), 1, ignore),
            lambda: bool(stopping),
            device,
        )

    assert not isinstance(caught.value, DeviceBusy)
    assert not device.is_held
    assert bench.checkpoints() == []


def test_a_worker_that_stops_as_the_device_becomes_free_trains_no_step(bench: Bench) -> None:
    device = BusyDevice(1)

    with pytest.raises(TurnInterrupted):
        run_turn(
            *(bench.repository, bench.settings, bench.submit(), 1, ignore),
            lambda: device.is_held,
            device,
        )

    assert (device.seconds_left, bench.checkpoints()) == ([], [])


def test_a_turn_is_cancelled_while_it_waits(bench: Bench) -> None:
    def report(phase: Phase, *_: object) -> None:
        if phase is Phase.WAITING:
            raise TurnCancelledError

    with pytest.raises(TurnCancelledError):
        run_turn(
            *(bench.repository, bench.settings, bench.submit(), 1, report),
            device=BusyDevice(1000),
        )


def test_a_turn_that_waited_too_long_is_queued_again_and_counts_as_no_loss(
    repository: Repository,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = deliveries.open_bench(repository, settings, monkeypatch)
    bench.submit().act = raises(DeviceBusy(NAME, 0, 0))

    with caplog.at_level("INFO"):
        assert bench.deliver() == "SUCCESS"

    assert (bench.hint(), len(bench.take())) == ("sent", 1)
    assert not bench.client.exists(bench.keys.starts(NAME))
    assert "turn_passed_on" in [vars(record).get("event") for record in caplog.records]
