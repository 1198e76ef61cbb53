"""Turns that are told to stop after some steps, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    Hyperparameters,
    Submission,
)
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import TurnInterrupted, never_stop, run_turn
from tests.integration.conftest import Contribute
from tests.integration.submitting import committed, upload_rows
from tests.watching import StopAt, ignore

__all__ = [
    "HYPERPARAMETERS",
    "NUM_QUESTIONS_BEFORE",
    "NUM_STEPS",
    "Bench",
    "away",
    "events",
    "name_of",
    "open_bench",
    "outcome",
]

#: 24 examples in batches of 8: 6 steps. Twins of one contributor begin alike.
HYPERPARAMETERS = Hyperparameters(
    epochs=2, batch_size=8, learning_rate=1e-3, max_length=32, head="fresh"
)
NUM_STEPS = 6

#: Before the download and before training.
NUM_QUESTIONS_BEFORE = 2


@dataclass(frozen=True)
class Bench:
    """One repository, and submissions that all ask for the same."""

    repository: Repository
    settings: Settings
    dataset_id: str
    contribute: Contribute
    work_dir: Path

    def submit(self, **changes: object) -> Submission:
        return self.repository.submissions.create(
            "somebody",
            dataset_id=self.dataset_id,
            hyperparameters=HYPERPARAMETERS.model_copy(update=changes),
        )

    def submit_from(self, base_version: int) -> Submission:
        return self.repository.submissions.create(
            "somebody",
            dataset_id=self.dataset_id,
            hyperparameters=HYPERPARAMETERS,
            base_version=base_version,
        )

    def run(
        self,
        submission: Submission,
        should_stop: Callable[[], bool] = never_stop,
        report: Callable[..., None] = ignore,
    ) -> Contribution:
        run_turn(self.repository, self.settings, submission, 1, report, should_stop)
        return self.committed(submission)

    def interrupt(self, submission: Submission, steps: int) -> TurnInterrupted:
        stop = StopAt(NUM_QUESTIONS_BEFORE + steps)
        with pytest.raises(TurnInterrupted) as caught:
            self.run(submission, stop)
        return caught.value

    def committed(self, submission: Submission) -> Contribution:
        return committed(self.repository, submission)

    def publish(self) -> BaseVersion:
        """Somebody else's contribution becomes a new base version."""
        self.contribute("other", seed=4)
        self.fuse()
        return self.repository.ledger.base_version()

    def fuse(self) -> None:
        fuse_once(self.repository, self.settings)

    def checkpoints(self) -> list[str]:
        prefix = self.repository.keys.all_checkpoints
        return [item.key for item in self.repository.store.list(prefix)]


def name_of(submission: Submission) -> str:
    return f"{submission.submission_id}.t00001"


def outcome(contribution: Contribution) -> tuple[int, str, str, str, dict[str, float]]:
    assert contribution.head is not None
    return (
        contribution.base_version,
        contribution.base_digest,
        contribution.shared.digest,
        contribution.head.digest,
        dict(contribution.metrics),
    )


def open_bench(
    repository: Repository, settings: Settings, contribute: Contribute, directory: Path
) -> Bench:
    """A bench in a repository; ``directory`` is empty."""
    dataset_id = upload_rows(repository, directory, splits=("train", "validation"))
    own = settings.model_copy(update={"device": "cpu"})
    return Bench(repository, own, dataset_id, contribute, directory)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records if "event" in vars(record)]


def away(*_: object, **__: object) -> None:
    raise StoreUnavailableError("http://store", "upload", "key", "it is away")
