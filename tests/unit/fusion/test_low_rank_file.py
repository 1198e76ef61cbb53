"""Low-rank contributions through the whole fusion."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load

from coldfusion_queue.fusion.stream import Fusion, FusionInput, ModelFiles, fuse_stream

from .factors import (
    BASE,
    BUFFER,
    GOOD,
    SHAPES,
    as_delta,
    base_arrays,
    entries,
    entry,
    fuse_low_rank,
    inspected,
    low_rank,
    meant_by,
    pairs,
)
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
)
from .methods_oracle import NAMES, a_method


def mixed_inputs() -> tuple[list[FusionInput], dict[str, np.ndarray]]:
    """Low-rank and other contributions, and what they should give."""
    delta, old, finetuned = (model(seed, SHAPES) for seed in (7, 8, 9))
    inputs = [
        contribution("a", low_rank(entries(pairs(1))), 0.4, "low_rank"),
        contribution("b", file_of({**delta, "positions": BUFFER}), 0.3),
        contribution("c", low_rank(entries(pairs(2))), 0.2, "low_rank"),
        contribution(
            "d",
            file_of({**finetuned, "positions": BUFFER}),
            0.1,
            "full",
            MemorySource("old", file_of({**old, "positions": BUFFER})),
        ),
    ]
    floats = {name: array for name, array in base_arrays().items() if array.dtype.kind == "f"}
    terms = [
        (0.4, meant_by(pairs(1)), None),
        (0.3, delta, None),
        (0.2, meant_by(pairs(2)), None),
        (0.1, finetuned, old),
    ]
    return inputs, expected_mean(floats, terms)


@pytest.mark.parametrize("chunk_bytes", [8, 20, 64, 500, 1 << 20])
def test_low_rank_and_other_contributions_are_fused_as_the_oracle_says(chunk_bytes: int) -> None:
    inputs, expected = mixed_inputs()

    fused = fuse(BASE, inputs, chunk_bytes)

    assert fused["positions"].tolist() == BUFFER.tolist()
    for name, tensor in expected.items():
        np.testing.assert_allclose(fused[name].astype(np.float64), tensor, rtol=2e-6, atol=2e-6)


def test_a_tensor_without_factors_counts_as_zero_in_the_mean() -> None:
    delta = model(7, SHAPES)
    inputs = [
        contribution("a", GOOD, 0.5, "low_rank"),
        contribution("b", file_of({**delta, "positions": BUFFER}), 0.5),
    ]
    fused, base = fuse(BASE, inputs), base_arrays()
    np.testing.assert_allclose(fused["cube"] - base["cube"], delta["cube"] / 2, rtol=1e-5)
    np.testing.assert_allclose(fused["scale"] - base["scale"], delta["scale"] / 2, rtol=1e-5)


def test_the_bits_do_not_depend_on_chunks_and_threads() -> None:
    fused = {
        fuse_bytes(BASE, mixed_inputs()[0], chunk_bytes, threads)
        for chunk_bytes in (8, 12, 100, 513, 1 << 20)
        for threads in (1, 5)
    }
    assert len(fused) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_bytes", [20, 300, 1 << 20])
def test_every_method_makes_of_factors_what_it_makes_of_their_product(
    name: str, chunk_bytes: int
) -> None:
    factors = [pairs(seed) for seed in (1, 2, 3, 4)]
    ids = [f"c{index}" for index in range(4)]
    as_factors, plain = (
        [
            contribution(each, data, 0.25, form)
            for each, data in zip(ids, map(write, factors), strict=True)
        ]
        for write, form in ((lambda f: low_rank(entries(f)), "low_rank"), (as_delta, "delta"))
    )
    method = a_method(name)

    fused = fuse_bytes(BASE, as_factors, chunk_bytes, method=method)

    assert fused == fuse_bytes(BASE, plain, 1 << 20, method=method)


@pytest.mark.parametrize("name", ["mean", "median", "trimmed_mean"])
def test_contributions_that_are_one_and_the_same_model_give_that_model(name: str) -> None:
    zero = {key: np.zeros_like(array) for key, array in base_arrays().items()}
    zero["positions"] = BUFFER
    thrice = [contribution(each, GOOD, 1 / 4, "low_rank") for each in "abcd"]

    fused = load(fuse_bytes(file_of(zero), thrice, method=a_method(name)))

    delta = load(as_delta(pairs(1)))
    for key, tensor in delta.items():
        np.testing.assert_array_equal(fused[key], tensor)


def test_the_order_of_the_factors_in_the_file_does_not_matter() -> None:
    tensors = entries(pairs(1))
    turned = dict(reversed(tensors.items()))
    assert fuse_low_rank(low_rank(turned)) == fuse_low_rank(GOOD)


def test_a_file_without_factors_changes_nothing() -> None:
    assert fuse_low_rank(low_rank({})) == BASE


def test_the_rows_of_what_the_paper_writes_are_those_of_the_base_model() -> None:
    base = {"w": np.zeros((3, 4), np.float32)}
    left = np.array([[1], [2], [3]], np.float32)
    right = np.array([[1, 10, 100, 1000]], np.float32)
    fused = load(fuse_low_rank(low_rank(entries({"w": (left, right)})), file_of(base)))
    assert fused["w"].tolist() == [
        [0.5, 5, 50, 500],
        [1, 10, 100, 1000],
        [1.5, 15, 150, 1500],
    ]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_factors_of_another_dtype_mean_the_same_numbers(dtype: str) -> None:
    exact = {  # in all of these dtypes
        name: tuple(np.float32(np.rint(factor * 64) / 64) for factor in pair)
        for name, pair in pairs(1).items()
    }
    written = {
        f"{name}/{mark}": bfloat16(factor) if dtype == "bfloat16" else entry(factor.astype(dtype))
        for name, pair in exact.items()
        for mark, factor in zip("BA", pair, strict=True)
    }
    assert fuse_low_rank(low_rank(written)) == fuse_low_rank(low_rank(entries(exact)))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_base_model_of_another_dtype_takes_low_rank_deltas(dtype: str) -> None:
    arrays = {
        name: array.astype(dtype) if array.dtype.kind == "f" else array
        for name, array in base_arrays().items()
    }
    fused = load(fuse_low_rank(GOOD, file_of(arrays)))

    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    tolerance = {"float64": 1e-7, "float16": 1e-3}[dtype]
    for name, tensor in expected_mean(floats, [(0.5, meant_by(pairs(1)), None)]).items():
        assert fused[name].dtype == dtype
        np.testing.assert_allclose(
            fused[name].astype(np.float64), tensor, rtol=tolerance, atol=tolerance
        )


def test_the_shards_of_a_large_model_have_the_bits_of_one_file() -> None:
    arrays = base_arrays()
    names = list(arrays)
    shards = [
        file_of({name: arrays[name] for name in each})
        for each in (names[:3], names[3:5], names[5:])
    ]
    sources = tuple(MemorySource(f"base{index}", data) for index, data in enumerate(shards))
    fusion = Fusion(
        ModelFiles(sources, tuple(map(digest_of, shards))),
        [contribution("a", GOOD, 0.5, "low_rank")],
        chunk_bytes=64,
        threads=2,
    )

    fused: dict[str, np.ndarray] = {}
    for index in (2, 0, 1):
        fused |= load(b"".join(fusion.fuse(index)))

    whole = load(fuse_low_rank(GOOD))
    assert {name: array.tobytes() for name, array in fused.items()} == {
        name: array.tobytes() for name, array in whole.items()
    }


@pytest.mark.parametrize("chunk_bytes", [8, 100, 1 << 20])
def test_an_inspection_finds_the_norm_of_what_factors_mean(chunk_bytes: int) -> None:
    facts = inspected(GOOD, "low_rank", chunk_bytes)
    values = np.concatenate([array.ravel() for array in meant_by(pairs(1)).values()])
    assert facts.norm == pytest.approx(np.linalg.norm(values), rel=1e-6)


def test_an_inspection_makes_of_factors_the_sketch_of_their_product() -> None:
    sketches = [
        inspected(data, form, 100).sketch.tobytes()
        for data, form in ((GOOD, "low_rank"), (as_delta(pairs(1)), "delta"))
    ]
    assert sketches[0] == sketches[1]


# --- what is read -----------------------------------------------------------------------------


ROWS, RANK, COLUMNS = 1000, 4, 16


def tall() -> tuple[bytes, bytes]:
    """A base model of one matrix with many rows, and factors of it."""
    base = file_of({"w": np.zeros((ROWS, COLUMNS), np.float32)})
    pair = np.ones((ROWS, RANK), np.float32), np.ones((RANK, COLUMNS), np.float32)
    return base, low_rank(entries({"w": pair}))


def test_a_chunk_reads_its_rows_of_b_and_all_of_a_and_no_more() -> None:
    base, data = tall()
    source = MemorySource("a", data)
    inspected_before = FusionInput("a", source, None, "low_rank", 1.0)

    fuse_bytes(base, [inspected_before], 50 * COLUMNS * 4)

    reads = source.reads[2:]  # after the header
    left, right = 50 * RANK * 4, RANK * COLUMNS * 4
    assert {end - start for start, end in reads} == {left, right, left + right}
    assert sum(end - start for start, end in reads) == 20 * (left + right)


def test_memory_does_not_grow_with_the_matrix() -> None:
    base, data = tall()
    chunk = 50 * COLUMNS * 4
    fuse_bytes(base, [contribution("a", data, 1.0, "low_rank")], chunk)  # imports, caches
    inputs = [contribution(f"c{index}", data, 1 / 8, "low_rank") for index in range(8)]

    tracemalloc.start()
    for _ in fuse_stream(
        MemorySource("base", base), digest_of(base), inputs, chunk_bytes=chunk, threads=2
    ):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # Two chunks of nine files, what two threads read and multiply with, and headers and plans.
    assert peak < 2 * 9 * chunk + 2 * 3 * chunk + 200_000 < 8 * ROWS * COLUMNS * 4
