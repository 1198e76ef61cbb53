"""A finetune that was interrupted and goes on ends as if it had not been, to the last bit."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.finetune.training import FinetuneInterrupted
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import NUM_STEPS, MakeRequest
from tests.watching import StopAt, ignore

Result = tuple[bytes, bytes, dict[str, float]]


def finish(
    request: FinetuneRequest,
    settings: Settings,
    work_dir: Path,
    report: Callable[[Progress], None] = ignore,
) -> Result:
    result = finetune(request, settings, work_dir, report)
    return result.shared.read_bytes(), result.head.read_bytes(), dict(result.metrics)


def interrupt(
    request: FinetuneRequest, settings: Settings, work_dir: Path, steps: int
) -> FinetuneRequest:
    """Run for some steps; what is returned goes on from there."""
    with pytest.raises(FinetuneInterrupted) as interruption:
        finetune(replace(request, should_stop=StopAt(steps)), settings, work_dir, ignore)
    torch.manual_seed(steps)  # another process has drawn other numbers
    return replace(request, checkpoint=interruption.value.path)


def interrupted_at(
    request: FinetuneRequest, settings: Settings, work_dir: Path, stops: Iterable[int]
) -> Result:
    done = 0
    for stop in stops:
        request = interrupt(request, settings, work_dir, stop - done)
        done = stop
    return finish(request, settings, work_dir)


@pytest.mark.parametrize(
    ("stops", "kind", "changes"),
    [
        pytest.param((1,), "classification", {}, id="first-step"),
        pytest.param((2,), "classification", {}, id="mid-epoch"),
        pytest.param((3,), "classification", {}, id="epoch-boundary"),
        pytest.param((4,), "classification", {}, id="after-a-boundary"),
        pytest.param((NUM_STEPS - 1,), "classification", {}, id="last-but-one"),
        pytest.param((2, 7), "classification", {}, id="twice"),
        pytest.param((3, 6), "classification", {}, id="twice-at-boundaries"),
        pytest.param((4, 5, 6), "classification", {}, id="after-every-step"),
        pytest.param((2, 6), "regression", {}, id="regression"),
        pytest.param((2, 6), "classification", {"freeze_embeddings": True}, id="frozen"),
        pytest.param((5,), "classification", {"dropout": 0.0}, id="no-dropout-before-the-head"),
        pytest.param((1,), "classification", {"epochs": 1}, id="one-epoch"),
        pytest.param((3,), "classification", {"max_examples": 13}, id="some-of-the-examples"),
        pytest.param((4,), "regression", {"head_learning_rate_factor": 7.0}, id="two-rates"),
        pytest.param((1,), "classification", {"warmup_fraction": 0.0}, id="no-warm-up"),
        pytest.param((5,), "classification", {"pooling": "first"}, id="first-token"),
        pytest.param(
            (2, 6), "classification", {"adapter": "lora", "lora_dropout": 0.3}, id="adapters"
        ),
    ],
)
def test_an_interrupted_finetune_ends_in_the_same_bits(
    stops: tuple[int, ...],
    kind: str,
    changes: dict[str, object],
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
) -> None:
    request = make_request(kind, **changes)
    expected = finish(request, quick_settings, tmp_path)

    assert interrupted_at(request, quick_settings, tmp_path, stops) == expected


def test_duty_cycle_and_reports_of_either_worker_change_no_bit(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request()
    expected = finish(request, quick_settings, tmp_path)
    slow = quick_settings.model_copy(update={"duty_cycle": 0.7, "progress_interval_seconds": 1e-6})

    for first, second in ((slow, quick_settings), (quick_settings, slow)):
        rest = interrupt(request, first, tmp_path, 5)
        assert finish(rest, second, tmp_path) == expected


def test_the_form_is_the_last_workers_and_the_head_may_have_a_past(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    first = make_request()
    finetune(first, quick_settings, tmp_path, ignore)
    head = (tmp_path / "head.safetensors").rename(tmp_path / "previous_head.safetensors")
    request = replace(first, turn=2, previous_head=head, form="full")
    expected = finish(request, quick_settings, tmp_path)

    rest = interrupt(replace(request, form="delta"), quick_settings, tmp_path, 4)

    assert finish(replace(rest, form="full"), quick_settings, tmp_path) == expected


def test_a_stop_at_the_last_step_just_finishes(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    stop = StopAt(NUM_STEPS)

    finish(replace(make_request(), should_stop=stop), quick_settings, tmp_path)

    assert stop.asked == NUM_STEPS - 1
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_interruption_says_where_and_survives_a_queue(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = replace(make_request(), should_stop=StopAt(4))
    with pytest.raises(FinetuneInterrupted, match="after step 4 of 9") as caught:
        finetune(request, quick_settings, tmp_path, ignore)

    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (again.path, again.step, again.num_steps) == (
        tmp_path / "checkpoint.safetensors",
        4,
        NUM_STEPS,
    )


def test_progress_goes_on_where_it_was(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    def told(request: FinetuneRequest) -> list[tuple[int, int, int, float]]:
        found: list[Progress] = []
        finish(request, always, tmp_path, found.append)
        return [(item.step, item.num_steps, item.num_examples, item.loss) for item in found]

    always = quick_settings.model_copy(update={"progress_interval_seconds": 1e-9})
    request = make_request()
    expected = told(request)

    rest = interrupt(request, always, tmp_path, 4)

    assert [item[0] for item in expected] == list(range(1, NUM_STEPS + 1))
    assert expected[-1][2] == 60
    assert told(rest) == expected[4:]


def test_the_loss_that_is_recorded_is_the_mean_over_the_last_epochs_examples(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    always = quick_settings.model_copy(update={"progress_interval_seconds": 1e-9})
    found: list[Progress] = []

    _, _, metrics = finish(make_request(), always, tmp_path, found.append)

    seen = [0, *(item.num_examples for item in found)]
    losses = [
        item.loss * (item.num_examples - before) for item, before in zip(found, seen, strict=False)
    ]
    assert metrics["train_loss"] == pytest.approx(sum(losses[-3:]) / 20, rel=1e-6)


def test_the_bits_are_the_same_with_two_threads_as_well(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request()
    two = quick_settings.model_copy(update={"torch_threads": 2})
    try:
        expected = finish(request, two, tmp_path)
        assert torch.get_num_threads() == 2

        assert interrupted_at(request, two, tmp_path, (2, 7)) == expected
    finally:
        torch.set_num_threads(1)


def test_the_rate_after_an_interruption_counts_what_this_worker_did(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rest = interrupt(make_request(), quick_settings, tmp_path, NUM_STEPS - 1)
    found: list[Progress] = []
    ticks: list[float] = []

    def monotonic() -> float:
        ticks.append(float(len(ticks)))
        return ticks[-1]

    # The meter's clock alone; others look at theirs too.
    clock = SimpleNamespace(monotonic=monotonic)
    monkeypatch.setattr("coldfusion_queue.finetune.progress.time", clock)
    finish(rest, quick_settings, tmp_path, found.append)

    assert len(found) == 1
    done = found[0].examples_per_second * (ticks[-1] - ticks[0])
    assert done in {4, 8}  # the examples of the one batch that was left
    assert found[0].num_examples == 60


def test_a_diverged_finetune_is_not_saved(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    wild = make_request("regression", learning_rate=1e30, max_grad_norm=1e30, warmup_fraction=0.0)

    with pytest.raises(TrainingFailedError, match=r"lower learning_rate"):
        finetune(replace(wild, should_stop=StopAt(3)), quick_settings, tmp_path, ignore)

    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_checkpoint_holds_what_training_changes_and_no_more(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request(freeze_embeddings=True)
    path = interrupt(request, quick_settings, tmp_path, 2).checkpoint
    assert path is not None

    with safe_open(path, framework="numpy") as file:
        names = set(file.keys())
    with safe_open(request.base_dir / "model.safetensors", framework="numpy") as file:
        base = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    frozen = "embeddings.word_embeddings.weight"
    assert {f"model/body.{name}" for name in base if name != frozen} <= names
    assert not [name for name in names if "word_embeddings" in name]
    assert {"model/head.weight", "exp_avg/head.weight", "exp_avg_sq/head.bias"} <= names
    assert "exp_avg/body.encoder.layer.0.attention.self.query.weight" in names
    assert "exp_avg/body.pooler.dense.weight" not in names  # it never had a gradient
    assert path.stat().st_size < 3 * 4 * sum(map(_size, base.values())) + 32 * 1024
    assert [item.name for item in tmp_path.glob(".*partial")] == []


def _size(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())
