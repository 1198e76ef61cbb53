"""Fusing against an oracle in float64, and the laws that every fusion keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load, save
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch

from .files import (
    MemorySource,
    bfloat16,
    contribution,
    digest_of,
    expected_mean,
    file_of,
    fuse,
    fuse_bytes,
    model,
    pack,
)

SHAPES = {"embed": (7, 5), "scale": (), "layer.weight": (4, 3, 2), "layer.bias": (6,), "none": (0,)}
COEFFICIENTS = (0.5, 0.2, 0.3)


def check_close(
    fused: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-6
) -> None:
    assert fused.keys() == expected.keys()
    for name, tensor in expected.items():
        assert fused[name].shape == tensor.shape
        got = fused[name].astype(np.float64)
        np.testing.assert_allclose(got, tensor, rtol=tolerance, atol=tolerance)


# --- against the oracle -----------------------------------------------------------------------


def test_fusing_deltas_gives_the_base_model_plus_their_weighted_sum() -> None:
    base = model(0, SHAPES)
    deltas = [model(seed, SHAPES) for seed in (1, 2, 3)]
    inputs = [
        contribution(f"c{index}", save(delta), coefficient)
        for index, (delta, coefficient) in enumerate(zip(deltas, COEFFICIENTS, strict=True))
    ]

    fused = fuse(save(base), inputs)

    terms = [(c, delta, None) for c, delta in zip(COEFFICIENTS, deltas, strict=True)]
    check_close(fused, expected_mean(base, terms))


def test_fusing_full_models_on_the_current_base_gives_their_weighted_mean() -> None:
    base = model(0, SHAPES)
    models = [model(seed, SHAPES) for seed in (1, 2, 3)]
    inputs = [
        contribution(f"c{index}", save(each), coefficient, "full")
        for index, (each, coefficient) in enumerate(zip(models, COEFFICIENTS, strict=True))
    ]

    fused = fuse(save(base), inputs)

    mean = {
        name: sum(
            coefficient * each[name].astype(np.float64)
            for coefficient, each in zip(COEFFICIENTS, models, strict=True)
        )
        for name in SHAPES
    }
    check_close(fused, mean)


def test_a_stale_full_contribution_counts_by_its_own_older_base() -> None:
    # Given a base model that moved on from 1.0 to 4.0 while a contribution went from 1.0 to 3.0
    old = MemorySource("old", file_of({"w": np.array([1.0, 10.0], np.float32)}))
    base = file_of({"w": np.array([4.0, 40.0], np.float32)})
    finetuned = file_of({"w": np.array([3.0, 6.0], np.float32)})

    fused = fuse(base, [contribution("c", finetuned, 0.5, "full", old)])

    # Then half of its own change, +2 and -4, is added to where the base model is now
    assert fused["w"].tolist() == [5.0, 38.0]


def test_delta_and_full_forms_of_one_contribution_give_the_same_model() -> None:
    base, old = model(0, SHAPES), model(1, SHAPES)
    finetuned = {name: old[name] + tensor * 0.01 for name, tensor in model(2, SHAPES).items()}
    finetuned = {name: np.asarray(tensor) for name, tensor in finetuned.items()}
    delta = {name: np.asarray(finetuned[name] - old[name]) for name in SHAPES}
    other = contribution("b", save(model(3, SHAPES)), 0.3)
    own_base = MemorySource("old", save(old))

    as_full = [contribution("a", save(finetuned), 0.7, "full", own_base), other]
    as_delta = [contribution("a", save(delta), 0.7), other]

    assert fuse_bytes(save(base), as_full) == fuse_bytes(save(base), as_delta)


def test_contributions_of_all_ages_and_forms_are_fused_together() -> None:
    base, old, older = (model(seed, SHAPES) for seed in (0, 1, 2))
    a, b, c, d = (model(seed, SHAPES) for seed in (3, 4, 5, 6))
    shared = MemorySource("old", save(old))
    inputs = [
        contribution("a", save(a), 0.1, "full"),
        contribution("b", save(b), 0.2, "full", shared),
        contribution("c", save(c), 0.3, "full", shared),
        contribution("d", save(d), 0.4),
        contribution("e", save(a), 0.5, "full", MemorySource("older", save(older))),
    ]

    fused = fuse(save(base), inputs)

    terms = [(0.1, a, base), (0.2, b, old), (0.3, c, old), (0.4, d, None), (0.5, a, older)]
    check_close(fused, expected_mean(base, terms), 3e-6)


def test_the_new_file_begins_with_the_base_models_own_header() -> None:
    tensors = {"z": ("F32", [1], bytes(4)), "a": ("F32", [1], bytes(4))}
    base = pack(tensors, metadata={"format": "pt", "note": "kept"})
    other = pack(dict(reversed(tensors.items())), metadata={"format": "other"})

    assert fuse_bytes(base, [contribution("c", other)]) == base


@pytest.mark.parametrize("chunk_bytes", [8, 12, 40, 100, 1 << 20])
def test_a_tensor_larger_than_a_chunk_is_fused_like_any_other(chunk_bytes: int) -> None:
    base, delta = model(0, {"w": (50, 3)}), model(1, {"w": (50, 3)})
    fused = fuse(save(base), [contribution("c", save(delta), 0.3)], chunk_bytes)
    check_close(fused, expected_mean(base, [(0.3, delta, None)]))


def test_models_without_any_data_are_fused() -> None:
    for base in (save({}), save({"none": np.zeros((3, 0), np.float32)})):
        assert fuse_bytes(base, [contribution("c", base)]) == base


def test_a_contribution_in_another_order_and_with_other_dtypes_is_fused() -> None:
    base = model(0, SHAPES)
    exact = {name: np.round(tensor * 64) / 64 for name, tensor in model(1, SHAPES).items()}
    wide = {name: tensor.astype(np.float64) for name, tensor in exact.items()}
    mixed = {
        name: ("F64", tensor.shape, tensor.astype(np.float64).tobytes())
        if index % 2
        else ("F16", tensor.shape, tensor.astype(np.float16).tobytes())
        for index, (name, tensor) in enumerate(reversed(exact.items()))
    }

    expected = fuse_bytes(file_of(base), [contribution("c", file_of(exact), 0.3)], 24)

    reversed_order = dict(reversed(wide.items()))
    for data in (file_of(wide), file_of(reversed_order), pack(mixed)):
        assert fuse_bytes(file_of(base), [contribution("c", data, 0.3)], 24) == expected


# --- dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 2**-11), ("float32", 2**-22), ("float64", 2**-50)]
)
def test_a_base_model_keeps_its_dtype_and_precision(dtype: str, tolerance: float) -> None:
    base = model(0, SHAPES, dtype)
    deltas = [model(seed, SHAPES, dtype) for seed in (1, 2, 3)]
    inputs = [
        contribution(f"c{index}", save(delta), coefficient)
        for index, (delta, coefficient) in enumerate(zip(deltas, COEFFICIENTS, strict=True))
    ]

    fused = fuse(save(base), inputs)

    assert all(tensor.dtype == dtype for tensor in fused.values())
    terms = [(c, delta, None) for c, delta in zip(COEFFICIENTS, deltas, strict=True)]
    check_close(fused, expected_mean(base, terms), tolerance)


def test_bfloat16_models_are_summed_in_float32_and_rounded_once() -> None:
    torch.manual_seed(0)
    base, *models = (torch.randn(301, dtype=torch.float32).bfloat16() for _ in range(4))
    inputs = [
        contribution(f"c{index}", save_torch({"w": each}), coefficient, "full")
        for index, (each, coefficient) in enumerate(zip(models, COEFFICIENTS, strict=True))
    ]

    fused = load_torch(fuse_bytes(save_torch({"w": base}), inputs))["w"]

    total = torch.zeros(301)
    for coefficient, each in zip(COEFFICIENTS, models, strict=True):
        total += (each.float() - base.float()) * coefficient
    assert torch.equal(fused, (total + base.float()).bfloat16())


def test_small_changes_that_each_vanish_in_bfloat16_add_up() -> None:
    # Given eight deltas of 2^-10: 1 + 2^-10 is 1 in bfloat16, 1 + 2^-7 is not
    base = pack({"w": bfloat16(np.ones(1))})
    delta = pack({"w": bfloat16(np.full(1, 2.0**-10))})

    fused = fuse_bytes(base, [contribution(f"c{index}", delta) for index in range(8)])

    assert load_torch(fused)["w"].item() == 1 + 2**-7


def test_integers_and_booleans_are_copied_from_the_base_model() -> None:
    base = {
        "w": np.ones(3, np.float32),
        "position_ids": np.arange(5),
        "mask": np.array([True, False]),
        "b": np.ones(3, np.float32),
        "count": np.array(7, np.int32),
    }
    other = {name: np.zeros_like(array) for name, array in base.items()}
    other["count"] = np.array(99, np.int32)

    fused = fuse(file_of(base), [contribution("c", file_of(other), 1.0, "full")], 16)

    for name in ("position_ids", "mask", "count"):
        assert np.array_equal(fused[name], base[name])
        assert fused[name].dtype == base[name].dtype
    assert not fused["w"].any()
    assert not fused["b"].any()


# --- laws -------------------------------------------------------------------------------------

#: Below this, float32 has no relative precision.
SUBNORMAL = 2.0**-126

finite = st.floats(-1e6, 1e6, width=32)
vectors = arrays(np.float32, st.integers(1, 40), elements=finite)
weights = st.lists(st.floats(0.01, 1), min_size=1, max_size=6)
chunk_sizes = st.integers(8, 200)


@settings(deadline=None)
@given(vectors, weights, chunk_sizes)
def test_fusing_a_model_with_itself_gives_that_model_under_every_weighting(
    values: np.ndarray, raw: list[float], chunk_bytes: int
) -> None:
    data = file_of({"w": values})
    inputs = [
        contribution(f"c{index}", data, weight / sum(raw), "full")
        for index, weight in enumerate(raw)
    ]
    assert np.array_equal(fuse(data, inputs, chunk_bytes)["w"], values)


@settings(deadline=None)
@given(vectors, weights, st.randoms())
def test_models_that_are_all_the_same_give_that_model_from_any_base(
    values: np.ndarray, raw: list[float], random: object
) -> None:
    base = values[::-1].copy()
    inputs = [
        contribution(f"c{index}", file_of({"w": values}), weight / sum(raw), "full")
        for index, weight in enumerate(raw)
    ]

    fused = fuse(file_of({"w": base}), inputs)["w"]

    error = np.abs(fused.astype(np.float64) - values)
    assert (error <= 1e-6 * (np.abs(values) + np.abs(base)) + SUBNORMAL).all()


@settings(deadline=None)
@given(vectors, vectors)
def test_one_full_contribution_with_coefficient_one_replaces_the_base_model(
    base: np.ndarray, values: np.ndarray
) -> None:
    size = min(len(base), len(values))
    base, values = base[:size], values[:size]

    fused = fuse(file_of({"w": base}), [contribution("c", file_of({"w": values}), form="full")])[
        "w"
    ]

    error = np.abs(fused.astype(np.float64) - values)
    assert (error <= 2.0**-22 * (np.abs(values) + np.abs(base)) + SUBNORMAL).all()


@settings(deadline=None)
@given(st.permutations(range(5)), st.integers(1, 4), chunk_sizes)
def test_order_of_inputs_threads_and_chunk_size_do_not_change_a_bit(
    order: list[int], threads: int, chunk_bytes: int
) -> None:
    base = file_of(model(0, SHAPES))
    old = MemorySource("old", file_of(model(9, SHAPES)))
    inputs = [
        contribution(f"c{seed}", file_of(model(seed, SHAPES)), 1 / seed, form, own_base)
        for seed, form, own_base in [
            (1, "delta", None),
            (2, "full", None),
            (3, "full", old),
            (4, "delta", None),
            (5, "full", old),
        ]
    ]
    expected = fuse_bytes(base, inputs, 1 << 20, 1)

    shuffled = [inputs[index] for index in order]

    assert fuse_bytes(base, shuffled, chunk_bytes, threads) == expected


@settings(deadline=None)
@given(vectors, st.sampled_from([-2.0, 0.25, 0.5, 2.0, 8.0]))
def test_a_scaled_coefficient_equals_a_scaled_delta(delta: np.ndarray, scale: float) -> None:
    base = file_of({"w": np.ones_like(delta)})
    scaled = file_of({"w": delta * np.float32(scale)})

    by_coefficient = fuse_bytes(base, [contribution("c", file_of({"w": delta}), 0.5 * scale)])

    assert by_coefficient == fuse_bytes(base, [contribution("c", scaled, 0.5)])


@settings(deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 6), st.just(9)), elements=finite),
    st.lists(st.floats(0.01, 1), min_size=6, max_size=6),
)
def test_a_mean_lies_between_the_smallest_and_the_largest(
    models: np.ndarray, raw: list[float]
) -> None:
    total = sum(raw[: len(models)])
    inputs = [
        contribution(f"c{index}", file_of({"w": values}), raw[index] / total, "full")
        for index, values in enumerate(models)
    ]

    fused = fuse(file_of({"w": models[0]}), inputs)["w"].astype(np.float64)

    slack = 1e-6 * np.abs(models).max(axis=0) + SUBNORMAL
    assert (fused >= models.min(axis=0) - slack).all()
    assert (fused <= models.max(axis=0) + slack).all()


def test_a_coefficient_of_zero_leaves_the_base_model_as_it_is() -> None:
    base = save(model(0, SHAPES))
    assert fuse_bytes(base, [contribution("c", save(model(1, SHAPES)), 0.0)]) == base


def test_one_outlier_moves_the_result_by_its_share_only() -> None:
    base = file_of({"w": np.zeros(2, np.float32)})
    inputs = [contribution("a", file_of({"w": np.array([1e30, 1.0], np.float32)}), 0.125)]
    inputs += [
        contribution(f"b{i}", file_of({"w": np.ones(2, np.float32)}), 0.125) for i in range(7)
    ]
    assert fuse(base, inputs)["w"].tolist() == [np.float32(1.25e29), 1.0]


def test_the_digest_of_the_result_is_the_same_on_every_machine() -> None:
    base = file_of({"w": np.arange(1000, dtype=np.float32) / 7})
    inputs = [
        contribution(f"c{seed}", file_of({"w": np.arange(1000, dtype=np.float32) / seed}), 1 / 3)
        for seed in (3, 11, 13)
    ]
    fused = fuse_bytes(base, inputs)
    assert load(fused)["w"][7] == pytest.approx(1 + (7 / 3 + 7 / 11 + 7 / 13) / 3, rel=1e-6)
    assert digest_of(fused) == "7ecffd1ff1746e9dda111bea330491cce93e3edbde618a494e3f4d3e960110b9"
