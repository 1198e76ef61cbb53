"""What a finetune writes: which numbers, in which dtype."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

from coldfusion_queue.errors import IncompatibleModelError, TrainingFailedError
from coldfusion_queue.finetune.files import save_shared

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_base(directory: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file(dict(tensors), directory / "model.safetensors")
    return directory


def base_of(dtype: torch.dtype) -> dict[str, Tensor]:
    values = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    return {"w": values.to(dtype), "positions": torch.arange(7)}


def finetuned(base: Mapping[str, Tensor], change: float = 1e-3) -> dict[str, Tensor]:
    noise = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    return {"w": base["w"].float() + change * noise, "positions": base["positions"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_delta_is_subtracted_in_float32_and_then_rounded_to_nearest(
    dtype: str, tmp_path: Path
) -> None:
    base = base_of(torch.float32)
    after, path = finetuned(base), tmp_path / "shared.safetensors"

    save_shared(after, write_base(tmp_path, base), "delta", path, dtype=dtype)  # type: ignore[arg-type]

    written = load_file(path)
    delta = after["w"] - base["w"]
    assert written["w"].dtype == DTYPES[dtype]
    error = (written["w"].double() - delta.double()).abs()
    half_a_place = {"float32": 0.0, "bfloat16": 2.0**-9, "float16": 2.0**-12}[dtype]
    # A subnormal float16 is exact to half of 2^-24.
    assert (error <= (delta.abs().double() * 2 * half_a_place).clamp(min=2.0**-25)).all()
    if dtype != "float32":
        assert error.max() > 0
    assert written["positions"].tolist() == list(range(7))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_takes_half_the_bytes(dtype: str, tmp_path: Path) -> None:
    base = {"w": torch.zeros(1000, 100)}
    sizes = []
    for each in ("float32", dtype):
        path = tmp_path / each
        save_shared(base, write_base(tmp_path, base), "delta", path, dtype=each)  # type: ignore[arg-type]
        sizes.append(path.stat().st_size)

    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("base_dtype", "dtype", "expected"),
    [
        pytest.param(torch.float16, "float32", torch.float16, id="never wider"),
        pytest.param(torch.bfloat16, "float32", torch.bfloat16, id="never wider, bfloat16"),
        pytest.param(torch.bfloat16, "float16", torch.bfloat16, id="as wide: the base's own"),
        pytest.param(torch.float64, "float32", torch.float32, id="narrower than float64"),
        pytest.param(torch.float64, "bfloat16", torch.bfloat16, id="narrower by far"),
    ],
)
def test_a_delta_is_never_written_wider_than_the_base_model(
    base_dtype: torch.dtype, dtype: str, expected: torch.dtype, tmp_path: Path
) -> None:
    base = base_of(base_dtype)
    path = tmp_path / "shared.safetensors"

    save_shared(finetuned(base), write_base(tmp_path, base), "delta", path, dtype=dtype)  # type: ignore[arg-type]

    assert load_file(path)["w"].dtype == expected


@pytest.mark.parametrize("base_dtype", [torch.float16, torch.float32, torch.float64])
def test_parameters_in_full_form_keep_the_base_models_dtype(
    base_dtype: torch.dtype, tmp_path: Path
) -> None:
    base = base_of(base_dtype)
    path = tmp_path / "shared.safetensors"

    save_shared(finetuned(base), write_base(tmp_path, base), "full", path)

    assert load_file(path)["w"].dtype == base_dtype


def test_a_delta_beyond_float16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base = {"w": torch.zeros(3)}
    after = {"w": torch.tensor([0.0, -7e4, 0.0])}
    directory, path = write_base(tmp_path, base), tmp_path / "shared.safetensors"

    with pytest.raises(TrainingFailedError, match=r"'w' holds 70000.*=bfloat16"):
        save_shared(after, directory, "delta", path, dtype="float16")
    assert not path.exists()

    save_shared(after, directory, "delta", path, dtype="bfloat16")
    assert float(load_file(path)["w"][1]) == pytest.approx(-7e4, rel=2**-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_no_contribution(value: float, tmp_path: Path) -> None:
    base = {"w": torch.zeros(3)}
    after = {"w": torch.tensor([0.0, value, 0.0])}
    with pytest.raises(TrainingFailedError, match="'w' holds NaN or infinite"):
        save_shared(after, write_base(tmp_path, base), "delta", tmp_path / "shared")


def test_a_parameter_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    base = {"w": torch.zeros(3), "b": torch.zeros(2)}
    after = {"w": torch.zeros(3), "b": torch.zeros(3)}
    with pytest.raises(IncompatibleModelError, match="'b'"):
        save_shared(after, write_base(tmp_path, base), "delta", tmp_path / "shared")


def test_a_tensor_with_two_names_is_written_once_under_the_one_that_the_base_has(
    tmp_path: Path,
) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(6, 3)
            self.output = torch.nn.Linear(3, 6, bias=False)
            self.output.weight = self.embedding.weight

    model = Tied()
    save_model(model, str(tmp_path / "model.safetensors"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (kept,) = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        model.embedding.weight += 1e-3
    path = tmp_path / "shared.safetensors"

    save_shared(model.state_dict(), tmp_path, "delta", path)

    assert set(model.state_dict()) == {"embedding.weight", "output.weight"}
    assert list(load_file(path)) == [kept]
    fused_dir = tmp_path / "fused"
    fused_dir.mkdir()
    save_file({kept: before[kept] + load_file(path)[kept]}, fused_dir / "model.safetensors")
    again = Tied()
    load_model(again, fused_dir / "model.safetensors")
    assert again.output.weight is again.embedding.weight
    assert torch.equal(again.output.weight, before[kept] + load_file(path)[kept])


def test_the_data_lies_in_the_order_of_the_base_models_files(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    shards = [
        {"z": torch.randn(3, 5, generator=generator), "ids": torch.arange(3)},
        {
            "a": torch.randn(7, generator=generator),
            "flags": torch.tensor([True, False, True]),
            "m": torch.randn(2, 2, generator=generator).to(torch.float16),
            "nothing": torch.zeros(0, 4),
            "scale": torch.tensor(2.0),
        },
    ]
    order = []
    for index, tensors in enumerate(shards, 1):
        path = tmp_path / f"model-0000{index}-of-00002.safetensors"
        save_file(tensors, path)
        with safe_open(path, framework="pt") as file:
            order += file.offset_keys()
    before = {name: tensor for tensors in shards for name, tensor in tensors.items()}
    after = {
        name: tensor.float() + 1 if tensor.is_floating_point() else tensor
        for name, tensor in before.items()
    }
    path = tmp_path / "out" / "shared.safetensors"
    path.parent.mkdir()

    save_shared(after, tmp_path, "delta", path, dtype="bfloat16")

    with safe_open(path, framework="pt") as file:
        assert [*file.offset_keys()] == order
        assert file.metadata() == {"format": "pt"}
    for name, tensor in load_file(path).items():
        if not before[name].is_floating_point():
            assert torch.equal(tensor, before[name])
            continue
        assert tensor.shape == before[name].shape
        assert tensor.dtype == (torch.float16 if name == "m" else torch.bfloat16)
        assert torch.equal(tensor.float(), torch.ones(before[name].shape))


def test_what_is_written_for_one_file_has_the_bytes_of_the_package(tmp_path: Path) -> None:
    base = base_of(torch.float32)
    path = tmp_path / "shared.safetensors"

    save_shared(finetuned(base), write_base(tmp_path, base), "delta", path)

    again = tmp_path / "again"
    save_file(load_file(path), again, metadata={"format": "pt"})
    assert path.read_bytes() == again.read_bytes()
