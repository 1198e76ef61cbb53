"""Turns that contribute quantised deltas: what they send over several turns, also after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from coldfusion_queue.audit import audit
from coldfusion_queue.fusion.quantised import decode_elements
from coldfusion_queue.records import Contribution, Hyperparameters, Submission
from coldfusion_queue.repository.committing import Contributions
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import run_turn
from tests.integration.conftest import Contribute
from tests.integration.submitting import committed, upload_rows
from tests.watching import ignore

QUICK = Hyperparameters(epochs=1, batch_size=8, learning_rate=1e-3, max_length=32, head="fresh")
TURNS = 4


@pytest.fixture
def submit(repository: Repository, tmp_path: Path) -> Callable[..., Submission]:
    dataset_id = upload_rows(repository, tmp_path)

    def make(turns: int = TURNS) -> Submission:
        return repository.submissions.create(
            "a", dataset_id=dataset_id, turns=turns, hyperparameters=QUICK
        )

    return make


@pytest.fixture
def quantised(settings: Settings) -> Settings:
    return settings.model_copy(update={"contribution_dtype": "quantised"})


class Reader:
    """Reads contributions as one vector, in the order of the base model's file."""

    def __init__(self, repository: Repository, model: Path, tmp_path: Path) -> None:
        with safe_open(model, framework="numpy") as file:
            self._names = [
                name for name in file.offset_keys() if file.get_tensor(name).dtype.kind == "f"
            ]
            self._size = sum(file.get_tensor(name).size for name in self._names)
        self._repository, self._path = repository, tmp_path / "contribution"

    def read(self, contribution: Contribution) -> np.ndarray:
        self._repository.store.download(contribution.shared, self._path)
        tensors = load_file(self._path)
        if contribution.form == "quantised":
            data = tensors["groups"].tobytes()
            return decode_elements(data, 0, 0, self._size).astype(np.float64)
        return np.concatenate([tensors[name].ravel() for name in self._names]).astype(np.float64)

    def total(self, submission: Submission, turns: int = TURNS) -> np.ndarray:
        return sum(
            self.read(committed(self._repository, submission, turn)) for turn in range(1, turns + 1)
        )


@pytest.fixture
def reader(repository: Repository, tiny_model_dir: Path, tmp_path: Path) -> Reader:
    return Reader(repository, tiny_model_dir / "model.safetensors", tmp_path)


def residuals(settings: Settings) -> list[Path]:
    return [path for path in settings.residuals_dir.rglob("*") if path.is_file()]


def run(repository: Repository, settings: Settings, submission: Submission) -> None:
    for turn in range(1, TURNS + 1):
        run_turn(repository, settings, submission, turn, ignore)
        assert len(residuals(settings)) == (turn < TURNS)


def test_over_turns_a_standing_contributor_sends_what_it_learned(
    repository: Repository,
    settings: Settings,
    quantised: Settings,
    submit: Callable[..., Submission],
    reader: Reader,
) -> None:
    # Given the same turns three times: in float32, quantised, and quantised on a fresh machine
    # for each turn, which finds no residual.
    plain, fed_back, forgetful = submit(), submit(), submit()
    exact = settings.model_copy(update={"contribution_dtype": "float32"})
    for turn in range(1, TURNS + 1):
        run_turn(repository, exact, plain, turn, ignore)
        away = quantised.model_copy(update={"home": quantised.home / f"machine{turn}"})
        run_turn(repository, away, forgetful, turn, ignore)
    run(repository, quantised, fed_back)

    contribution = committed(repository, fed_back, 1)
    plain_bytes = committed(repository, plain, 1).shared.num_bytes
    assert contribution.form == "quantised"
    assert contribution.shared.num_bytes < plain_bytes / 8
    true = reader.total(plain)
    one = np.linalg.norm(reader.total(fed_back, 1) - reader.total(plain, 1))
    assert 0 < np.linalg.norm(reader.total(fed_back) - true) < 1.3 * one
    assert np.linalg.norm(reader.total(forgetful) - true) > 1.6 * one


@pytest.mark.parametrize("is_committed", [False, True], ids=["before commit", "after commit"])
def test_a_turn_that_is_run_again_after_a_crash_uses_the_last_residual_once(
    is_committed: bool,
    repository: Repository,
    quantised: Settings,
    submit: Callable[..., Submission],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a submission without a crash, and one whose worker dies at turn 2
    expected, crashing = submit(), submit()
    run(repository, quantised, expected)
    run_turn(repository, quantised, crashing, 1, ignore)
    commit = Contributions.commit

    def die(self: Contributions, contribution: Contribution) -> bool:
        if is_committed:
            commit(self, contribution)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Contributions, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            run_turn(repository, quantised, crashing, 2, ignore)

    for turn in range(2, TURNS + 1):
        run_turn(repository, quantised, crashing, turn, ignore)

    for turn in range(1, TURNS + 1):
        digests = {committed(repository, each, turn).shared.digest for each in (expected, crashing)}
        assert len(digests) == 1, turn
    assert residuals(quantised) == []


def test_the_residual_of_an_attempt_that_was_not_committed_is_not_used(
    repository: Repository,
    quantised: Settings,
    submit: Callable[..., Submission],
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a turn whose worker died before the commit, done by another machine from a newer base
    submission = submit()

    def die(self: Contributions, contribution: Contribution) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Contributions, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            run_turn(repository, quantised, submission, 1, ignore)
    (unused,) = residuals(quantised)
    change_policy(repository, {"min_contributions": 1})
    contribute("b")
    assert fuse_once(repository, quantised).decisions
    away = quantised.model_copy(update={"home": quantised.home / "away"})
    run_turn(repository, away, submission, 1, ignore)

    with caplog.at_level("INFO"):
        run_turn(repository, quantised, submission, 2, ignore)

    assert "residual_missing" in [getattr(record, "event", None) for record in caplog.records]
    (kept,) = [path for path in residuals(quantised) if away.home not in path.parents]
    assert kept.name.startswith("00002-")
    assert not unused.exists()


def test_quantised_and_other_contributions_are_fused_together_and_audited(
    repository: Repository,
    settings: Settings,
    quantised: Settings,
    submit: Callable[..., Submission],
    read_model: Callable[[int | None], dict[str, np.ndarray]],
) -> None:
    change_policy(repository, {"min_contributions": 3})
    dtypes = ("quantised", "bfloat16", "float32")
    submissions = []
    for dtype in dtypes:
        own = settings.model_copy(update={"contribution_dtype": dtype})
        submissions.append(submit(turns=1))
        run_turn(repository, own, submissions[-1], 1, ignore)
    assert residuals(quantised) == []

    entry = fuse_once(repository, settings).entry

    assert entry is not None
    assert [decision.outcome for decision in entry.decisions] == ["fused"] * 3
    before, after = read_model(0), read_model(1)
    assert before.keys() == after.keys()
    for submission in submissions:
        repository.submissions.close(submission.submission_id)
    assert audit(settings, repository.name).findings == ()
