"""Quantised deltas of a worker, and what it carries from turn to turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.finetune.quantising import save_quantised
from coldfusion_queue.fusion.quantised import decode_elements

#: More than one block of the writer, so that blocks and tensors end at different elements.
SHAPES = {"z": (300, 301), "a": (17,), "m": (1, 5, 9)}


def base_of(directory: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()
    }
    tensors["positions"] = torch.arange(5)
    save_file(tensors, directory / "model.safetensors")
    return tensors


def finetuned(base: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value.float() + 1e-3 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for name, value in base.items()
    }


def flat(directory: Path, tensors: dict[str, Tensor]) -> np.ndarray:
    """Float elements in the order of the base model's file."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        names = file.offset_keys()
    floats = [tensors[name].float().flatten() for name in names if name != "positions"]
    return torch.cat(floats).double().numpy()


def sent(path: Path, num_elements: int) -> np.ndarray:
    data = load_file(path)["groups"].numpy().tobytes()
    return decode_elements(data, 0, 0, num_elements).astype(np.float64)


def run_turns(
    directory: Path, base: dict[str, Tensor], seeds: Sequence[int], *, feeds_back: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over turns of the deltas, and of what was sent."""
    before, last = flat(directory, base), None
    true, total = np.zeros(before.size), np.zeros(before.size)
    for seed in seeds:
        after = finetuned(base, seed)
        path, residual = directory / f"shared{seed}", directory / f"residual{seed}"
        save_quantised(after, directory, path, last_residual=last, residual=residual)
        last = residual if feeds_back else None
        true += flat(directory, after) - before
        total += sent(path, before.size)
    return true, total


def test_a_delta_is_written_in_the_order_of_the_base_models_file(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    true, total = run_turns(tmp_path, base, [1])
    assert np.linalg.norm(total - true) < 0.2 * np.linalg.norm(true)
    assert (tmp_path / "shared1").stat().st_size < 0.1 * 4 * true.size + 300


def test_over_turns_what_is_sent_adds_up_to_the_deltas(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    one = np.linalg.norm(np.subtract(*run_turns(tmp_path, base, [1])))

    fed_back = np.linalg.norm(np.subtract(*run_turns(tmp_path, base, range(1, 9))))
    lost = np.linalg.norm(np.subtract(*run_turns(tmp_path, base, range(1, 9), feeds_back=False)))

    # With feedback only the last residual is missing; without it every turn's is.
    assert fed_back < 1.2 * one
    assert lost > 2.5 * one


def test_the_residual_is_what_was_not_sent(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    true, total = run_turns(tmp_path, base, [1])
    halves = np.frombuffer((tmp_path / "residual1").read_bytes()[:-32], "<u2")
    residual = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(residual, true - total, rtol=2**-8, atol=1e-7)


def test_the_same_turn_with_the_same_residual_gives_the_same_bytes(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    files = []
    for _ in range(2):
        run_turns(tmp_path, base, [1, 2])
        files.append([(tmp_path / name).read_bytes() for name in ("shared2", "residual2")])
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="truncated"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:100] + b"\xff" + data[101:], id="changed"),
        pytest.param(lambda data: data + b"\0\0", id="of a larger model"),
    ],
)
def test_a_damaged_residual_is_logged_and_counts_as_none(
    damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = base_of(tmp_path)
    run_turns(tmp_path, base, [1])
    damaged, plain, path = tmp_path / "residual1", tmp_path / "plain", tmp_path / "shared"
    damaged.write_bytes(damage(damaged.read_bytes()))  # type: ignore[operator]

    with caplog.at_level(logging.WARNING):
        save_quantised(finetuned(base, 2), tmp_path, path, last_residual=damaged)

    save_quantised(finetuned(base, 2), tmp_path, plain)
    assert path.read_bytes() == plain.read_bytes()
    assert [record.event for record in caplog.records] == ["residual_unusable"]  # type: ignore[attr-defined]


def test_a_base_model_of_half_precision_is_quantised_as_well(tmp_path: Path) -> None:
    base = base_of(tmp_path, torch.bfloat16)
    true, total = run_turns(tmp_path, base, [1])
    assert np.linalg.norm(total - true) < 0.2 * np.linalg.norm(true)


def test_parameters_that_are_not_finite_are_no_contribution(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    after = finetuned(base, 1)
    after["m"][0, 1, 2] = float("nan")
    with pytest.raises(TrainingFailedError, match="'m' holds NaN"):
        save_quantised(after, tmp_path, tmp_path / "shared")
