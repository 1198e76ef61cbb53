"""One turn of a submission on a tiny real model and real text."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file

from coldfusion_queue.audit import audit
from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.records import Contribution, Hyperparameters, Submission
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.submissions import SubmissionState
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from coldfusion_queue.turn import Phase, TurnOutcome, run_turn
from tests.integration.submitting import committed, upload_rows
from tests.watching import ignore

Submit = Callable[..., Submission]

QUICK = Hyperparameters(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)

#: Each submission as if it were the contributor's first.
FRESH = QUICK.model_copy(update={"head": "fresh"})


@pytest.fixture
def submit(repository: Repository, tmp_path: Path) -> Submit:
    def make(
        kind: str = "single", turns: int | None = 2, hyperparameters: Hyperparameters = QUICK
    ) -> Submission:
        dataset_id = upload_rows(repository, tmp_path, kind, ("train", "validation"))
        return repository.submissions.create(
            kind, dataset_id=dataset_id, turns=turns, hyperparameters=hyperparameters
        )

    return make


def fetch(
    repository: Repository, contribution: Contribution, tmp_path: Path
) -> dict[str, np.ndarray]:
    path = tmp_path / f"{contribution.attempt}.safetensors"
    repository.store.download(contribution.shared, path)
    # By torch, because numpy has no bfloat16.
    return {
        name: (value.float() if value.is_floating_point() else value).numpy()
        for name, value in load_torch_file(path).items()
    }


@pytest.mark.parametrize(
    ("kind", "metric", "num_outputs"),
    [
        pytest.param("single", "validation_accuracy", 3, id="single-text"),
        pytest.param("pair", "validation_accuracy", 3, id="pair"),
        pytest.param("regression", "validation_spearman", 1, id="regression"),
    ],
)
def test_a_turn_commits_a_delta_and_a_head_for_each_objective(
    kind: str,
    metric: str,
    num_outputs: int,
    repository: Repository,
    settings: Settings,
    submit: Submit,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    submission = submit(kind)

    outcome = run_turn(repository, settings, submission, 1, ignore)

    contribution = committed(repository, submission)
    assert outcome.committed
    assert (contribution.base_version, contribution.num_examples) == (0, 24)
    assert np.isfinite(contribution.metrics["train_loss"])
    assert -1 <= contribution.metrics[metric] <= 1
    delta = fetch(repository, contribution, tmp_path)
    assert delta.keys() == load_file(tiny_model_dir / "model.safetensors").keys()
    assert any(np.abs(value).max() > 1e-5 for value in delta.values())
    assert contribution.head is not None
    head = tmp_path / "head.safetensors"
    repository.store.download(contribution.head, head)
    assert load_file(head)["weight"].shape == (num_outputs, 32)


def test_delta_and_full_say_the_same(
    repository: Repository,
    settings: Settings,
    submit: Submit,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    tensors = {}
    for form in ("delta", "full"):
        submission = submit(hyperparameters=FRESH)
        own = settings.model_copy(
            update={"contribution_form": form, "contribution_dtype": "float32"}
        )
        run_turn(repository, own, submission, 1, ignore)
        tensors[form] = fetch(repository, committed(repository, submission), tmp_path)

    base = load_file(tiny_model_dir / "model.safetensors")
    for name, value in tensors["delta"].items():
        np.testing.assert_allclose(base[name] + value, tensors["full"][name], rtol=0, atol=1e-7)


def test_the_same_submission_gives_the_same_bytes(
    repository: Repository, settings: Settings, submit: Submit
) -> None:
    digests = set()
    for _ in range(2):
        submission = submit(hyperparameters=FRESH)
        run_turn(repository, settings, submission, 1, ignore)
        contribution = committed(repository, submission)
        assert contribution.head is not None
        digests.add((contribution.shared.digest, contribution.head.digest))

    assert len(digests) == 1


def test_training_lowers_the_loss(
    repository: Repository, settings: Settings, submit: Submit
) -> None:
    losses: list[float] = []

    def report(phase: Phase, _: int, progress: object) -> None:
        if phase is Phase.TRAINING:
            losses.append(progress.loss)  # type: ignore[attr-defined]

    long = QUICK.model_copy(update={"epochs": 20, "learning_rate": 3e-3})
    own = settings.model_copy(update={"progress_interval_seconds": 1e-6})
    run_turn(repository, own, submit(hyperparameters=long), 1, report)

    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_turn_that_is_done_is_not_run_again(
    repository: Repository, settings: Settings, submit: Submit
) -> None:
    submission = submit()
    run_turn(repository, settings, submission, 1, ignore)
    first = committed(repository, submission)

    again = run_turn(repository, settings, submission, 1, ignore)

    assert not again.committed
    assert committed(repository, submission) == first
    objects = list(
        repository.store.list(f"{repository.name}/contributions/{first.contribution_id}/")
    )
    assert len(objects) == 3  # the record, the shared parameters, the head


def test_of_three_workers_that_train_one_turn_at_once_one_contributes(
    repository: Repository, settings: Settings, submit: Submit, tmp_path: Path
) -> None:
    # Given no leases that tell them of each other, as when Redis is away
    submission = submit(turns=1)
    trained = threading.Barrier(3, timeout=60)

    def work(number: int) -> TurnOutcome:
        def report(phase: Phase, *_: object) -> None:
            if phase is Phase.UPLOADING:
                trained.wait()

        own = settings.model_copy(update={"home": tmp_path / f"worker{number}"})
        opened = Repository(Store.open(own), repository.name)
        return run_turn(opened, own, submission, 1, report)

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(work, range(3)))

    assert sorted(outcome.committed for outcome in outcomes) == [False, False, True]
    contribution = committed(repository, submission)
    prefix = f"{repository.name}/contributions/{contribution.contribution_id}/"
    assert {item.key.removeprefix(prefix) for item in repository.store.list(prefix)} == {
        "contribution.json",
        f"{contribution.attempt}/shared.safetensors",
        f"{contribution.attempt}/head.safetensors",
    }
    assert fuse_once(repository, settings).decisions[0].outcome == "fused"
    assert fuse_once(repository, settings).decisions == ()
    repository.submissions.close(submission.submission_id)
    assert audit(settings, repository.name).findings == ()


def test_the_head_is_kept_for_the_next_turn(
    repository: Repository, settings: Settings, submit: Submit, tmp_path: Path
) -> None:
    still = QUICK.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    submission = submit(hyperparameters=still)
    heads = []
    for turn in (1, 2):
        run_turn(repository, settings, submission, turn, ignore)
        head = committed(repository, submission, turn).head
        assert head is not None
        path = tmp_path / f"head{turn}.safetensors"
        repository.store.download(head, path)
        heads.append(load_file(path)["weight"])
        with safe_open(path, framework="numpy") as file:
            meaning = json.loads(file.metadata()["head"])
        assert meaning["labels"] == ["label0", "label1", "label2"]

    # A fresh head would be another draw of the turn's own seed.
    np.testing.assert_allclose(heads[0], heads[1], atol=1e-6)


def test_turns_are_counted_from_the_bucket_alone(
    repository: Repository, settings: Settings, submit: Submit
) -> None:
    submission = submit(turns=2)
    states = [repository.submissions.status(submission)]
    for turn in (1, 2):
        run_turn(repository, settings, submission, turn, ignore)
        states.append(repository.submissions.status(submission))

    assert [state.next_turn for state in states] == [1, 2, None]
    assert states[-1].state is SubmissionState.COMPLETE


def test_frozen_embeddings_are_contributed_unchanged(
    repository: Repository, settings: Settings, submit: Submit, tmp_path: Path
) -> None:
    frozen = QUICK.model_copy(update={"freeze_embeddings": True})
    submission = submit(hyperparameters=frozen)

    run_turn(repository, settings, submission, 1, ignore)

    delta = fetch(repository, committed(repository, submission), tmp_path)
    assert not delta["embeddings.word_embeddings.weight"].any()
    assert delta["encoder.layer.0.attention.self.query.weight"].any()


def test_a_diverging_finetune_is_not_contributed(
    repository: Repository, settings: Settings, submit: Submit
) -> None:
    wild = QUICK.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})
    submission = submit("regression", hyperparameters=wild)

    with pytest.raises(TrainingFailedError, match=r"lower learning_rate"):
        run_turn(repository, settings, submission, 1, ignore)

    assert repository.inbox.count() == 0


def test_what_a_report_raises_ends_the_turn_before_anything_is_committed(
    repository: Repository, settings: Settings, submit: Submit
) -> None:
    def report(phase: Phase, *_: object) -> None:
        if phase is Phase.UPLOADING:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_turn(repository, settings, submit(), 1, report)

    assert repository.inbox.count() == 0
    assert not list(repository.store.list(f"{repository.name}/contributions/"))


@pytest.mark.parametrize("broken", ["shared.safetensors", "head.safetensors"])
def test_an_upload_that_breaks_off_leaves_nothing_of_its_attempt(
    broken: str,
    repository: Repository,
    settings: Settings,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_file = repository.store.put_file

    def break_off(key: str, *arguments: object) -> object:
        if key.endswith(broken):
            raise KeyboardInterrupt
        return put_file(key, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(repository.store, "put_file", break_off)
    with pytest.raises(KeyboardInterrupt):
        run_turn(repository, settings, submit(), 1, ignore)

    assert not list(repository.store.list(f"{repository.name}/contributions/"))


def test_an_init_that_breaks_off_leaves_nothing_of_its_model(
    store: Store, settings: Settings, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Repository(store, settings.repository)
    put_file = store.put_file

    def break_off(key: str, *arguments: object) -> object:
        if key.endswith("tokenizer.json"):
            raise KeyboardInterrupt
        return put_file(key, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "put_file", break_off)
    with pytest.raises(KeyboardInterrupt):
        fresh.base_versions.upload_first(tiny_model_dir)

    assert not list(store.list(f"{settings.repository}/"))


def test_one_unreadable_submission_hides_no_other(repository: Repository, submit: Submit) -> None:
    good, bad, ended = submit(), submit(), submit()
    repository.store.put(repository.keys.submission(bad.submission_id), b"{not json")
    repository.store.put(repository.keys.failure(ended.submission_id), b"{not json")

    assert [item.submission for item in repository.submissions.open()] == [good]


def test_a_failure_of_ours_is_recorded_in_full_and_any_other_by_its_class_alone(
    repository: Repository, submit: Submit
) -> None:
    known, unknown = submit(), submit()

    repository.submissions.fail(
        known.submission_id, 1, TrainingFailedError("this finetune", "the loss is nan", "wait")
    )
    repository.submissions.fail(unknown.submission_id, 1, ValueError("row: a patient's name"))

    reasons = [repository.submissions.failure(item.submission_id) for item in (known, unknown)]
    assert reasons[0] is not None
    assert reasons[0].reason == "this finetune: the loss is nan; wait"
    assert reasons[1] is not None
    assert "patient" not in reasons[1].reason
    assert reasons[1].error == "ValueError"
    assert not list(repository.submissions.open())
