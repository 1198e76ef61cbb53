"""Low-rank contributions through the whole fusion, and files that are refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import load

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
)
from coldfusion_queue.fusion.inspection import UpdateFacts, inspect_update
from coldfusion_queue.fusion.low_rank import MAX_RANK
from coldfusion_queue.fusion.stream import (
    ContributionFault,
    Fusion,
    FusionInput,
    ModelFiles,
    fuse_stream,
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
    pack,
    with_header,
)
from .methods_oracle import NAMES, a_method

#: Matrices with and without factors, between tensors that can have none.
SHAPES = {
    "embed": (37, 11),
    "norm": (9,),
    "none": (0, 4),
    "query": (12, 12),
    "wide": (5, 64),
    "cube": (3, 5, 11),
    "scale": (),
}
BUFFER = np.arange(6, dtype=np.int64)
RANKS = {"embed": 3, "query": 2, "wide": 4}

Entry = tuple[str, tuple[int, ...], bytes]


def base_arrays() -> dict[str, np.ndarray]:
    """A base model with integers between its floats."""
    arrays = model(0, SHAPES)
    return {"embed": arrays.pop("embed"), "positions": BUFFER, **arrays}


def pairs(seed: int, scale: float = 0.1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)

    def factor(*shape: int) -> np.ndarray:
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    return {
        name: (factor(SHAPES[name][0], rank), factor(rank, SHAPES[name][1]))
        for name, rank in RANKS.items()
    }


def entry(array: np.ndarray) -> Entry:
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32"}
    return names[str(array.dtype)], array.shape, array.tobytes()


def entries(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Entry]:
    return {
        f"{name}/{mark}": entry(array)
        for name, pair in factors.items()
        for mark, array in zip("BA", pair, strict=True)
    }


def low_rank(tensors: Mapping[str, Entry]) -> bytes:
    return pack(tensors, {"low_rank": "factors/1"})


def meant_by(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The delta of every float tensor, in float64."""
    deltas = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for name, (left, right) in factors.items():
        deltas[name] = left.astype(np.float64) @ right.astype(np.float64)
    return deltas


def as_delta(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The same delta as a float32 file, added up as the format says."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    for name, (left, right) in factors.items():
        for index in range(len(right)):
            arrays[name] += left[:, index : index + 1] * right[index]
    return file_of({**arrays, "positions": BUFFER})


BASE = file_of(base_arrays())
GOOD = low_rank(entries(pairs(1)))


# --- fusing -----------------------------------------------------------------------------------


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


def fuse_low_rank(data: bytes, base: bytes = BASE, chunk_bytes: int = 64) -> bytes:
    return fuse_bytes(base, [contribution("a", data, 0.5, "low_rank")], chunk_bytes)


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


def inspected(data: bytes, form: str, chunk_bytes: int) -> UpdateFacts:
    base = ModelFiles.single(MemorySource("base", BASE), digest_of(BASE))
    item = contribution("a", data, 1.0, form)
    return inspect_update(item, base, base_norm=1.0, chunk_bytes=chunk_bytes)


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


# --- what is refused --------------------------------------------------------------------------


def fault_of(
    data: bytes, chunk_bytes: int = 64, digest: str | None = None, base: bytes = BASE
) -> ContributionFault:
    bad = contribution("c7", data, 0.5, "low_rank", digest=digest)
    good = contribution("c5", low_rank({}), 0.5, "low_rank")
    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(base, [good, bad], chunk_bytes)
    assert caught.value.contribution_id == "c7"
    return caught.value


def zeros(shape: tuple[int, ...], dtype: str = "float32") -> Entry:
    return entry(np.zeros(shape, dtype))


def changed(**tensors: Entry | None) -> bytes:
    """The good file with other tensors, or without them."""
    found = entries(pairs(1)) | {name.replace("__", "/"): each for name, each in tensors.items()}  # type: ignore[operator]
    return low_rank({name: each for name, each in found.items() if each is not None})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(
            changed(query__B=zeros((11, 2))),
            r"'query/B' is .*\(11, 2\).*\(12, r\)",
            id="fewer rows",
        ),
        pytest.param(changed(query__A=zeros((2, 13))), r"'query/B' is .*\(2, 13\)", id="columns"),
        pytest.param(changed(query__A=zeros((3, 12))), r"'query/B' is .*\(3, 12\)", id="two ranks"),
        pytest.param(
            changed(query__B=zeros((12, 0)), query__A=zeros((0, 12))), "r of 1 or more", id="rank 0"
        ),
        pytest.param(
            changed(query__B=zeros((12, 6)), query__A=zeros((6, 12))),
            r"fewer elements than 144",
            id="as large as the matrix",
        ),
        pytest.param(changed(query__B=zeros((12, 2, 1))), r"\(12, 2, 1\)", id="three dimensions"),
        pytest.param(
            changed(query__B=("F32", (0, *[1 << 62] * 63), b"")), "F32 of shape", id="long shape"
        ),
        pytest.param(changed(query__B=zeros(())), r"of shape \(\) by", id="no dimensions"),
        pytest.param(changed(query__B=zeros((12, 2), "int32")), "I32", id="integers"),
        pytest.param(changed(query__A=None), "'query/B' is without the other", id="B alone"),
        pytest.param(changed(query__B=None), "'query/A' is without the other", id="A alone"),
        pytest.param(
            changed(other__B=zeros((4, 1)), other__A=zeros((1, 4))),
            "'other/B' is present, expected .* matrix of the base model",
            id="no such tensor",
        ),
        pytest.param(
            changed(norm__B=zeros((9, 1)), norm__A=zeros((1, 1))),
            r"not F32 of shape \(9,\)",
            id="vector",
        ),
        pytest.param(
            changed(cube__B=zeros((3, 1)), cube__A=zeros((1, 55))),
            r"not F32 of shape \(3, 5, 11\)",
            id="a tensor that is no matrix",
        ),
        pytest.param(
            changed(none__B=zeros((0, 1)), none__A=zeros((1, 4))),
            "fewer elements than 0",
            id="empty",
        ),
        pytest.param(
            changed(positions__B=zeros((6, 1)), positions__A=zeros((1, 1))), "not I64", id="buffer"
        ),
        pytest.param(changed(query=zeros((12, 12))), "'query' is present", id="plain tensor"),
        pytest.param(
            changed(**{"query__B__B": zeros((12, 2)), "query__B__A": zeros((2, 2))}),
            "'query/B/B' is present",
            id="factors of a factor",
        ),
        pytest.param(
            changed(**{"x" * 100_000 + "__A": zeros((1, 1))}), "x{119}'?\\.\\.\\.", id="long name"
        ),
    ],
)
def test_factors_that_are_no_delta_of_the_base_model_are_refused_with_the_tensor(
    data: bytes, words: str
) -> None:
    fault = fault_of(data)
    assert isinstance(fault.cause, IncompatibleModelError)
    with pytest.raises(IncompatibleModelError, match=rf"(?s)contribution c7.*{words}"):
        raise fault.cause
    assert len(str(fault)) < 800


def test_a_rank_that_takes_too_long_is_refused_though_it_would_save_bytes() -> None:
    side = 4 * MAX_RANK
    base = file_of({"w": np.zeros((side, side), np.float32)})

    def of(rank: int) -> bytes:
        pair = np.zeros((side, rank), np.float32), np.zeros((rank, side), np.float32)
        return low_rank(entries({"w": pair}))

    assert fuse_low_rank(of(MAX_RANK), base, 1 << 20) == base
    fault = fault_of(of(MAX_RANK + 1), 1 << 20, base=base)
    assert f"a rank of at most {MAX_RANK}" in str(fault.cause)


def test_a_header_that_claims_a_huge_rank_is_refused_before_its_data_is_asked_for() -> None:
    huge = 1 << 40
    data = with_header(
        {
            "__metadata__": {"low_rank": "factors/1"},
            "query/B": {"dtype": "F32", "shape": [12, huge], "data_offsets": [0, 48 * huge]},
            "query/A": {
                "dtype": "F32",
                "shape": [huge, 12],
                "data_offsets": [48 * huge, 96 * huge],
            },
        }
    )
    fault = fault_of(data)
    assert isinstance(fault.cause, InvalidTensorFileError)
    assert "its tensors end" in str(fault.cause)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(
            pack(entries(pairs(1)), {"low_rank": "factors/2"}), "factors/2.*knows", id="newer"
        ),
        pytest.param(pack(entries(pairs(1)), {}), "None", id="no scheme"),
        pytest.param(pack({}, {"low_rank": "x" * 100_000}), r"'x{80}'", id="long scheme"),
        pytest.param(as_delta(pairs(1)), "None", id="a plain delta"),
        pytest.param(GOOD[:-1], "its tensors end", id="truncated"),
        pytest.param(GOOD + b"\0", "its tensors end", id="longer"),
        pytest.param(
            GOOD.replace(b'"embed/A"', b'"embed/B"'), "'embed/B' twice", id="a factor twice"
        ),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(data: bytes, words: str) -> None:
    fault = fault_of(data)
    assert isinstance(fault.cause, InvalidTensorFileError)
    with pytest.raises(InvalidTensorFileError, match=rf"(?s)c7.*{words}"):
        raise fault.cause
    assert len(str(fault)) < 500


def spoilt(**values: float) -> bytes:
    """The good file with the last number of some factors replaced."""
    factors = pairs(1)
    for name, value in values.items():
        target, mark = name.split("__")
        factors[target]["BA".index(mark)][-1, -1] = value
    return low_rank(entries(factors))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"wide__B": np.nan}, id="NaN in B"),
        pytest.param({"wide__A": np.nan}, id="NaN in A"),
        pytest.param({"wide__B": np.inf}, id="infinity in B"),
        pytest.param({"wide__A": -np.inf}, id="infinity in A"),
        pytest.param({"wide__A": 3e38, "wide__B": 1e3}, id="a product beyond the range"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [8, 100, 1 << 20])
@pytest.mark.parametrize("name", ["mean", "median", "clipped_mean"])
def test_numbers_that_are_not_finite_are_the_fault_of_whose_factors_they_are(
    values: dict[str, float], chunk_bytes: int, name: str
) -> None:
    inputs = [
        contribution("c5", GOOD, 0.5, "low_rank"),
        contribution("c7", spoilt(**values), 0.5, "low_rank"),
    ]
    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(BASE, inputs, chunk_bytes, method=a_method(name))
    assert caught.value.contribution_id == "c7"
    assert isinstance(caught.value.cause, NonFiniteTensorError)
    assert caught.value.cause.tensor == "wide"


def test_an_inspection_refuses_factors_that_are_not_finite() -> None:
    with pytest.raises(ContributionFault, match="'wide'"):
        inspected(spoilt(wide__A=np.nan), "low_rank", 100)


@pytest.mark.parametrize("chunk_bytes", [8, 64, 1 << 20])
@pytest.mark.parametrize("position", [1, 300, 1200])
def test_a_changed_byte_is_found_wherever_it_is(chunk_bytes: int, position: int) -> None:
    data = bytearray(GOOD)
    data[-position] ^= 1
    fault = fault_of(bytes(data), chunk_bytes, digest=digest_of(GOOD))
    assert isinstance(fault.cause, DigestMismatchError)


def test_a_file_that_is_replaced_by_a_shorter_one_is_its_contributors_fault() -> None:
    source = MemorySource("a", GOOD)
    fusion = Fusion(
        ModelFiles.single(MemorySource("base", BASE), digest_of(BASE)),
        [FusionInput("c7", source, None, "low_rank", 1.0)],
        chunk_bytes=64,
        threads=1,
    )
    source.data = GOOD[:-8]
    with pytest.raises(ContributionFault, match="c7") as caught:
        list(fusion.fuse(0))
    assert isinstance(caught.value.cause, DigestMismatchError)


def test_factors_are_no_plain_delta() -> None:
    with pytest.raises(ContributionFault, match="'embed' is missing"):
        fuse_bytes(BASE, [contribution("c7", GOOD)])
