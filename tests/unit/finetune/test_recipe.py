"""The recipe as a whole: which examples, when it stops, what it says of itself."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from coldfusion_queue.errors import DeviceLostError, TrainingFailedError, UsageError
from coldfusion_queue.finetune import run, training
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.finetune.request import FinetuneRequest, FinetuneResult
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.finetune.training import FinetuneInterrupted
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import MakeRequest
from tests.watching import StopAt, ignore

Scores = Callable[..., float]


def without_validation(request: FinetuneRequest) -> FinetuneRequest:
    return replace(request, splits={"train": request.splits["train"]})


def examples_seen(request: FinetuneRequest, settings: Settings, work_dir: Path) -> int:
    found: list[Progress] = []
    finetune(request, settings, work_dir, found.append)
    return found[-1].num_examples


def test_a_dataset_without_a_validation_split_has_one_cut_from_its_ends(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request(epochs=1)
    cut = without_validation(request)

    assert examples_seen(request, quick_settings, tmp_path) == 20
    assert examples_seen(cut, quick_settings, tmp_path) == 18
    assert "validation_accuracy" in finetune(cut, quick_settings, tmp_path, ignore).metrics


def test_no_validation_examples_wanted_leaves_all_for_training(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = without_validation(make_request(epochs=1, max_validation_examples=0))

    assert examples_seen(request, quick_settings, tmp_path) == 20
    assert "validation_accuracy" not in finetune(request, quick_settings, tmp_path, ignore).metrics


@pytest.mark.parametrize(
    ("kind", "metric", "recorded"),
    [
        ("classification", "auto", "validation_accuracy"),
        ("classification", "f1", "validation_f1"),
        ("classification", "matthews", "validation_matthews"),
        ("regression", "auto", "validation_spearman"),
    ],
)
def test_the_score_is_recorded_under_its_name(
    kind: str,
    metric: str,
    recorded: str,
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
) -> None:
    result = finetune(make_request(kind, metric=metric), quick_settings, tmp_path, ignore)

    assert set(result.metrics) == {"train_loss", "num_steps", "stopped_early", recorded}
    assert -1 <= result.metrics[recorded] <= 1


def test_a_metric_for_other_data_is_refused_before_any_step(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    reports: list[Progress] = []
    request = make_request("regression", metric="f1", max_validation_examples=0)

    with pytest.raises(UsageError, match=r"metric 'f1' .* expected spearman"):
        finetune(request, quick_settings, tmp_path, reports.append)

    assert reports == []


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], list[float]]:
    """``scored(scores)``: what validations find, one after the other; those left are returned."""

    def install(scores: list[float]) -> list[float]:
        monkeypatch.setattr(run, "score", lambda *_: scores.pop(0))
        return scores

    return install


#: A validation every 8 examples, which is a step; 60 examples in three epochs are 9 steps.
EAGER: dict[str, Any] = {
    "validate_every_examples": 8,
    "patience_examples": 16,
    "min_gain": 0.1,
    "epochs": 3,
}


def test_a_training_without_gain_stops_early_and_says_so(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    scored: Callable[[list[float]], list[float]],
) -> None:
    # after 8, 16 and 28 examples; from 8 to 28 it gains 0.05
    left = scored([0.50, 0.52, 0.55, 0.77])
    reports: list[Progress] = []

    result = finetune(make_request(**EAGER), quick_settings, tmp_path, reports.append)

    assert result.metrics["stopped_early"] == 1
    assert result.metrics["num_steps"] == 4
    assert result.metrics["validation_accuracy"] == 0.55  # of what is contributed
    assert left == [0.77]  # it is not scored twice
    assert (reports[-1].step, reports[-1].num_steps) == (4, 9)


def test_gain_within_the_patience_goes_on_to_the_end(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    scored: Callable[[list[float]], list[float]],
) -> None:
    left = scored([0.1 * step for step in range(1, 12)])

    result = finetune(make_request(**EAGER), quick_settings, tmp_path, ignore)

    assert (result.metrics["stopped_early"], result.metrics["num_steps"]) == (0, 9)
    assert len(left) < 11 - 5


def test_an_interrupted_training_stops_where_it_would_have_stopped(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    scored: Callable[[list[float]], list[float]],
) -> None:
    scores = [0.5, 0.52, 0.55]
    request = make_request(**EAGER)
    scored(list(scores))
    expected = finetune(request, quick_settings, tmp_path, ignore)
    bits = expected.shared.read_bytes()

    for stop in (1, 2, 3):
        left = scored(list(scores))
        with pytest.raises(FinetuneInterrupted) as caught:
            finetune(replace(request, should_stop=StopAt(stop)), quick_settings, tmp_path, ignore)
        rest = replace(request, checkpoint=caught.value.path)
        result: FinetuneResult = finetune(rest, quick_settings, tmp_path, ignore)
        assert (result.metrics, result.shared.read_bytes(), left) == (expected.metrics, bits, [])


def test_the_rows_of_tokens_that_do_not_occur_shrink_as_adamw_shrinks_them(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from safetensors.torch import load_file

    request = make_request(
        weight_decay=0.3, learning_rate=1e-2, max_examples=4, max_validation_examples=0, epochs=9
    )
    few = load_file(finetune(request, quick_settings, tmp_path, ignore).shared)
    monkeypatch.setattr(run, "shrink_embedding", lambda *_: None)

    everything = load_file(finetune(request, quick_settings, tmp_path, ignore).shared)

    name = "embeddings.word_embeddings.weight"
    assert few.keys() == everything.keys()
    assert few[name].eq(0).all(dim=1).sum() <= 1  # the row of padding may be zero
    torch.testing.assert_close(few[name], everything[name], rtol=1e-3, atol=2e-5)


class CountHostSyncs(TorchDispatchMode):
    """Counts how often a number is asked of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if "_local_scalar_dense" in str(function) or "nonzero" in str(function):
            self.number += 1
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = []
    step = training._Training.step

    def counted(*arguments: Any) -> None:
        with CountHostSyncs() as counter:
            step(*arguments)
        counts.append(counter.number)

    monkeypatch.setattr(training._Training, "step", counted)
    finetune(make_request(), quick_settings, tmp_path, ignore)

    assert len(counts) == 9
    assert counts[:-1] == [0] * 8
    assert counts[-1] == 1  # the last one reports the loss


def test_the_record_says_what_it_takes_to_repeat_it(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    exact = quick_settings.model_copy(update={"precision": "float32"})

    environment = finetune(make_request(), exact, tmp_path, ignore).environment

    assert environment["torch"] == torch.__version__
    assert environment["precision"] == "float32"
    assert environment["threads"] == str(torch.get_num_threads())
    assert {"python", "transformers", "tokenizers", "coldfusion-queue", "device"} < set(environment)


def test_the_second_turn_finds_the_tokens_of_the_first(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from coldfusion_queue.finetune import data

    request = make_request()
    first = finetune(request, quick_settings, tmp_path, ignore).shared.read_bytes()
    monkeypatch.setattr(data, "write_tokens", None)

    assert finetune(request, quick_settings, tmp_path, ignore).shared.read_bytes() == first

    longer = replace(
        request, hyperparameters=request.hyperparameters.model_copy(update={"max_length": 33})
    )
    with pytest.raises(TypeError, match=r"not callable"):  # other tokens, so they are made anew
        finetune(longer, quick_settings, tmp_path, ignore)


def test_a_loss_that_is_not_finite_is_a_failure_and_nothing_is_written(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    wild = make_request("regression", learning_rate=1e30, max_grad_norm=1e30, warmup_fraction=0.0)

    with pytest.raises(TrainingFailedError, match=r"the loss is (nan|inf) at step .*learning_rate"):
        finetune(wild, quick_settings, tmp_path, ignore)

    assert not (tmp_path / "shared.safetensors").exists()


def test_a_device_that_fails_is_told_from_a_training_that_does(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fall_off_the_bus(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore lines")

    monkeypatch.setattr(Passes, "gradients", fall_off_the_bus)

    with pytest.raises(DeviceLostError, match=r"device cpu: CUDA error: unspecified launch fail"):
        finetune(make_request(), quick_settings, tmp_path, ignore)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_device_that_is_not_there_is_another_workers_chance(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    nowhere = quick_settings.model_copy(update={"device": "cuda"})

    with pytest.raises(DeviceLostError, match=r"device cuda: it is not there; .*COLDFUSION_DEVICE"):
        finetune(make_request(), nowhere, tmp_path, ignore)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch warns of itself while it compiles
def test_a_compiled_finetune_learns_what_one_that_is_not_does(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "torch.__trace")  # or most of the time goes into that
    request = make_request(dropout=0.0)
    compiled = quick_settings.model_copy(update={"compile": True})
    frames = torch._dynamo.utils.counters["frames"]
    frames.clear()
    expected = load_file(finetune(request, quick_settings, tmp_path, ignore).head)

    assert frames["ok"] == 0
    found = load_file(finetune(request, compiled, tmp_path, ignore).head)

    assert frames["ok"] > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-4)
