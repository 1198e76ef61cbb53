"""Finetunes of low-rank adapters: what is trained, and what is contributed of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import nn

from coldfusion_queue.demo.recipe import HYPERPARAMETERS, data_dir, pretrained_dir
from coldfusion_queue.errors import IncompatibleModelError, TrainingFailedError
from coldfusion_queue.finetune.adapters import add_adapters, merge_adapters, save_factors
from coldfusion_queue.finetune.model import load_body
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.finetune.training import FinetuneInterrupted, Progress
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import QUICK, MakeRequest
from tests.watching import StopAt, ignore

LORA = {"adapter": "lora", "lora_rank": 4, "lora_alpha": 6.0}
LINEAR = Hyperparameters(**LORA)


def product(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """What the factors of a matrix mean, in float64."""
    left, right = (tensors[f"{name}/{mark}"].astype(np.float64) for mark in "BA")
    return left @ right


def matrices(tensors: Mapping[str, np.ndarray]) -> set[str]:
    return {name.rpartition("/")[0] for name in tensors}


def contributed(
    request: FinetuneRequest, settings: Settings, work_dir: Path, form: str
) -> dict[str, np.ndarray]:
    work_dir = work_dir / form
    work_dir.mkdir()
    result = finetune(replace(request, form=form), settings, work_dir, ignore)  # type: ignore[arg-type]
    assert result.form == {"auto": "low_rank"}.get(form, form)
    return load_file(result.shared)


def with_random_adapters(body: nn.Module, hyperparameters: Hyperparameters) -> nn.Module:
    torch.manual_seed(5)
    add_adapters(body, hyperparameters)
    for name, parameter in body.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return body


# --- what is trained --------------------------------------------------------------------------


def test_every_linear_layer_is_adapted_and_all_else_is_frozen(tiny_model_dir: Path) -> None:
    body = load_body(tiny_model_dir)
    linear = {name for name, layer in body.named_modules() if isinstance(layer, nn.Linear)}

    add_adapters(body, LINEAR)

    trained = {name for name, each in body.named_parameters() if each.requires_grad}
    assert trained == {f"{name}.lora_{mark}.default.weight" for name in linear for mark in "AB"}
    assert len(linear) == 13


def test_training_begins_at_the_base_model(tiny_model_dir: Path) -> None:
    ids = {"input_ids": torch.arange(10).reshape(2, 5), "attention_mask": torch.ones(2, 5)}
    plain, body = (load_body(tiny_model_dir).eval() for _ in range(2))
    add_adapters(body, LINEAR)
    body.eval()
    expected, got = (each(**ids).last_hidden_state for each in (plain, body))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_rank_that_saves_nothing_in_any_layer_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(IncompatibleModelError, match=r"factors of rank 64.*lower lora_rank"):
        add_adapters(load_body(tiny_model_dir), Hyperparameters(adapter="lora", lora_rank=64))


def test_layers_too_small_for_the_rank_are_left_as_they_are(tiny_model_dir: Path) -> None:
    body = load_body(tiny_model_dir)
    add_adapters(body, Hyperparameters(adapter="lora", lora_rank=16))  # 32 x 32 saves nothing
    trained = {name for name, each in body.named_parameters() if each.requires_grad}
    assert len(trained) == 2 * 2 * 2  # 32 x 64 and back, of two layers
    assert not [name for name in trained if "attention.self" in name]


def test_the_rate_of_the_adapters_is_a_multiple_and_that_of_the_head_its_own(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request(**LORA, lora_learning_rate_factor=1e-9, warmup_fraction=0.0)
    head = tmp_path / "head.safetensors"
    factors = contributed(request, quick_settings, tmp_path, "auto")
    trained = load_file(tmp_path / "auto" / head.name)
    assert max(np.abs(product(factors, name)).max() for name in matrices(factors)) < 1e-9
    assert np.abs(trained["bias"]).max() > 1e-4  # it began with zeros


def test_adapters_of_the_example_model_learn(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    lines = (data_dir() / "wordnet_noun" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    recipe = HYPERPARAMETERS.model_copy(update={"adapter": "lora", "max_examples": None})
    request = replace(
        make_request(examples=[json.loads(line) for line in lines[:240]]),
        hyperparameters=recipe,
        base_dir=pretrained_dir(),
        form="auto",
    )
    losses: list[float] = []

    def note(progress: Progress) -> None:
        losses.append(progress.loss)

    settings = quick_settings.model_copy(update={"progress_interval_seconds": 1e-9})
    result = finetune(request, settings, tmp_path, note)

    assert len(losses) == 15
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    assert (
        result.shared.stat().st_size < (request.base_dir / "model.safetensors").stat().st_size / 50
    )


# --- what is contributed ----------------------------------------------------------------------


def test_factors_mean_what_is_merged_into_the_delta(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request(**LORA)
    factors = contributed(request, quick_settings, tmp_path, "auto")
    delta = contributed(request, quick_settings, tmp_path, "delta")
    full = contributed(request, quick_settings, tmp_path, "full")

    before = load_file(request.base_dir / "model.safetensors")
    assert delta.keys() == full.keys() == before.keys()
    for name, tensor in before.items():
        exact = product(factors, name) if name in matrices(factors) else np.zeros(tensor.shape)
        assert name not in matrices(factors) or np.abs(exact).max() > 1e-5
        # The merged parameters are rounded to float32 once, and the sum of r products.
        tolerance = 2.0**-22 * (np.abs(tensor).max() + np.abs(exact).max())
        np.testing.assert_allclose(delta[name], exact, rtol=0, atol=tolerance)
        np.testing.assert_allclose(full[name], tensor + exact, rtol=0, atol=tolerance)


def test_factors_are_those_of_what_led_to_the_loss_in_the_order_of_the_base_model(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request(**LORA)
    contributed(request, quick_settings, tmp_path, "auto")

    with safe_open(tmp_path / "auto" / "shared.safetensors", framework="numpy") as file:
        names = list(dict.fromkeys(name.rpartition("/")[0] for name in file.offset_keys()))
        assert file.metadata() == {"low_rank": "factors/1"}
    with safe_open(request.base_dir / "model.safetensors", framework="numpy") as file:
        order = [name for name in file.offset_keys() if name in names]
    assert names == order
    assert len(names) == 12
    assert "pooler.dense.weight" not in names  # pooling is our own


def test_the_same_request_gives_the_same_factors_also_when_it_was_interrupted(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = replace(make_request(**LORA, lora_dropout=0.2), form="auto")
    expected = finetune(request, quick_settings, tmp_path, ignore).shared.read_bytes()

    with pytest.raises(FinetuneInterrupted) as interruption:
        finetune(replace(request, should_stop=StopAt(4)), quick_settings, tmp_path, ignore)
    path = interruption.value.path
    torch.manual_seed(99)  # another process has drawn other numbers
    rest = replace(request, checkpoint=path)

    assert finetune(rest, quick_settings, tmp_path, ignore).shared.read_bytes() == expected


def test_a_checkpoint_holds_the_adapters_and_the_head_alone(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = replace(make_request(**LORA), should_stop=StopAt(2))
    with pytest.raises(FinetuneInterrupted) as interruption:
        finetune(request, quick_settings, tmp_path, ignore)

    with safe_open(interruption.value.path, framework="numpy") as file:
        names = [name.partition("/")[2] for name in file.keys() if "/" in name]  # noqa: SIM118
    kept = {name for name in names if name.startswith(("body", "head"))}
    adapters = {name for name in kept if "lora_A" in name or "lora_B" in name}
    buffers = {"body.embeddings.position_ids", "body.embeddings.token_type_ids"}
    assert kept == adapters | buffers | {"head.weight", "head.bias"}
    assert len(adapters) == 2 * 13


def test_a_checkpoint_of_a_full_finetune_is_not_taken_for_one_of_adapters(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    request = make_request()
    with pytest.raises(FinetuneInterrupted) as interruption:
        finetune(replace(request, should_stop=StopAt(2)), quick_settings, tmp_path, ignore)
    rest = replace(
        request,
        hyperparameters=QUICK.model_copy(update=LORA),
        checkpoint=interruption.value.path,
    )
    with pytest.raises(IncompatibleModelError, match="begin the turn from the start"):
        finetune(rest, quick_settings, tmp_path, ignore)


def test_layers_that_store_weights_the_other_way_round_are_contributed_as_they_are_stored(
    tmp_path: Path,
) -> None:
    from transformers import GPT2Config, GPT2Model

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    body = GPT2Model(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    body.save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")

    with_random_adapters(body, LINEAR)
    save_factors(body, tmp_path, tmp_path / "factors")
    merge_adapters(body)

    after = {name: each.detach().numpy() for name, each in body.state_dict().items()}
    factors = load_file(tmp_path / "factors")
    assert before["h.0.mlp.c_fc.weight"].shape == (32, 128)
    assert factors["h.0.mlp.c_fc.weight/B"].shape == (32, 4)
    assert len(matrices(factors)) == 4
    for name in matrices(factors):
        exact = before[name] + product(factors, name)
        np.testing.assert_allclose(after[name], exact, rtol=0, atol=1e-6)


def test_a_layer_that_the_base_version_calls_otherwise_is_refused(tiny_model_dir: Path) -> None:
    body = with_random_adapters(load_body(tiny_model_dir), LINEAR)
    outer = nn.ModuleDict({"other": body})
    with pytest.raises(IncompatibleModelError, match=r"'other\..*no such tensor.*same version"):
        save_factors(outer, tiny_model_dir, tiny_model_dir / "unwritten")


def test_factors_that_are_not_finite_are_no_contribution(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    body = with_random_adapters(load_body(tiny_model_dir), LINEAR)
    parameter = next(each for name, each in body.named_parameters() if "lora_A" in name)
    with torch.no_grad():
        parameter[0, 0] = float("nan")
    with pytest.raises(TrainingFailedError, match=r"query\.weight/A' holds NaN"):
        save_factors(body, tiny_model_dir, tmp_path / "factors")
