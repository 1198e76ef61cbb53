"""Quantised contributions through the whole fusion, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import load, save

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
)
from coldfusion_queue.fusion.inspection import inspect_update
from coldfusion_queue.fusion.quantised import encode_groups, num_groups
from coldfusion_queue.fusion.quantised_file import SCHEME, quantised_header
from coldfusion_queue.fusion.stream import ContributionFault, FusionInput, ModelFiles

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
from .methods_oracle import NAMES, a_method
from .test_quantised import oracle

#: 434 floats, whose tensors begin and end within groups, in the order of the file below.
SHAPES = {"embed": (37, 7), "scale": (), "none": (0, 4), "weight": (3, 5, 11), "bias": (9,)}
NUM_FLOATS = 434
BUFFER = np.arange(6, dtype=np.int64)


def base_arrays() -> dict[str, np.ndarray]:
    """A base model with integers between its floats."""
    arrays = model(0, SHAPES)
    return {"embed": arrays.pop("embed"), "positions": BUFFER, **arrays}


def quantised_file(delta: Mapping[str, np.ndarray]) -> bytes:
    values = [array.ravel() for array in delta.values() if array.dtype.kind == "f"]
    flat = np.concatenate(values, dtype=np.float32)
    return quantised_header(flat.size) + encode_groups(flat).tobytes()


def delta_of(seed: int, scale: float = 1e-3) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(a * np.float32(scale)) for name, a in model(seed, SHAPES).items()}
    return {"embed": arrays.pop("embed"), "positions": BUFFER, **arrays}


def as_read(data: bytes) -> dict[str, np.ndarray]:
    """What a file means, by the test's own reading of the format."""
    header = 8 + int.from_bytes(data[:8], "little")
    values, arrays = np.array(oracle(data[header:], NUM_FLOATS)), {}
    for name, array in base_arrays().items():
        if array.dtype.kind == "f":
            arrays[name], values = values[: array.size].reshape(array.shape), values[array.size :]
    return arrays


BASE = file_of(base_arrays())
GOOD = quantised_file(delta_of(1))


# --- the format -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 128, 129])
def test_the_file_is_one_that_the_safetensors_package_reads(size: int) -> None:
    groups = encode_groups(np.ones(size, np.float32))
    tensors = load(quantised_header(size) + groups.tobytes())
    assert tensors.keys() == {"groups"}
    np.testing.assert_array_equal(tensors["groups"], groups)


def test_a_file_says_how_it_is_quantised() -> None:
    length = int.from_bytes(GOOD[:8], "little")
    assert json.loads(GOOD[8 : 8 + length])["__metadata__"] == {"quantised": SCHEME}
    assert (8 + length) % 8 == 0


# --- fusing -----------------------------------------------------------------------------------


def mixed_inputs() -> tuple[list[FusionInput], dict[str, np.ndarray]]:
    """Quantised, float32, bfloat16 and full contributions, and what they should give."""
    base, first, second = base_arrays(), delta_of(1), delta_of(2)
    third = {
        name: np.asarray(np.float32(np.rint(array * 64) / 64)) if array.dtype.kind == "f" else array
        for name, array in delta_of(3, 1.0).items()
    }
    halves = {
        name: bfloat16(array) if array.dtype.kind == "f" else ("I64", array.shape, array.tobytes())
        for name, array in third.items()
    }
    old, finetuned = model(8, SHAPES), model(9, SHAPES)
    inputs = [
        contribution("a", quantised_file(first), 0.4, "quantised"),
        contribution("b", file_of(second), 0.3),
        contribution("c", pack(halves), 0.2),
        contribution("d", quantised_file(second), 0.5, "quantised"),
        contribution(
            "e",
            file_of({**finetuned, "positions": BUFFER}),
            0.1,
            "full",
            MemorySource("old", file_of({**old, "positions": BUFFER})),
        ),
    ]
    floats = {name: array for name, array in base.items() if array.dtype.kind == "f"}
    terms = [
        (0.4, as_read(inputs[0].source.data), None),  # type: ignore[attr-defined]
        (0.3, second, None),
        (0.2, third, None),
        (0.5, as_read(inputs[3].source.data), None),  # type: ignore[attr-defined]
        (0.1, finetuned, old),
    ]
    return inputs, expected_mean(floats, terms)


@pytest.mark.parametrize("chunk_bytes", [8, 20, 64, 512, 1 << 20])
def test_contributions_of_all_forms_are_fused_as_the_oracle_says(chunk_bytes: int) -> None:
    inputs, expected = mixed_inputs()

    fused = fuse(BASE, inputs, chunk_bytes)

    assert fused["positions"].tolist() == BUFFER.tolist()
    for name, tensor in expected.items():
        np.testing.assert_allclose(fused[name].astype(np.float64), tensor, rtol=2e-6, atol=2e-6)


def test_the_bits_do_not_depend_on_chunks_and_threads() -> None:
    fused = {
        fuse_bytes(BASE, mixed_inputs()[0], chunk_bytes, threads)
        for chunk_bytes in (8, 12, 100, 513, 1 << 20)
        for threads in (1, 5)
    }
    assert len(fused) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_bytes", [20, 300, 1 << 20])
def test_every_method_makes_of_a_quantised_file_what_it_makes_of_its_numbers(
    name: str, chunk_bytes: int
) -> None:
    files = [quantised_file(delta_of(seed)) for seed in (1, 2, 3, 4)]
    quantised, plain = [], []
    for index, data in enumerate(files):
        numbers = {key: array.astype(np.float32) for key, array in as_read(data).items()}
        written = file_of({**numbers, "positions": BUFFER})
        quantised.append(contribution(f"c{index}", data, 0.25, "quantised"))
        plain.append(contribution(f"c{index}", written, 0.25))
    method = a_method(name)

    fused = fuse_bytes(BASE, quantised, chunk_bytes, method=method)

    assert fused == fuse_bytes(BASE, plain, 1 << 20, method=method)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_base_model_of_another_dtype_takes_quantised_deltas(dtype: str) -> None:
    arrays = {
        name: array.astype(dtype) if array.dtype.kind == "f" else array
        for name, array in base_arrays().items()
    }
    fused = fuse(file_of(arrays), [contribution("a", GOOD, 0.5, "quantised")], 64)

    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    tolerance = {"float64": 1e-15, "float16": 1e-3}[dtype]
    for name, tensor in expected_mean(floats, [(0.5, as_read(GOOD), None)]).items():
        assert fused[name].dtype == dtype
        np.testing.assert_allclose(fused[name].astype(np.float64), tensor, rtol=tolerance)


def test_a_model_without_floats_takes_a_file_without_groups() -> None:
    base = file_of({"positions": BUFFER, "none": np.empty(0, np.float32)})
    assert fuse_bytes(base, [contribution("a", quantised_header(0), 1.0, "quantised")]) == base


@pytest.mark.parametrize("chunk_bytes", [8, 64, 1 << 20])
def test_what_is_read_is_bounded_by_the_chunk_and_read_in_order(chunk_bytes: int) -> None:
    item = contribution("a", GOOD, 1.0, "quantised")
    fuse_bytes(BASE, [item], chunk_bytes)

    reads = item.source.reads[2:]  # type: ignore[attr-defined]
    assert reads == sorted(reads)
    assert reads[-1][1] == len(GOOD)
    assert max(end - start for start, end in reads) <= (num_groups(chunk_bytes // 4) + 1) * 50


@pytest.mark.parametrize("chunk_bytes", [8, 100, 1 << 20])
def test_an_inspection_finds_the_norm_of_what_a_quantised_file_means(chunk_bytes: int) -> None:
    base = ModelFiles.single(MemorySource("base", BASE), digest_of(BASE))
    item = contribution("a", GOOD, 1.0, "quantised")

    facts = inspect_update(item, base, base_norm=1.0, chunk_bytes=chunk_bytes)

    values = np.concatenate([array.ravel() for array in as_read(GOOD).values()])
    assert facts.norm == pytest.approx(np.linalg.norm(values), rel=1e-6)


# --- what is refused --------------------------------------------------------------------------


def fault_of(data: bytes, chunk_bytes: int = 64, digest: str | None = None) -> ContributionFault:
    bad = contribution("c7", data, 0.5, "quantised", digest=digest)
    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(BASE, [contribution("c5", GOOD, 0.5, "quantised"), bad], chunk_bytes)
    assert caught.value.contribution_id == "c7"
    return caught.value


def rewritten(shape: list[int], dtype: str = "U8", metadata: object = None, **more: bytes) -> bytes:
    """A file with one tensor ``groups`` of zeros, and others."""
    metadata = {"quantised": SCHEME} if metadata is None else metadata
    size = int(np.prod(shape)) * {"U8": 1, "I8": 1, "F32": 4}[dtype]
    tensors = {"groups": (dtype, shape, bytes(size))}
    tensors |= {name: ("U8", [len(data)], data) for name, data in more.items()}
    return pack(tensors, metadata)


GROUPS = [num_groups(NUM_FLOATS), 50]


def test_the_rewritten_file_would_be_taken() -> None:
    fuse_bytes(BASE, [contribution("c", rewritten(GROUPS), 1.0, "quantised")])


@pytest.mark.parametrize(
    ("data", "cause", "words"),
    [
        pytest.param(
            rewritten([GROUPS[0] - 1, 50]), IncompatibleModelError, r"\(3, 50\)", id="too few"
        ),
        pytest.param(
            rewritten([GROUPS[0] + 1, 50]), IncompatibleModelError, r"\(5, 50\)", id="too many"
        ),
        pytest.param(rewritten([200]), IncompatibleModelError, r"\(200,\)", id="flat"),
        pytest.param(rewritten([4, 34]), IncompatibleModelError, r"\(4, 34\)", id="short groups"),
        pytest.param(rewritten(GROUPS, "I8"), IncompatibleModelError, "I8", id="signed"),
        pytest.param(
            rewritten(GROUPS, metadata={"quantised": "gaussian-3bit-128/2"}),
            InvalidTensorFileError,
            "128/2.*knows.*128/1",
            id="newer scheme",
        ),
        pytest.param(
            rewritten(GROUPS, metadata={}), InvalidTensorFileError, "None", id="no scheme"
        ),
        pytest.param(
            rewritten(GROUPS, metadata={"quantised": "x" * 100_000}),
            InvalidTensorFileError,
            r"'x{80}'",
            id="long scheme",
        ),
        pytest.param(
            rewritten(GROUPS, more=b"123"), InvalidTensorFileError, "2 tensors", id="extra tensor"
        ),
        pytest.param(
            pack({"codes": ("U8", GROUPS, bytes(200))}, {"quantised": SCHEME}),
            InvalidTensorFileError,
            "'groups' alone",
            id="another name",
        ),
        pytest.param(save(model(1, SHAPES)), InvalidTensorFileError, "None", id="a plain delta"),
        pytest.param(GOOD[:-1], InvalidTensorFileError, "its tensors end", id="truncated"),
        pytest.param(GOOD + b"\0", InvalidTensorFileError, "its tensors end", id="longer"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name_with_the_reason(
    data: bytes, cause: type[Exception], words: str
) -> None:
    fault = fault_of(data)
    assert isinstance(fault.cause, cause)
    with pytest.raises(cause, match=rf"(?s)c7.*{words}"):
        raise fault.cause
    assert len(str(fault)) < 500


@pytest.mark.parametrize(
    "scale",
    [
        pytest.param(b"\xc0\x7f", id="NaN"),
        pytest.param(b"\x80\x7f", id="infinite"),
        pytest.param(b"\x80\xff", id="minus infinite"),
        pytest.param(b"\x80\xbf", id="negative"),
    ],
)
@pytest.mark.parametrize("group", [0, 2, 3])
@pytest.mark.parametrize("chunk_bytes", [8, 1 << 20])
def test_a_scale_that_no_encoder_writes_is_refused_with_its_group(
    scale: bytes, group: int, chunk_bytes: int
) -> None:
    data = bytearray(GOOD)
    at = len(GOOD) - 50 * (4 - group)
    data[at : at + 2] = scale

    fault = fault_of(bytes(data), chunk_bytes)

    assert isinstance(fault.cause, InvalidTensorFileError)
    assert f"scale of group {group} is" in str(fault)


def test_a_scale_that_leaves_the_range_with_its_level_is_not_finite() -> None:
    data = bytearray(GOOD)
    data[-50:] = b"\x7f\x7f" + bytes(48)  # the largest scale, times the largest level
    fault = fault_of(bytes(data))
    assert isinstance(fault.cause, NonFiniteTensorError)
    assert fault.cause.tensor == "weight"


@pytest.mark.parametrize("chunk_bytes", [8, 64, 1 << 20])
@pytest.mark.parametrize("position", [60, 2, 1])
def test_a_changed_byte_is_found_wherever_it_is(chunk_bytes: int, position: int) -> None:
    data = bytearray(GOOD)
    data[-position] ^= 1  # one in the third group, and two codes that the last group does not use
    fault = fault_of(bytes(data), chunk_bytes, digest=digest_of(GOOD))
    assert isinstance(fault.cause, DigestMismatchError)


def test_a_quantised_file_is_no_plain_delta() -> None:
    with pytest.raises(ContributionFault, match="'embed' is missing"):
        fuse_bytes(BASE, [contribution("c7", GOOD)])
