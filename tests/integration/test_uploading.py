"""Finished finetunes that find the store away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import Phase, run_turn
from tests.integration.conftest import Contribute
from tests.integration.interruptions import (
    Bench,
    away,
    events,
    name_of,
    open_bench,
)
from tests.watching import ignore


@pytest.fixture
def bench(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> Bench:
    return open_bench(repository, settings, contribute, tmp_path)


class Flaky:
    """A method of the store that fails some times, before or after it did what it does."""

    def __init__(self, real: Callable[..., object], failures: int, *, after: bool = False) -> None:
        self._real = real
        self.failures = failures
        self._after = after

    def __call__(self, *arguments: object) -> object:
        answer = self._real(*arguments) if self._after or not self.failures else None
        if self.failures:
            self.failures -= 1
            away()
        return answer


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldfusion_queue.uploading._FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr("coldfusion_queue.uploading._MAX_BACKOFF_SECONDS", 0.01)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("method", ["put_file", "create"])
@pytest.mark.parametrize("after", [False, True])
def test_a_finished_finetune_outlasts_a_store_that_is_away(
    method: str,
    after: bool,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submission = bench.submit()
    trained = []

    def report(phase: Phase, *_: object) -> None:
        trained.append(phase)
        if phase is Phase.UPLOADING:
            real = getattr(bench.repository.store, method)
            monkeypatch.setattr(bench.repository.store, method, Flaky(real, 3, after=after))

    with caplog.at_level(logging.WARNING):
        outcome = run_turn(bench.repository, bench.settings, submission, 1, report)

    assert outcome.committed
    assert trained.count(Phase.UPLOADING) == 1
    assert events(caplog) == ["upload_retried"] * 3
    name = name_of(submission)
    assert bench.repository.inbox.count() == 1
    found = bench.repository.store.list(f"{bench.repository.keys.contributions}{name}/")
    keys = {item.key.rpartition("/")[2] for item in found}
    assert keys == {"contribution.json", "shared.safetensors", "head.safetensors"}


@pytest.mark.usefixtures("quickly")
def test_patience_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = bench.submit()
    hasty = bench.settings.model_copy(update={"upload_patience_seconds": 0.05})
    monkeypatch.setattr(bench.repository.contributions, "upload", away)

    with pytest.raises(StoreUnavailableError, match="it is away"):
        run_turn(bench.repository, hasty, submission, 1, ignore)

    assert bench.repository.inbox.count() == 0
