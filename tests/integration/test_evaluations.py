"""Evaluations of real models on the real store: measured once, recorded once, sent once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import torch

from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.evaluating import EvaluationObsolete, run_evaluation
from coldfusion_queue.evaluation import frozen
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue import evaluations, tasks
from coldfusion_queue.records import Evaluation, EvaluationRequest, EvaluationSpec, Hyperparameters
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.deliveries import messages
from tests.integration.submitting import upload_rows
from tests.rows import rows

QUICK = Hyperparameters(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)

MakeRequest = Callable[..., EvaluationRequest]


@pytest.fixture
def ask(repository: Repository, tmp_path: Path) -> MakeRequest:
    """``ask(kind, **fields)``: ask for an evaluation of the pretrained model."""

    def make(
        kind: str = "frozen",
        data: str = "single",
        splits: tuple[str, ...] = ("train", "test"),
        **fields: object,
    ) -> EvaluationRequest:
        dataset_id = upload_rows(repository, tmp_path, data, splits)
        spec = EvaluationSpec.model_validate(
            {"dataset_id": dataset_id, "kind": kind, "hyperparameters": QUICK, **fields}
        )
        (request,) = repository.evaluations.want(repository.ledger.base_version(), [spec])
        return request

    return make


def found(repository: Repository, request: EvaluationRequest) -> Evaluation:
    evaluation = repository.evaluations.find(request.evaluation_id)
    assert evaluation is not None
    return evaluation


@pytest.mark.parametrize("data", ["single", "pair", "regression"])
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("frozen", {}),
        ("finetuned", {"seed": 3}),
        ("few_shot", {"num_shots": 12}),
    ],
)
def test_every_kind_is_measured_and_recorded(
    repository: Repository,
    settings: Settings,
    ask: MakeRequest,
    kind: str,
    data: str,
    fields: dict[str, object],
) -> None:
    request = ask(kind, data, **fields)

    assert run_evaluation(repository, settings, request)

    evaluation = found(repository, request)
    assert evaluation.failure is None
    assert evaluation.score is not None
    assert evaluation.interval is not None
    assert evaluation.interval[0] <= evaluation.score <= evaluation.interval[1]
    assert evaluation.metric == ("spearman" if data == "regression" else "accuracy")
    assert (evaluation.scored_on, evaluation.num_scored) == ("test", 24)
    # Of 24 rows one at either end is for development, where something is developed.
    assert evaluation.num_train == {"frozen": 24, "finetuned": 22, "few_shot": 12}[kind]
    assert evaluation.seconds > 0
    assert list(repository.evaluations.wanted()) == []


@pytest.mark.parametrize(
    ("splits", "wanted", "scored_on", "num_scored"),
    [
        (("train", "validation", "test"), "test", "test", 24),
        (("train", "validation"), "test", "validation", 24),
        (("train",), "test", "train", 2),
        (("train", "validation", "test"), "validation", "validation", 24),
        (("train", "test"), "validation", "train", 2),
    ],
)
@pytest.mark.parametrize("kind", ["frozen", "finetuned"])
def test_what_a_dataset_lacks_the_next_split_replaces(
    repository: Repository,
    settings: Settings,
    ask: MakeRequest,
    kind: str,
    splits: tuple[str, ...],
    wanted: str,
    scored_on: str,
    num_scored: int,
) -> None:
    request = ask(kind, splits=splits, split=wanted)

    run_evaluation(repository, settings, request)

    evaluation = found(repository, request)
    assert (evaluation.scored_on, evaluation.num_scored) == (scored_on, num_scored)
    if scored_on == "train":
        assert evaluation.num_train == 22


@pytest.mark.parametrize("kind", ["frozen", "finetuned"])
def test_the_same_evaluation_gives_the_same_score(
    repository: Repository, settings: Settings, ask: MakeRequest, kind: str, tmp_path: Path
) -> None:
    request = ask(kind)
    scores = []
    for home in ("a", "b"):  # nothing of the first is kept for the second
        own = settings.model_copy(update={"home": tmp_path / home})
        run_evaluation(repository, own, request)
        scores.append(found(repository, request).score)
        repository.store.delete([repository.keys.evaluation(request.evaluation_id)])

    assert scores[0] == scores[1]


def test_features_are_computed_once_for_a_model_and_a_split(
    repository: Repository,
    settings: Settings,
    ask: MakeRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = []
    original = frozen.features_of

    def counted(*arguments: object) -> object:
        computed.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(frozen, "features_of", counted)
    seeds = itertools.count()
    monkeypatch.setattr(
        "tests.integration.submitting.rows", lambda kind: rows(kind, 24, next(seeds))
    )
    request = ask(splits=("train", "validation", "test"))
    run_evaluation(repository, settings, request)
    assert len(computed) == 2  # of train and test

    spec = request.spec.model_copy(update={"split": "validation"})
    (other,) = repository.evaluations.want(request.base, [spec])
    run_evaluation(repository, settings, other)
    assert len(computed) == 3  # train's are known


def test_one_that_is_done_is_not_done_again(
    repository: Repository, settings: Settings, ask: MakeRequest
) -> None:
    request = ask()
    run_evaluation(repository, settings, request)
    before = found(repository, request)

    assert not run_evaluation(repository, settings, request)
    assert repository.evaluations.want(request.base, [request.spec]) == []
    assert found(repository, request) == before


def test_of_two_at_once_one_is_recorded(
    repository: Repository, settings: Settings, ask: MakeRequest
) -> None:
    request = ask()
    recorded: list[bool] = []
    barrier = threading.Barrier(2)

    def hook(reached: CrashPoint) -> None:
        if reached is CrashPoint.EVALUATION_MEASURED:
            barrier.wait(30)

    install(hook)
    try:
        threads = [
            threading.Thread(
                target=lambda: recorded.append(run_evaluation(repository, settings, request))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        install(None)

    assert sorted(recorded) == [False, True]


@pytest.mark.parametrize("point", [CrashPoint.EVALUATION_MEASURED, CrashPoint.EVALUATION_RECORDED])
def test_killed_at_any_point_it_is_measured_by_the_next(
    repository: Repository, settings: Settings, ask: MakeRequest, point: CrashPoint
) -> None:
    class Killed(BaseException):
        pass

    def hook(reached: CrashPoint) -> None:
        if reached is point:
            raise Killed

    request = ask()
    install(hook)
    try:
        with pytest.raises(Killed):
            run_evaluation(repository, settings, request)
    finally:
        install(None)
    assert list(repository.evaluations.wanted()) == [request.evaluation_id]

    run_evaluation(repository, settings, request)

    assert found(repository, request).score is not None
    assert list(repository.evaluations.wanted()) == []


def test_a_model_whose_files_are_gone_is_not_wanted_any_more(
    repository: Repository, settings: Settings, ask: MakeRequest
) -> None:
    request = ask()
    repository.store.delete([file.key for file in request.base.model_files])

    with pytest.raises(EvaluationObsolete):
        run_evaluation(repository, settings, request)

    # No failure stands in the way of the same parameters, if they are ever fused again.
    assert repository.evaluations.find(request.evaluation_id) is None
    assert list(repository.evaluations.wanted()) == []


@pytest.mark.usefixtures("own_process")
def test_a_dataset_with_nothing_to_score_is_recorded_as_a_failure(
    repository: Repository, ask: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.integration.submitting.rows", _few_rows)
    request = ask(splits=("train",))

    tasks.evaluate(repository.name, request.evaluation_id)

    evaluation = found(repository, request)
    assert evaluation.score is None
    assert evaluation.error == "InvalidDatasetError"
    assert "no examples to score" in str(evaluation.failure)


@pytest.mark.usefixtures("own_process")
def test_a_task_measures_and_a_second_delivery_does_nothing(
    repository: Repository, ask: MakeRequest
) -> None:
    request = ask()

    tasks.evaluate(repository.name, request.evaluation_id)
    before = found(repository, request)
    tasks.evaluate(repository.name, request.evaluation_id)

    assert found(repository, request) == before


@pytest.mark.usefixtures("own_process")
def test_one_that_another_worker_has_is_left_to_it(
    repository: Repository, client: redis.Redis, ask: MakeRequest
) -> None:
    request = ask()
    client.set(RedisKeys(repository.name).turn(request.evaluation_id), "running:another")

    tasks.evaluate(repository.name, request.evaluation_id)

    assert repository.evaluations.find(request.evaluation_id) is None


@pytest.mark.usefixtures("own_process")
def test_what_is_queued_nowhere_is_sent_by_reconcile(
    repository: Repository, client: redis.Redis, settings: Settings, ask: MakeRequest
) -> None:
    request = ask()
    tasks.reconcile(repository.name)  # notes that it is missing
    key = RedisKeys(repository.name).missing(request.evaluation_id)
    since = client.get(key)
    assert since is not None
    client.set(key, int(since) - int(1000 * settings.lease_seconds / 6))

    tasks.reconcile(repository.name)

    assert len(messages(client, "evaluate")) == 1
    tasks.reconcile(repository.name)
    assert len(messages(client, "evaluate")) == 1  # it is about


@pytest.mark.usefixtures("own_process")
def test_reconcile_drops_a_request_that_is_done(
    repository: Repository, settings: Settings, ask: MakeRequest
) -> None:
    request = ask()
    run_evaluation(repository, settings, request)
    key = repository.keys.wanted_evaluation(request.evaluation_id)
    repository.store.create(key, request.to_bytes())  # as a death right after the record leaves it

    tasks.reconcile(repository.name)

    assert list(repository.evaluations.wanted()) == []


@pytest.mark.usefixtures("own_process")
def test_what_may_be_the_workers_fault_is_tried_again_before_it_is_a_failure(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    ask: MakeRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_memory(*_: object) -> object:
        raise torch.OutOfMemoryError("another process has it all")

    monkeypatch.setattr(frozen, "features_of", out_of_memory)
    request = ask()
    hint = RedisKeys(repository.name).turn(request.evaluation_id)

    for _ in range(settings.task_max_retries):
        tasks.evaluate(repository.name, request.evaluation_id)
        assert repository.evaluations.find(request.evaluation_id) is None
        assert client.get(hint) == "waiting"
    tasks.evaluate(repository.name, request.evaluation_id)

    assert found(repository, request).error == "OutOfMemoryError"


@pytest.mark.usefixtures("own_process")
def test_a_device_that_fails_ends_the_worker_and_says_nothing_of_the_model(
    repository: Repository, ask: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> object:
        raise RuntimeError("CUDA error: unspecified launch failure")

    stopped: list[bool] = []
    monkeypatch.setattr(frozen, "features_of", lost)
    monkeypatch.setattr(evaluations, "stop_this_worker", lambda: stopped.append(True))
    request = ask()

    tasks.evaluate(repository.name, request.evaluation_id)

    assert stopped == [True]
    assert repository.evaluations.find(request.evaluation_id) is None


def _few_rows(kind: str) -> list[dict[str, object]]:
    return rows(kind, 9)
