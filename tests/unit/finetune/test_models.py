"""Every supported family of models: one finetune of each, end to end, on real text."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from coldfusion_queue.finetune.model import load_body
from coldfusion_queue.finetune.pretrained import export_pretrained
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.finetune.training import FinetuneInterrupted, Progress
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.settings import load_settings
from tests.unit.finetune.conftest import request_on
from tests.unit.finetune.families import FAMILIES, Family, save, tensors_of
from tests.watching import StopAt, ignore

EXAMPLES = Path(__file__).parents[3] / "examples" / "data" / "debian_language" / "train.jsonl"
SETTINGS = load_settings(device="cpu", progress_interval_seconds=1e-9)

#: 16 examples in batches of 8: 2 steps an epoch.
LEARNING = Hyperparameters(
    epochs=60,
    batch_size=8,
    learning_rate=3e-3,
    head_learning_rate_factor=5,
    warmup_fraction=0.2,
    max_length=40,
)
SHORT = LEARNING.model_copy(update={"epochs": 2})
NUM_STEPS = 4

Files = tuple[bytes, bytes]


@dataclass(frozen=True)
class Finished:
    """What a finetune left, and the loss of each step."""

    shared: dict[str, Tensor]
    losses: list[float]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    rows = EXAMPLES.read_text(encoding="utf-8").splitlines(keepends=True)[:16]
    (directory / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    return directory


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(scope="module")
def base_dir(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base version 0, from a model that comes with another task's head."""
    root = tmp_path_factory.mktemp(family.name)
    export_pretrained(str(save(family, root / "source", "ForSequenceClassification")), root, "5GB")
    return root


@pytest.fixture(scope="module")
def turn(data: Path, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneRequest:
    return request_on(data, tmp_path_factory.mktemp("prepared"), base_dir, SHORT)


@pytest.fixture(scope="module")
def finished(turn: FinetuneRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    seen: list[Progress] = []
    long = replace(turn, hyperparameters=LEARNING)
    result = finetune(long, SETTINGS, tmp_path_factory.mktemp("finished"), seen.append)
    return Finished(load_file(result.shared), [progress.loss for progress in seen])


@pytest.fixture(scope="module")
def uninterrupted(turn: FinetuneRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return run(turn, tmp_path_factory.mktemp("uninterrupted"))


def run(request: FinetuneRequest, work_dir: Path) -> Files:
    result = finetune(request, SETTINGS, work_dir, ignore)
    return result.shared.read_bytes(), result.head.read_bytes()


def unseen_by_the_head(body: torch.nn.Module) -> set[str]:
    """Parameters that the last hidden states do not depend on, found by their gradients."""
    ids = torch.arange(8).reshape(2, 4)
    body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.sum().backward()
    return {name for name, parameter in body.named_parameters() if parameter.grad is None}


def test_a_delta_has_the_names_of_the_base_version_and_finite_numbers(
    finished: Finished, base_dir: Path
) -> None:
    base = tensors_of(base_dir)

    assert {name: tensor.shape for name, tensor in finished.shared.items()} == {
        name: tensor.shape for name, tensor in base.items()
    }
    assert all(bool(torch.isfinite(tensor).all()) for tensor in finished.shared.values())


def test_the_loss_falls_until_the_examples_are_known(finished: Finished) -> None:
    first, last = sum(finished.losses[:2]), sum(finished.losses[-2:])

    assert last < first / 10


def test_what_the_head_does_not_see_stays_as_it_was_and_all_else_changes(
    finished: Finished, base_dir: Path, family: Family
) -> None:
    unchanged = {name for name, tensor in finished.shared.items() if not tensor.any()}

    assert unchanged == unseen_by_the_head(AutoModel.from_pretrained(base_dir))
    poolers = {"pooler.dense.weight", "pooler.dense.bias"}
    assert unchanged == (poolers if family.name in {"Bert", "Roberta"} else set())


def test_what_is_fused_of_it_loads_as_a_plain_model(
    finished: Finished, base_dir: Path, tmp_path: Path
) -> None:
    fused = {
        name: value + finished.shared[name] / 2 for name, value in tensors_of(base_dir).items()
    }
    save_file(fused, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((base_dir / "config.json").read_bytes())

    model, told = AutoModel.from_pretrained(tmp_path, output_loading_info=True)

    assert {kind: names for kind, names in told.items() if names} == {}
    loaded = model.state_dict()
    assert loaded.keys() == fused.keys()
    assert all(torch.equal(loaded[name], value) for name, value in fused.items())


def test_nothing_is_kept_for_a_next_token(base_dir: Path) -> None:
    ids = torch.arange(8).reshape(2, 4)

    outputs = load_body(base_dir)(input_ids=ids, attention_mask=torch.ones_like(ids))

    assert getattr(outputs, "past_key_values", None) is None


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_frozen_embeddings_are_those_of_the_tokens_whatever_they_are_called(
    turn: FinetuneRequest, finished: Finished, pooling: str, tmp_path: Path
) -> None:
    changes = {"freeze_embeddings": True, "pooling": pooling}
    frozen = replace(turn, hyperparameters=SHORT.model_copy(update=changes))

    result = finetune(frozen, SETTINGS, tmp_path, ignore)

    unchanged = {name for name, tensor in load_file(result.shared).items() if not tensor.any()}
    before = {name for name, tensor in finished.shared.items() if not tensor.any()}
    (name,) = unchanged - before
    assert load_file(result.shared)[name].shape[0] > 100  # its rows are the tokens


def test_the_same_request_gives_the_same_bytes(
    turn: FinetuneRequest, uninterrupted: Files, tmp_path: Path
) -> None:
    torch.manual_seed(5)  # another process has drawn other numbers

    assert run(turn, tmp_path) == uninterrupted


def test_an_interrupted_finetune_ends_in_the_same_bytes(
    turn: FinetuneRequest, uninterrupted: Files, tmp_path: Path
) -> None:
    rest = turn
    for _ in range(NUM_STEPS - 1):
        with pytest.raises(FinetuneInterrupted) as interruption:
            finetune(replace(rest, should_stop=StopAt(1)), SETTINGS, tmp_path, ignore)
        rest = replace(turn, checkpoint=interruption.value.path)

    assert run(rest, tmp_path) == uninterrupted


def test_the_head_that_a_model_came_with_is_nobodys(base_dir: Path, family: Family) -> None:
    body = family.build("ForSequenceClassification").base_model.state_dict()
    base = tensors_of(base_dir)

    assert all(torch.equal(base[name], value) for name, value in body.items() if name in base)
    assert body.keys() - base.keys() == set()
    assert json.loads((base_dir / "config.json").read_text())["architectures"] == [
        f"{family.name}Model"
    ]


def test_a_process_loads_one_model_at_a_time_whatever_its_threads(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = AutoModel.from_pretrained
    running: list[object] = []
    at_once: list[int] = []

    def slowly(*arguments: Any, **options: Any) -> object:
        running.append(arguments)
        at_once.append(len(running))
        time.sleep(0.05)
        loaded = load(*arguments, **options)
        running.pop()
        return loaded

    monkeypatch.setattr(AutoModel, "from_pretrained", slowly)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(load_body, [tiny_model_dir] * 3))

    assert at_once == [1, 1, 1]
