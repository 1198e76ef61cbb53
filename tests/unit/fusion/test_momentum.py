"""Fusions with momentum, against SGD with a momentum buffer, and the state that they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from coldfusion_queue.errors import DigestMismatchError, InvalidTensorFileError, UsageError
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.stream import (
    ContributionFault,
    FusionInput,
    FusionState,
    fuse_stream,
)

from .files import MemorySource, contribution, digest_of, file_of, fuse_bytes, model, pack
from .methods_oracle import weights_of
from .test_stream_methods import TOLERANCES, a_file, as_float64, exact

SHAPES = {"a": (7, 5), "scale": (), "b": (4, 3, 2)}


@dataclass
class Fused:
    """The two files that a fusion writes."""

    model: bytes
    state: bytes


def fused(
    base: bytes,
    inputs: Sequence[FusionInput],
    momentum: float = 0.9,
    before: bytes | None = None,
    **sizes: int,
) -> Fused:
    """One fusion, after one that left the state ``before``."""
    taken: list[bytes] = []
    state = FusionState(taken.append)
    if before is not None:
        state = FusionState(taken.append, MemorySource("state", before), digest_of(before))
    method = make_method("nesterov", {"momentum": momentum})
    data = fuse_bytes(base, inputs, method=method, state=state, **sizes)
    return Fused(data, b"".join(taken))


def a_fusion(round_: int, eta: float, dtype: str = "float64") -> list[FusionInput]:
    """Contributions that differ from those of other rounds in number, numbers and weights."""
    number = 2 + round_ % 3
    return [
        contribution(f"c{index}", a_file(exact(model(10 * round_ + index, SHAPES)), dtype), weight)
        for index, weight in enumerate(weights_of("distinct", number, eta))
    ]


def mean_delta(round_: int) -> dict[str, np.ndarray]:
    """d of the same, by their weights and in float64."""
    weights = weights_of("distinct", 2 + round_ % 3, 1.0)
    models = [exact(model(10 * round_ + index, SHAPES)) for index in range(len(weights))]
    return {
        name: sum(
            weight * each[name].astype(np.float64)
            for weight, each in zip(weights, models, strict=True)
        )
        for name in SHAPES
    }


def assert_near(
    got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float
) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=tolerance, atol=3 * tolerance)


# --- against the textbook ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_fusions_one_after_another_are_sgd_with_a_momentum_buffer(
    momentum: float, dtype: str
) -> None:
    eta, base, state = 0.7, a_file(exact(model(99, SHAPES)), dtype), None
    theta = {name: array.astype(np.float64) for name, array in exact(model(99, SHAPES)).items()}
    buffer = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    # Numbers grow to some 30 over the rounds, and each rounding is carried on by the momentum.
    tolerance = 20 * TOLERANCES[dtype]

    for round_ in range(5):
        result = fused(base, a_fusion(round_, eta, dtype), momentum, state)
        base, state = result.model, result.state

        for name, d in mean_delta(round_).items():
            buffer[name] = momentum * buffer[name] + d
            theta[name] = theta[name] + eta * (d + momentum * buffer[name])
        assert_near(as_float64(base, dtype), theta, tolerance)


def test_they_are_pytorchs_sgd_with_nesterov_momentum() -> None:
    base, state = file_of(model(99, SHAPES, "float64")), None
    theta = {name: torch.tensor(value) for name, value in model(99, SHAPES, "float64").items()}
    optimizer = torch.optim.SGD(theta.values(), lr=0.7, momentum=0.9, nesterov=True)

    for round_ in range(4):
        result = fused(base, a_fusion(round_, 0.7), 0.9, state)
        base, state = result.model, result.state
        for name, d in mean_delta(round_).items():
            theta[name].grad = torch.tensor(-d)
        optimizer.step()

    assert_near(load(base), {name: value.numpy() for name, value in theta.items()}, 1e-13)


def test_when_eta_changes_the_momentum_is_the_last_displacement() -> None:
    base, state = file_of(model(99, SHAPES, "float64")), None
    theta = model(99, SHAPES, "float64")
    displacement = {name: np.zeros(shape) for name, shape in SHAPES.items()}

    for round_, eta in enumerate([0.7, 0.1, 1.0]):
        result = fused(base, a_fusion(round_, eta), 0.9, state)
        base, state = result.model, result.state
        for name, d in mean_delta(round_).items():
            displacement[name] = 0.9 * displacement[name] + eta * d
            theta[name] = theta[name] + eta * d + 0.9 * displacement[name]

    assert_near(load(base), theta, 1e-13)


# --- laws -------------------------------------------------------------------------------------


def test_the_state_is_what_the_mean_would_have_published() -> None:
    first = fused(file_of(model(0, SHAPES)), a_fusion(1, 0.7, "float32"))
    inputs = a_fusion(2, 0.7, "float32")

    second = fused(first.model, inputs, before=first.state)

    assert first.state == fuse_bytes(file_of(model(0, SHAPES)), a_fusion(1, 0.7, "float32"))
    assert second.state == fuse_bytes(first.model, inputs)
    assert second.model != second.state


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_without_momentum_it_is_the_mean_to_the_bit(dtype: str) -> None:
    base = a_file(exact(model(0, SHAPES)), dtype)
    before = a_file(exact(model(1, SHAPES)), dtype)
    inputs = a_fusion(1, 0.7, dtype)

    result = fused(base, inputs, 0.0, before)

    assert result.model == result.state == fuse_bytes(base, inputs)


def test_at_first_the_step_is_one_plus_mu_times_the_means() -> None:
    base = model(0, SHAPES, "float64")

    result = load(fused(file_of(base), a_fusion(1, 1.0), 0.9).model)

    expected = {name: base[name] + 1.9 * d for name, d in mean_delta(1).items()}
    assert_near(result, expected, 1e-14)


def test_a_state_of_the_base_model_itself_is_as_good_as_none() -> None:
    base, inputs = file_of(model(0, SHAPES)), a_fusion(1, 0.7, "float32")
    assert fused(base, inputs, before=base) == fused(base, inputs)


def test_a_delta_that_comes_again_and_again_is_worth_one_over_one_minus_mu() -> None:
    base, delta = file_of({"w": np.zeros(3)}), np.array([1.0, -2.0, 0.5])
    state, moved = None, np.zeros(3)

    for _ in range(60):
        before = load(base)["w"]
        result = fused(base, [contribution("c", file_of({"w": delta}), 0.7)], 0.5, state)
        base, state = result.model, result.state
        moved = load(base)["w"] - before

    np.testing.assert_allclose(moved, 0.7 * delta / (1 - 0.5), rtol=1e-12)


def test_both_files_have_the_base_models_layout_and_the_same_bits_whatever_the_chunks() -> None:
    size = (1 << 16) + 1000  # more than a method is given at a time
    shapes = {"first": (3,), "w": (size,), "wide": (301,)}

    def a_model(seed: int, buffer: int) -> bytes:
        values = model(seed, shapes)
        return pack(
            {
                "first": ("F16", (3,), values["first"].astype(np.float16).tobytes()),
                "buffer": ("I64", (5,), np.full(5, buffer).tobytes()),
                "w": ("F32", (size,), values["w"].tobytes()),
                "flag": ("BOOL", (1,), b"\1"),
                "wide": ("F64", (301,), values["wide"].astype(np.float64).tobytes()),
            },
            {"format": "pt"},
        )

    base, before = a_model(0, 3), a_model(1, 4)
    inputs = [
        contribution(f"c{index}", a_model(2 + index, 5), weight, "full" if index % 2 else "delta")
        for index, weight in enumerate(weights_of("distinct", 5, 0.9))
    ]

    whole = fused(base, inputs, before=before, chunk_bytes=1 << 24, threads=1)

    assert fused(base, inputs[::-1], before=before, chunk_bytes=9999, threads=4) == whole
    assert (
        fused(base, inputs, before=before, chunk_bytes=1 << 24, read_ahead_bytes=1 << 19) == whole
    )
    header = base[: 8 + int.from_bytes(base[:8], "little")]
    for data in (whole.model, whole.state):
        assert data.startswith(header)
        assert len(data) == len(base)
        assert load(data)["buffer"].tolist() == [3] * 5


# --- what the state may be --------------------------------------------------------------------

ONES = file_of({"w": np.ones(40, np.float32)})
GOOD = [contribution("c", ONES)]
NESTEROV = make_method("nesterov", {})


@pytest.mark.parametrize(
    ("state", "error"),
    [
        pytest.param(ONES[:-1] + b"\1", DigestMismatchError, id="another-number"),
        pytest.param(ONES[:-1], InvalidTensorFileError, id="cut-off"),
        pytest.param(b"\0" * len(ONES), InvalidTensorFileError, id="no-header"),
        pytest.param(
            file_of({"v": np.ones(40, np.float32)}), InvalidTensorFileError, id="another-model"
        ),
    ],
)
def test_a_damaged_state_is_named_and_nobodys_fault(state: bytes, error: type[Exception]) -> None:
    files = FusionState(len, MemorySource("state.safetensors", state), digest_of(ONES))

    with pytest.raises(error, match=r"state\.safetensors"):
        fuse_bytes(ONES, GOOD, method=NESTEROV, state=files)


@pytest.mark.parametrize(
    "value",
    [pytest.param(np.nan, id="nan"), pytest.param(-65000.0, id="momentum-beyond-the-range")],
)
def test_a_momentum_that_leaves_the_range_is_nobodys_fault(value: float) -> None:
    base = file_of({"w": np.full(3, 60000.0, np.float16)})
    before = file_of({"w": np.full(3, value, np.float16)})
    inputs = [contribution("c", file_of({"w": np.ones(3, np.float16)}))]

    with pytest.raises(InvalidTensorFileError, match=r"state.*momentum takes tensor 'w'"):
        fused(base, inputs, before=before)


def test_a_contribution_that_takes_the_momentum_beyond_the_range_is_refused() -> None:
    base = file_of({"w": np.full(3, 40000.0, np.float16)})
    inputs = [
        contribution(name, file_of({"w": np.full(3, size, np.float16)}), 0.5)
        for name, size in (("small", 1.0), ("large", 40000.0))
    ]  # the mean is 60000.5, which is in range; with momentum it is 78000.95

    with pytest.raises(ContributionFault) as caught:
        fused(base, inputs)

    assert caught.value.contribution_id == "large"


@pytest.mark.parametrize(
    ("name", "state"), [("mean", FusionState(len)), ("nesterov", None)], ids=["too-many", "none"]
)
def test_a_state_goes_with_methods_that_have_one(name: str, state: FusionState | None) -> None:
    source = MemorySource("base", ONES)
    with pytest.raises(UsageError, match="methods with momentum alone"):
        fuse_stream(
            source,
            digest_of(ONES),
            GOOD,
            chunk_bytes=64,
            threads=1,
            method=make_method(name, {}),
            state=state,
        )
